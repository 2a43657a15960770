"""A worker: it loads the models, claims chunks, embeds and publishes them until none is left.

Both modes use it: `serve` gives a worker all tasks, `embed` gives it one.
"""

import logging
import os
import platform
import signal
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from virnuc_rules import __version__
from virnuc_rules.config.model import WorkerSettings
from virnuc_rules.embedding.tasks import Task
from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.files.atomic import replacing
from virnuc_rules.models.card import read_card
from virnuc_rules.planning.lacking import short_results
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.serving.lifetime import Lifetime
from virnuc_rules.serving.loading import Loader, Models, deadline
from virnuc_rules.serving.publisher import Publisher
from virnuc_rules.serving.worker_report import Memory, WorkerReport

if TYPE_CHECKING:  # torch takes seconds to import: a worker without tasks does not import it
    from virnuc_rules.embedding.embedding_file import Embeddings

logger = logging.getLogger(__name__)

CHUNKS_BETWEEN_CLEARINGS = 10  # of memory caches


class Exit(IntEnum):
    """Exit codes of `serve` and `embed`."""

    DRAINED = 0
    FAILED_CHUNKS = 1
    NO_MODELS = 2
    BAD_DEVICE = 3
    INTERRUPTED = 75  # EX_TEMPFAIL: try again


class Interrupted(Exception):
    """SIGTERM or SIGINT was received: stop after the micro-batch, release the claim."""


class BadDevice(Exception):
    """After a chunk failed, the self-check batch gave wrong numbers too."""


class Worker:
    """One process on one device: embeds the chunks of `tasks` until all are done or failed."""

    def __init__(
        self,
        settings: WorkerSettings,
        name: str,
        index: int,  # among the workers: `device: auto` spreads them over the devices
        tasks: dict[str, Task],
        minutes: float = 0,  # maximum duration of its job; 0 = no limit
    ) -> None:
        self.settings, self.name, self.index, self.tasks = settings, name, index, tasks
        self.lifetime = Lifetime(minutes, self._interrupt)
        self.interruption = ""
        self.loading = False
        self.models: Models
        self.report_path: Path | None = None

    def run(self, log: str = "", report: bool = True) -> Exit:
        """Embed until every task is done or has failed; return the exit code."""
        with Queue(
            self.settings.run.results, self.name, self.settings.serving.lease_seconds, log
        ) as queue:
            self.queue = queue
            self.report = self._new_report(queue)
            if report:
                self.report_path = queue.store.workers / f"{self.name}.json"
            try:
                with self._signals(), self.lifetime:
                    reason, code = self._work()
            except Interrupted:
                reason, code = self.interruption, Exit.INTERRUPTED
            except BadDevice:
                reason, code = "the device gives wrong numbers", Exit.BAD_DEVICE
            except ModelError as error:
                reason, code = f"models cannot be loaded: {error}", Exit.NO_MODELS
            except OSError as error:
                where = error.filename or self.settings.run.results
                reason = f"cannot go on: {where}: {error.strerror or error}"
                code = Exit.FAILED_CHUNKS
            unwritten = self._finish(reason)
        level = logging.ERROR if code != Exit.DRAINED or unwritten else logging.INFO
        logger.log(level, "worker %s: %s%s", self.name, reason, unwritten)
        return code

    def _new_report(self, queue: Queue) -> WorkerReport:
        now = datetime.now(UTC)
        return WorkerReport(
            worker=self.name,
            owner=queue.owner,
            pid=os.getpid(),
            host=socket.gethostname(),
            precision=self.settings.embedding.precision,
            versions={"virnuc_rules": __version__, "python": platform.python_version()},
            started=now,
            updated=now,
        )

    def _work(self) -> tuple[str, Exit]:
        store = self.queue.store
        self._discard_short_results()
        done = store.done(self.tasks)
        logger.info(
            "worker %s: %d chunks, %d done already, %d to do",
            self.name, len(self.tasks), len(done), len(self.tasks) - len(done),
        )  # fmt: skip
        if len(done) == len(self.tasks):
            self.queue.sweep(self.tasks)
            return "nothing left to do; no model was loaded", Exit.DRAINED
        self.models = self._load_within_deadline()
        with Publisher(self.queue, self.settings.embedding, self._published) as publisher:
            for claim in self.queue.drain(self.tasks):
                self._work_on(claim, publisher)
        if self.queue.interrupted.is_set() and len(store.done(self.tasks)) < len(self.tasks):
            raise Interrupted
        self.queue.sweep(self.tasks)
        return self._conclude()

    def _discard_short_results(self) -> None:
        """Make tasks pending whose result was cut; what else is damaged is seen when it is read."""
        done = [self.tasks[key] for key in self.queue.store.done(self.tasks)]
        for task in short_results(done, self.queue.store, read_card(self.settings.run.bundle)):
            path = self.queue.store.result(task.key)
            logger.warning("worker %s: %s: cut short; embedding it again", self.name, path)
            self.queue.store.forget(task.key)

    def _conclude(self) -> tuple[str, Exit]:
        """Log the tasks that have failed, in this worker or another one; return reason and code."""
        store = self.queue.store
        failures = [f for f in store.failed(self.tasks).values() if not store.is_done(f.key)]
        embedded = f"embedded {self.report.chunks} chunks, {self.report.open_frames} open frames"
        padding = self.report.padding / max(1, self.report.padding + self.report.tokens)
        logger.info("worker %s: padding was %.2f %% of the tokens", self.name, 100 * padding)
        if not failures:
            return embedded, Exit.DRAINED
        for failure in failures:
            logger.error(
                "chunk %s failed (attempt %d): %s (log: %s)",
                failure.task, failure.attempts, failure.error, failure.log,
            )  # fmt: skip
        summary = f"{embedded}; {len(failures)} failed"
        if self.settings.run.on_failed_chunks == "report":
            return f"{summary}, their windows become no_call", Exit.DRAINED
        return f"{summary}; mend the cause and run the same command again", Exit.FAILED_CHUNKS

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _: Any) -> None:
            self._interrupt(f"interrupted by {signal.Signals(number).name}")
            if self.loading:  # no claim is held, and loading can take minutes
                raise Interrupted

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, reason: str) -> None:
        logger.warning("worker %s: %s: stopping", self.name, reason)
        self.interruption = reason
        self.queue.interrupted.set()

    def _load_within_deadline(self) -> Models:
        """Load both models; end the process if that hangs. No claim is held yet."""
        seconds = self.settings.serving.load_timeout

        def give_up() -> None:
            reason = f"models cannot be loaded: not done after {seconds:g} s"
            logger.error("worker %s: %s", self.name, reason)
            self._finish(reason)
            logging.shutdown()
            os._exit(Exit.NO_MODELS)

        with deadline(seconds, give_up):
            self.loading = True
            try:
                return self._load()
            except (Interrupted, ModelError):
                raise
            except BaseException as error:  # a panic in Rust (tokenizers) is not an Exception
                logger.debug("%s", traceback.format_exc())
                raise ModelError(_one_line(error)) from error
            finally:
                self.loading = False

    def _load(self) -> Models:
        models = Loader(self.settings, self.name, self.report).load(self.index)
        self._save_report()
        return models

    def _work_on(self, claim: Claim, publisher: Publisher) -> None:
        """Embed one chunk and pass it to the publisher; record a failure of the chunk."""
        from virnuc_rules.embedding.embed import embed_chunk

        task, start = self.tasks[claim.key], time.monotonic()
        networks, settings = self.models.networks, self.settings.embedding
        try:
            result = embed_chunk(task.read(), networks, settings, self._stop_if_asked)
        except Interrupted:
            self.queue.release(claim)
            raise
        except Exception as error:
            publisher.settle()
            # If the device is broken, the chunk must not be recorded as failed.
            if not self.models.device_is_sound():
                self.queue.release(claim)
                raise BadDevice from error
            text = traceback.format_exc()
            self.queue.fail(claim, task.name, _one_line(error), text)
            logger.warning("worker %s: chunk %s failed: %s", self.name, task.name, _one_line(error))
            logger.debug("%s", text)
            self.report.failed_chunks += 1
            self._chunk_done()
        else:
            publisher.publish(claim, result)
        seconds = time.monotonic() - start
        self.report.seconds_computing += seconds
        self.lifetime.chunk_took(seconds)
        logger.info("worker %s: chunk %s: %.2f s", self.name, task.name, seconds)

    def _published(self, claim: Claim, result: "Embeddings") -> None:
        self.report.chunks += 1
        self.report.open_frames += len(result.ids)
        self.report.tokens += result.tokens
        self.report.padding += result.padding
        if result.notes:
            name = self.tasks[claim.key].name
            logger.warning("worker %s: chunk %s: %s", self.name, name, result.notes)
        self._chunk_done()

    def _chunk_done(self) -> None:
        self._clear_caches()
        self._measure_memory()
        self._save_report()

    def _stop_if_asked(self) -> None:
        if self.queue.interrupted.is_set():
            raise Interrupted

    def _clear_caches(self) -> None:
        """Free cached memory every few chunks, so that its size does not grow for days."""
        from virnuc_rules.models.device import clear_caches

        if self.report.tried % CHUNKS_BETWEEN_CLEARINGS == 0:
            clear_caches(self.models.networks.device)
            self.report.cache_clears += 1

    def _measure_memory(self) -> None:
        import torch

        on_device = torch.cuda.memory_reserved() / 1e6 if torch.cuda.is_available() else None
        resident = psutil.Process().memory_info().rss / 1e6
        self.report.add_memory(
            Memory(chunks=self.report.tried, resident=resident, device=on_device)
        )

    def _save_report(self) -> None:
        self.report.updated = datetime.now(UTC)
        self.report.seconds_waiting = self.queue.seconds_waiting
        if self.report_path:
            with replacing(self.report_path) as handle:
                handle.write(self.report.model_dump_json(indent=1) + "\n")

    def _finish(self, reason: str) -> str:
        """Save the reason of the end in the report; return a note where that is not possible."""
        self.report.exit_reason = reason
        try:
            self._save_report()
        except OSError as error:
            return f"; the report cannot be written: {error.strerror or error}"
        return ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, VirnucError) else f"{type(error).__name__}: {text}"
