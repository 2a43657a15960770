"""A task queue in a folder on a shared filesystem. State is a file's place; each step is one call.

Work is at-least-once and results are idempotent: two workers that do the same task write the same
bytes. No locks, no shared database, and never a comparison of two machines' clocks: a claim's file
holds a counter that its owner's heartbeat raises, and another worker takes the claim over only
after the counter stood still for `lease_seconds` of its own monotonic clock.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from virnuc_rules.files.atomic import replacing, sync_directory
from virnuc_rules.queue.claim_text import ClaimText, new_owner
from virnuc_rules.queue.store import Failure, Store, by_shard

_BEATS_PER_LEASE = 5
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
_FIRST_PAUSE = 0.05  # seconds between looks at what others hold; doubles up to a beat
_REST = 9  # a pause is at least so many times as long as the look before it


@dataclass(kw_only=True)
class Claim(ClaimText):
    """The right to work on `key`, held by a link `claims/<key>` to a file of this worker."""

    descriptor: int  # of the file, open for writing

    def beat(self) -> None:
        """Raise the counter. An error means that the file is gone: the claim was taken over."""
        self.beats += 1
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, self.content(), 0)
            os.fsync(self.descriptor)


@dataclass
class _Observed:
    """What another's claim looked like when we saw it change last, by our monotonic clock."""

    content: bytes
    since: float


class Interruption:
    """Ends `drain`. Like `threading.Event`, but its waiting thread's signal handler may set it."""

    def __init__(self) -> None:
        self._set = False
        self._wake: SimpleQueue[None] = SimpleQueue()  # its `put` is reentrant, Event's lock is not

    def set(self) -> None:
        """End the waiting, now and ever after."""
        self._set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is set."""
        if not self._set:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=seconds)


class Queue:
    """One worker's hands on the queue: claim, publish, fail, release; a thread keeps the heartbeat.

    Use it as a context manager. Claims that are still held at the end are released.
    """

    def __init__(self, results: Path, worker: str, lease_seconds: float, log: str = "") -> None:
        self.store = Store(results)
        self.worker, self.lease_seconds, self.log = worker, lease_seconds, log
        self.host = socket.gethostname()
        self.owner = new_owner(worker, self.host)
        self.seconds_waiting = 0.0
        self.held: dict[str, Claim] = {}
        self._observed: dict[str, _Observed] = {}
        self._number = itertools.count()
        self._lock = threading.Lock()  # guards `held` against the heartbeat's iteration
        self.interrupted = Interruption()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        for folder in (self.store.claims, self.store.failures, self.store.workers):
            folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for claim in list(self.held.values()):
            self.release(claim)
        self._closed.set()
        self._thread.join()

    def _heartbeat(self) -> None:
        while not self._closed.wait(self.lease_seconds / _BEATS_PER_LEASE):
            with self._lock:
                for claim in self.held.values():
                    claim.beat()

    def claim(self, key: str) -> Claim | None:
        """Try to get the right to work on a key; None where it is done or another's."""
        if self.store.is_done(key) or not self._take_over(key):
            return None
        number = next(self._number)
        target, name = self.store.claims / key, self._hidden(key, number)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        claim = Claim(key, self.owner, number, descriptor=descriptor)
        os.write(descriptor, claim.content())  # the first beat makes sure that others see it
        error = _link(name, target)
        # Only the link count tells the truth: NFS can lose the reply to a link that worked. It may
        # be above two, while another puts back what it took for a dead claim.
        mine = os.fstat(descriptor).st_nlink >= 2
        name.unlink(missing_ok=True)
        if not mine:
            os.close(descriptor)
            if error and error.errno in _NO_HARD_LINKS:
                raise error
            return None
        with self._lock:
            self.held[key] = claim
        if self.store.is_done(key):  # the owner before us published after our first look
            self.release(claim)
            return None
        return claim

    def _take_over(self, key: str) -> bool:
        """Tell whether nobody has a claim; another's is removed if its heartbeat has stopped."""
        before = time.monotonic()  # a slow read is no part of the time that it stood still
        try:
            content = (self.store.claims / key).read_bytes()
        except OSError:
            return True  # there is none
        seen = self._observed.get(key)
        if seen is None or seen.content != content:
            self._observed[key] = _Observed(content, time.monotonic())
            return False
        return before - seen.since >= self.lease_seconds and self._remove(key, content)

    def _remove(self, key: str, meant: bytes) -> bool:
        """Remove `claims/<key>` if it begins with `meant`; True if it did.

        The rename comes first: only one can win it, and nobody removes what it has not looked at.
        A claim that turns out to be another's is linked back. For a moment it was not there, and a
        third may have claimed the key: then two do the same work, which does no harm.
        """
        target, aside = self.store.claims / key, self._hidden(key, next(self._number))
        try:
            target.rename(aside)
            found = aside.read_bytes().startswith(meant)
        except OSError:
            return False
        if not found:
            with contextlib.suppress(OSError):
                os.link(aside, target)
        aside.unlink(missing_ok=True)
        return found

    def release(self, claim: Claim) -> None:
        """Give a claim up; the task is as its files say: done, failed or pending."""
        with self._lock:
            self.held.pop(claim.key, None)
        self._remove(claim.key, claim.beginning)
        os.close(claim.descriptor)

    def publish(self, claim: Claim, write: Callable[[Path], None]) -> None:
        """Store the result: `write` fills a temporary file, which then takes its place at once.

        `write` must open the file once only: should it be swept away, the rest must not look whole.
        The file and the folder are on disk before the claim is released. A result that another has
        published meanwhile is replaced by the same bytes.
        """
        target = self.store.result(claim.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{claim.key}.{self.owner}.partial")
        try:
            write(partial)
            with partial.open("rb") as handle:
                os.fsync(handle.fileno())
            partial.replace(target)
        except FileNotFoundError:
            if not target.exists():  # else a worker that saw it done has swept ours away
                raise
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(target.parent)
        (self.store.failures / f"{claim.key}.json").unlink(missing_ok=True)
        self.release(claim)

    def fail(self, claim: Claim, task: str, error: str, traceback: str) -> Failure:
        """Record that the task failed, count the attempt, and release the claim."""
        before = self.store.failure(claim.key)
        failure = Failure(
            key=claim.key,
            task=task,
            error=error,
            traceback=traceback,
            worker=self.worker,
            host=self.host,
            log=self.log,
            attempts=1 + (before.attempts if before else 0),
        )
        with replacing(self.store.failures / f"{claim.key}.json") as handle:
            handle.write(failure.model_dump_json(indent=1) + "\n")
        self.release(claim)
        return failure

    def drain(self, keys: Iterable[str]) -> Iterator[Claim]:
        """Yield claims until every key is done or has failed; the caller ends each before the next.

        A key that had failed before this call gets one more try, by whichever worker claims it
        first. Keys that others hold are waited for: should their owner die, we take them over.
        """
        for step in self.steps(keys):
            if isinstance(step, Claim):
                yield step
            else:
                self.interrupted.wait(step)
                self.seconds_waiting += step

    def steps(self, keys: Iterable[str]) -> Iterator[Claim | float]:
        """Do as `drain` says, but yield how many seconds to wait where it would wait."""
        shards = by_shard(keys)
        failed_before = self._attempts(itertools.chain.from_iterable(shards.values()))
        # Workers begin at different places, so that they meet late.
        order = sorted(
            shards, key=lambda shard: hashlib.sha256((shard + self.owner).encode()).digest()
        )
        pause = _FIRST_PAUSE
        while shards and not self.interrupted.is_set():
            begun, idle = time.monotonic(), True
            for shard in filter(shards.__contains__, order):
                for key in self._open(shard, shards, failed_before):
                    if self.interrupted.is_set():
                        return
                    claim = self.claim(key)
                    failure = self.store.failure(key) if claim else None
                    if claim and (failure and failure.attempts) != failed_before.get(key):
                        self.release(claim)  # another has just tried it and failed
                    elif claim:
                        pause, idle = _FIRST_PAUSE, False
                        yield claim
            if shards and idle:
                # Those who wait leave the filesystem to those who work.
                rest = _REST * (time.monotonic() - begun)
                yield min(max(pause, rest), self.lease_seconds)
                pause = min(2 * pause, self.lease_seconds / _BEATS_PER_LEASE)

    def _open(
        self, shard: str, shards: dict[str, list[str]], failed_before: dict[str, int]
    ) -> list[str]:
        """Return the keys of a shard that are neither done nor given up; forget the others."""
        keys = shards.pop(shard)
        done, attempts = self.store.done(keys), self._attempts(keys)
        left = [k for k in keys if k not in done and attempts.get(k) == failed_before.get(k)]
        if left:
            shards[shard] = left
        return left

    def _attempts(self, keys: Iterable[str]) -> dict[str, int]:
        """Return how often each of those keys was tried that have failed."""
        return {key: failure.attempts for key, failure in self.store.failed(keys).items()}

    def sweep(self, keys: Iterable[str]) -> None:
        """Remove what killed workers left of tasks that are done: claims and partial files.

        Safe beside living workers: what they hold of a task that is done is of no use any more.
        """
        done = self.store.done(keys)
        for folder in (self.store.claims, self.store.failures):
            for path in folder.iterdir():
                if path.name.strip(".").split(".")[0] in done:
                    path.unlink(missing_ok=True)
        for shard in by_shard(done):
            for path in (self.store.embeddings / shard).glob(".*.partial"):
                if path.name.split(".")[1] in done:
                    path.unlink(missing_ok=True)

    def _hidden(self, key: str, number: int) -> Path:
        """Return a name that nobody else uses: where a claim begins, or is put aside."""
        return self.store.claims / ClaimText(key, self.owner, number).identity


def _link(source: Path, target: Path) -> OSError | None:
    try:
        os.link(source, target)
    except OSError as error:
        return error
    return None
