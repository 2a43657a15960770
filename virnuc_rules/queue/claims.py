"""A task queue in a folder on a shared filesystem. Paths are states; each step is one system call.

Work is at-least-once and results are idempotent: two workers that do the same task write the same
bytes. There are no locks and no database, and the clocks of two machines are never compared: the
file of a claim holds a counter that its owner's heartbeat raises, and another worker takes the
claim over only after the counter stood still for `lease_seconds` of its own monotonic clock.
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

from virnuc_rules.files.atomic import sync_directory, write_json
from virnuc_rules.queue.claim_text import ClaimText, new_owner
from virnuc_rules.queue.store import Failure, Store, by_shard

_BEATS_PER_LEASE = 5
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
_FIRST_PAUSE = 0.05  # seconds between two rounds over the keys; doubles up to a beat
_REST = 9  # a pause is at least this many times as long as the round before it


@dataclass(kw_only=True)
class Claim(ClaimText):
    """The right to work on `key`, held by a link `claims/<key>` to a file of this worker."""

    descriptor: int  # of the file, open for writing

    def beat(self) -> None:
        """Raise the counter. An error means that the file was removed: the claim was taken over."""
        self.beats += 1
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, self.content(), 0)
            os.fsync(self.descriptor)


class Interruption:
    """Ends `drain`. An Event that a signal handler of the waiting thread may set, too."""

    def __init__(self) -> None:
        self._set = False
        self._wake: SimpleQueue[None] = SimpleQueue()  # reentrant, unlike the lock of Event

    def set(self) -> None:
        """End every `wait`, also later ones."""
        self._set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Wait until it is set, at most `seconds`."""
        if not self._set:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=seconds)


class Queue:
    """A worker's handle on the queue: claim, publish, fail, release; a thread is the heartbeat.

    A context manager: at its end, claims that are still held are released.
    """

    def __init__(self, results: Path, worker: str, lease_seconds: float, log: str = "") -> None:
        self.store = Store(results)
        self.worker, self.lease_seconds, self.log = worker, lease_seconds, log
        self.host = socket.gethostname()
        self.owner = new_owner(worker, self.host)
        self.seconds_waiting = 0.0
        self.held: dict[str, Claim] = {}
        # Claims of other workers: content, and since when it is unchanged by our monotonic clock.
        self._observed: dict[str, tuple[bytes, float]] = {}
        self._index = itertools.count()
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
        """Try to claim a key; None if it is done or held by another worker."""
        if self.store.is_done(key) or not self._take_over(key):
            return None
        index = next(self._index)
        name = self._hidden(key, index)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        claim = Claim(key, self.owner, index, descriptor=descriptor)
        os.write(descriptor, claim.content())  # the first beat flushes it for other machines
        error: OSError | None = None
        try:
            os.link(name, self.store.claims / key)
        except OSError as failure:
            error = failure
        # Only the link count is reliable: NFS can lose the reply to a link that worked. It may be
        # above two while another worker links back a claim that it took for dead.
        owned = os.fstat(descriptor).st_nlink >= 2
        name.unlink(missing_ok=True)
        if not owned:
            os.close(descriptor)
            if error and error.errno in _NO_HARD_LINKS:
                raise error
            return None
        with self._lock:
            self.held[key] = claim
        if self.store.is_done(key):  # the previous owner published after our first check
            self.release(claim)
            return None
        return claim

    def _take_over(self, key: str) -> bool:
        """Tell whether the key is unclaimed; removes a claim whose heartbeat has stopped."""
        before = time.monotonic()  # the duration of the read must not count as standing still
        try:
            content = (self.store.claims / key).read_bytes()
        except OSError:
            return True
        observed, since = self._observed.get(key, (None, 0.0))
        if observed != content:
            self._observed[key] = content, time.monotonic()
            return False
        return before - since >= self.lease_seconds and self._remove(key, content)

    def _remove(self, key: str, beginning: bytes) -> bool:
        """Remove `claims/<key>` if its content begins with `beginning`; True if it did.

        The rename comes first: only one worker can win it, and no worker removes a claim that it
        has not read. A claim with other content is linked back. It was missing for a moment, in
        which a third worker may have claimed the key: then two do the same work, which is harmless.
        """
        target, aside = self.store.claims / key, self._hidden(key, next(self._index))
        try:
            target.rename(aside)
            is_meant = aside.read_bytes().startswith(beginning)
        except OSError:
            return False
        if not is_meant:
            with contextlib.suppress(OSError):
                os.link(aside, target)
        aside.unlink(missing_ok=True)
        return is_meant

    def release(self, claim: Claim) -> None:
        """Give a claim up. The task is then done, failed or pending, depending on its files."""
        with self._lock:
            self.held.pop(claim.key, None)
        self._remove(claim.key, claim.beginning)
        os.close(claim.descriptor)

    def publish(self, claim: Claim, write: Callable[[Path], None]) -> None:
        """Store the result: `write` fills a temporary file, which is then renamed.

        `write` must open the file only once: if `sweep` removes the file, a second open would make
        an incomplete one. The file and the folder are on disk before the claim is released. A
        result that another worker has published is replaced by the same bytes.
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
            if not target.exists():  # otherwise another worker published it and swept our file
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
        write_json(self.store.failures / f"{claim.key}.json", failure)
        self.release(claim)
        return failure

    def drain(self, keys: Iterable[str]) -> Iterator[Claim]:
        """Yield claims until every key is done or failed; the caller ends each before the next.

        A key that failed before this call is tried once more, by the first worker that claims it.
        Keys held by other workers are waited for, and taken over if their owner is killed.
        """
        for step in self.steps(keys):
            if isinstance(step, Claim):
                yield step
            else:
                self.interrupted.wait(step)
                self.seconds_waiting += step

    def steps(self, keys: Iterable[str]) -> Iterator[Claim | float]:
        """Like `drain`, but yield the seconds to wait instead of waiting."""
        shards = by_shard(keys)
        failed_before = self._attempts(itertools.chain.from_iterable(shards.values()))
        # Each worker has its own order of shards, so that two rarely try the same key.
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
                        self.release(claim)  # another worker has just tried it and failed
                    elif claim:
                        pause, idle = _FIRST_PAUSE, False
                        yield claim
            if shards and idle:
                # Waiting workers must leave the filesystem to the working ones.
                rest = _REST * (time.monotonic() - begun)
                yield min(max(pause, rest), self.lease_seconds)
                pause = min(2 * pause, self.lease_seconds / _BEATS_PER_LEASE)

    def _open(
        self, shard: str, shards: dict[str, list[str]], failed_before: dict[str, int]
    ) -> list[str]:
        """Return the keys of a shard that are still to do; drop the other keys from `shards`."""
        keys = shards.pop(shard)
        done, attempts = self.store.done(keys), self._attempts(keys)
        left = [k for k in keys if k not in done and attempts.get(k) == failed_before.get(k)]
        if left:
            shards[shard] = left
        return left

    def _attempts(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the number of attempts of each key that failed."""
        return {key: failure.attempts for key, failure in self.store.failed(keys).items()}

    def sweep(self, keys: Iterable[str]) -> None:
        """Remove files that killed workers left of done tasks: claims, failures, partial files.

        Safe while workers run: they do not need these files of a task that is done.
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

    def _hidden(self, key: str, index: int) -> Path:
        """Return a path that no other worker uses, to create a claim or to move one to."""
        return self.store.claims / ClaimText(key, self.owner, index).identity
