"""A worker: it loads the models, claims chunks, embeds and publishes them until none is left.

Both modes use it: `serve` gives a worker all tasks, `embed` gives it one.
"""

import faulthandler
import logging
import os
import threading
import time
import traceback
from enum import IntEnum
from typing import TYPE_CHECKING

from virnuc_rules.config.model import WorkerSettings
from virnuc_rules.embedding.tasks import Task
from virnuc_rules.errors import EnvironmentProblem, ModelError, VirnucError, one_line
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.files.probe import probe
from virnuc_rules.planning.lacking import short_results
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.store import ATTEMPTS
from virnuc_rules.serving.lifetime import Interrupted, Lifetime
from virnuc_rules.serving.loading import Loaded, Loader
from virnuc_rules.serving.lost import describe
from virnuc_rules.serving.publisher import Publisher
from virnuc_rules.serving.reporter import Reporter

if TYPE_CHECKING:  # torch takes seconds to import: a worker without tasks does not import it
    from virnuc_rules.embedding.embedding_file import Result

logger = logging.getLogger(__name__)

CHUNKS_BETWEEN_CLEARINGS = 10  # of memory caches
_PAUSES = (1.0, 2.0)  # seconds after errors of the environment that follow each other
_TELLS = 30.0, 1800.0  # seconds to a line on the terminal; doubled after each, at most
_SECONDS_TO_LEAVE = 5.0  # for releasing claims when the process ends by force


class Exit(IntEnum):
    """Exit codes of `serve` and `embed`."""

    DRAINED = 0
    FAILED_CHUNKS = 1
    NO_MODELS = 2
    BAD_DEVICE = 3
    TRY_AGAIN = 75  # EX_TEMPFAIL: interrupted, or an error of the environment


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
        log: str = "",  # for messages
        has_report: bool = True,
        begins: bool = True,  # the run: what failed in an earlier one is tried again
    ) -> None:
        self.settings, self.name, self.index, self.tasks = settings, name, index, tasks
        self.begins = begins
        self.queue = Queue(settings.run.results, name, settings.serving.lease_seconds, log)
        self.reporter = Reporter(self.queue, settings, has_report)
        self.report = self.reporter.report
        self.lifetime = Lifetime(minutes, self._interrupt, self._end_by_force, self.queue.hangs)
        self.interruption = ""
        self.loaded: Loaded | None = None
        self.failed = set[str]()  # tasks that this worker saw fail for the last time
        self.ended = 0  # tasks of the run, as far as this worker knows
        self.silence, self.told = _TELLS[0], time.monotonic()
        self.problems = 0  # of the environment, since the last chunk that was published

    def run(self) -> Exit:
        """Embed until every task is done or has failed; return the exit code."""
        with self.lifetime, self.queue:
            reason, code = self._outcome()
            unwritten = self.reporter.finish(reason)
        level = logging.ERROR if code != Exit.DRAINED or unwritten else logging.INFO
        logger.log(level, "worker %s: %s%s", self.name, reason, unwritten)
        return code

    def _outcome(self) -> tuple[str, Exit]:
        try:
            while True:
                try:
                    return self._work()
                except (OSError, EnvironmentProblem) as error:
                    if not self.queue.outages.outlast(error):
                        raise
        except Interrupted:
            return self.interruption, Exit.TRY_AGAIN
        except BadDevice:
            return "the device gives wrong numbers", Exit.BAD_DEVICE
        except ModelError as error:
            return f"models cannot be loaded: {error}", Exit.NO_MODELS
        except (OSError, VirnucError) as error:
            if self.interruption:
                return self.interruption, Exit.TRY_AGAIN
            problem = environment_problem(error, self.settings.run.results)
            if problem:
                return f"cannot go on: {problem}", Exit.TRY_AGAIN
            return f"cannot go on: {one_line(error)}", Exit.FAILED_CHUNKS

    def _work(self) -> tuple[str, Exit]:
        if self.begins and not self.queue.store.claimed():  # else another one has begun it
            self.queue.store.begin(self.tasks)
        self.begins = False
        self._set_short_results_aside()
        left = self._left()
        self.ended = len(self.tasks) - len(left)
        logger.info("worker %s: %d chunks, %d to do", self.name, len(self.tasks), len(left))
        if left:
            loaded = self.loaded or self._load_within_deadline()
            with Publisher(self.queue, self.settings.embedding, self._published) as publisher:
                self._embed_all(loaded, publisher)
            if self.queue.interrupted.is_set() and self._left():
                raise Interrupted
        self.queue.store.sweep(self.tasks)
        if self.loaded is None:
            return self._conclude("nothing left to do; no model was loaded")
        padding = self.report.padding / max(1, self.report.padding + self.report.tokens)
        logger.debug("worker %s: padding was %.2f %% of the tokens", self.name, 100 * padding)
        counts = f"{self.report.chunks} chunks, {self.report.open_frames} open frames"
        return self._conclude(f"embedded {counts}")

    def _left(self) -> set[str]:
        """Return the keys of the tasks that are neither done nor failed."""
        store = self.queue.store
        return self.tasks.keys() - store.done(self.tasks) - store.failed(self.tasks).keys()

    def _set_short_results_aside(self) -> None:
        """Make tasks pending whose result was cut; what else is damaged is seen when it is read."""
        store = self.queue.store
        done = [self.tasks[key] for key in store.done(self.tasks)]
        for task in short_results(done, store):
            if not short_results([task], store):
                continue  # another worker has just made it again
            aside = store.set_aside(task.key)
            logger.warning(
                "worker %s: %s: cut short, moved to %s; embedding it again",
                self.name, store.result(task.key), aside,
            )  # fmt: skip

    def _conclude(self, did: str) -> tuple[str, Exit]:
        """Log the tasks that have failed, in this worker or another one; return reason and code."""
        store = self.queue.store
        failures = [f for f in store.failed(self.tasks).values() if not store.is_done(f.key)]
        gone = self.failed - {failure.key for failure in failures}
        if any(not store.is_done(key) for key in gone):
            return f"{did}; another run has begun, which tries what failed again", Exit.TRY_AGAIN
        if not failures:
            return did, Exit.DRAINED
        for failure in failures:
            logger.error("chunk %s failed: %s (log: %s)", failure.task, failure.error, failure.log)
        summary = f"{did}; {len(failures)} failed"
        if self.settings.run.on_failed_chunks == "report":
            return f"{summary}, their windows become no_call", Exit.DRAINED
        return f"{summary}; mend the cause and run the same command again", Exit.FAILED_CHUNKS

    def _interrupt(self, reason: str) -> None:
        self.interruption = reason
        self.queue.interrupted.set()
        logger.warning("worker %s: %s: stopping", self.name, reason)

    def _end_by_force(self, reason: str, code: int = Exit.TRY_AGAIN) -> None:
        """End the process although its main thread hangs; in seconds, whatever else hangs too."""
        self.queue.interrupted.set()  # a main thread that wakes claims nothing more

        def leave() -> None:
            self.queue.release_all()
            logger.error("worker %s: %s", self.name, reason)
            self.reporter.finish(reason)
            faulthandler.dump_traceback()  # where it hung
            logging.shutdown()

        thread = threading.Thread(target=leave, daemon=True)
        thread.start()
        thread.join(_SECONDS_TO_LEAVE)
        os._exit(code)

    def _load_within_deadline(self) -> Loaded:
        """Load both models, once; end the process if that hangs. No claim is held yet."""
        probe(self.queue.probed)
        seconds = self.settings.serving.load_timeout
        hangs = f"models cannot be loaded: not done after {seconds:g} s"
        with self.lifetime.limited(seconds, lambda: self._end_by_force(hangs, Exit.NO_MODELS)):
            self.loaded = Loader(self.settings, self.name, self.report).load(self.index)
        self.reporter.save()
        return self.loaded

    def _embed_all(self, loaded: Loaded, publisher: Publisher) -> None:
        """Drain the queue. Errors of the environment may pass: begin again after a pause."""
        while True:
            try:
                for claim in self.queue.drain(self.tasks, self.index):
                    try:
                        self._work_on(claim, loaded, publisher)
                    except BaseException:
                        self.queue.release(claim)
                        raise
                publisher.settle()
                return
            except (OSError, EnvironmentProblem) as error:
                if self.queue.outages.outlast(error):
                    self.problems = 0
                    continue
                problem = environment_problem(error, self.settings.run.results)
                if problem is None or self.problems >= len(_PAUSES):
                    raise problem or error from error
                pause = _PAUSES[self.problems]
                self.problems += 1
                logger.warning("worker %s: %s; going on in %g s", self.name, problem, pause)
            self.queue.interrupted.wait(pause)

    def _work_on(self, claim: Claim, loaded: Loaded, publisher: Publisher) -> None:
        """Embed one chunk and pass it to the publisher; record a failure of the chunk."""
        from virnuc_rules.embedding.embed import embed_chunk

        task, start = self.tasks[claim.key], time.monotonic()
        if claim.lost:
            logger.warning("chunk %s: %s", task.name, describe(claim.lost))
        self.report.retried_chunks += bool(claim.attempts or claim.lost)
        if claim.is_suspect:
            publisher.settle()  # nothing else shall be lost with it
        if claim.is_poison:
            self._fail(claim, describe(claim.lost), "", last=True)
            return
        self.queue.pace.begin()
        try:
            chunk = task.read()
            self.queue.pace.step()
            embeddings = embed_chunk(chunk, loaded.networks, self.settings.embedding, self._step)
            kept = loaded.kept(embeddings)
        except (Interrupted, ModelError):
            raise
        except Exception as error:
            if problem := environment_problem(error, task.path):
                self.queue.postponed.add(claim.key)
                raise problem from error
            publisher.settle()
            # If the device is broken, the chunk must not be recorded as failed.
            if not loaded.device_is_sound():
                raise BadDevice from error
            cause = one_line(error)
            if not isinstance(error, VirnucError):
                cause = f"{type(error).__name__}: {cause}"
            self._fail(claim, cause, traceback.format_exc())
        else:
            publisher.publish(claim, kept)
        self.queue.pace.done()
        seconds = time.monotonic() - start
        self.report.seconds_first_chunk = self.report.seconds_first_chunk or seconds
        self.report.seconds_computing += seconds
        self.lifetime.chunk_took(seconds)
        self._tell(task, seconds)

    def _tell(self, task: Task, seconds: float) -> None:
        """Log a chunk to the file, and now and then, with those of other workers, to the terminal.

        Which of all chunks it is, is known when the results have been listed; then only its own are
        counted.
        """
        self.ended, level, now = self.ended + 1, logging.DEBUG, time.monotonic()
        if now - self.told >= self.silence:
            self.silence, self.told, level = min(2 * self.silence, _TELLS[1]), now, logging.INFO
            self.ended = max(self.ended, len(self.tasks) - len(self._left()))
        logger.log(
            level, "worker %s: chunk %d of %d: %s: %.2f s",
            self.name, min(self.ended, len(self.tasks)), len(self.tasks), task.name, seconds,
        )  # fmt: skip

    def _step(self) -> None:
        self.queue.pace.step()
        if self.queue.interrupted.is_set():
            raise Interrupted

    def _fail(self, claim: Claim, cause: str, text: str, last: bool = False) -> None:
        name = self.tasks[claim.key].name
        failure = self.queue.fail(claim, name, cause, text, last)
        logger.warning("worker %s: chunk %s failed: %s", self.name, name, cause)
        logger.debug("%s", text)
        if failure.attempts == ATTEMPTS:  # else it will be tried again
            self.failed.add(claim.key)
            self.report.failed_chunks += 1
            self._chunk_done()

    def _published(self, claim: Claim, result: "Result") -> None:
        self.problems = 0
        self.report.chunks += 1
        self.report.open_frames += len(result.ids)
        self.report.tokens += result.tokens
        self.report.padding += result.padding
        if result.notes:
            name = self.tasks[claim.key].name
            logger.warning("worker %s: chunk %s: %s", self.name, name, result.notes)
        self._chunk_done()

    def _chunk_done(self) -> None:
        """Free cached memory every few chunks, so that its size does not grow for days; report."""
        if self.report.tried % CHUNKS_BETWEEN_CLEARINGS == 0:
            from virnuc_rules.models.device import choose_device, clear_caches

            clear_caches(choose_device(self.settings.compute.device, self.index))
            self.report.cache_clears += 1
        self.reporter.chunk_done()
