"""A task queue in a folder on a shared filesystem. Paths are states; each step is one system call.

Work is at-least-once and results are idempotent: two workers that do the same task write the same
bytes. There are no locks and no database, and the clocks of two machines are never compared: the
file of a claim holds two counters, of its owner's life and of its work. Another worker takes the
claim over only after it saw, by its own monotonic clock, the first stand still for `lease_seconds`,
or the second for longer than the owner wrote beside it.
"""

import contextlib
import errno
import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from virnuc_rules.files.atomic import sync_directory, write_json
from virnuc_rules.files.environment import cause
from virnuc_rules.queue.claim_text import MAX_NAME, ClaimText, new_owner
from virnuc_rules.queue.pace import BEATS_PER_LEASE, PATIENCE, Pace
from virnuc_rules.queue.rounds import Rounds
from virnuc_rules.queue.store import ATTEMPTS, POISON, SUSPECT, Failure, Store
from virnuc_rules.queue.waiting import LONGEST_OUTAGE, Interruption, Outages
from virnuc_rules.queue.watched import Watched


@dataclass(kw_only=True)
class Claim(ClaimText):
    """The right to work on `key`, held by a link `claims/<key>` to a file of this worker."""

    descriptor: int  # of the file, open for writing
    attempts: int = 0  # that failed before, in this run
    lost: list[ClaimText] = field(default_factory=list)  # earlier claims, with their workers

    @property
    def is_suspect(self) -> bool:
        """Tell whether the task must be worked on alone, so that nothing else is lost with it."""
        return len(self.lost) >= SUSPECT

    @property
    def is_poison(self) -> bool:
        """Tell whether the task has cost so many workers that it must not be tried again."""
        return len(self.lost) >= POISON

    def beat(self, pace: Pace) -> None:
        """Raise the counters. An error means that the file was removed: the claim is not ours."""
        self.life += 1
        self.work, self.still, self.limit = pace.steps, int(pace.still()), int(pace.limit())
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, self.content(), 0)
            os.fsync(self.descriptor)


class Queue:
    """A worker's handle on the queue: claim, publish, fail, release; a thread is the heartbeat.

    A context manager: at its end, claims that are still held are released. All methods raise
    OSError where the filesystem does; the task is then pending, or another worker finds it so.
    """

    def __init__(self, results: Path, worker: str, lease_seconds: float, log: str = "") -> None:
        self.store = Store(results)
        self.worker, self.lease_seconds, self.log = worker, lease_seconds, log
        self.host = socket.gethostname()
        self.owner = new_owner(worker, self.host)
        self.pace = Pace(lease_seconds)
        self.seconds_waiting = self.seconds_publishing = 0.0
        self.lost_workers = 0  # whose claims were taken over
        self.held: dict[str, Claim] = {}
        self.postponed = set[str]()  # tasks that went wrong here: others shall try them first
        self.interrupted = Interruption()
        self.probed = self.store.workers / f"{worker[:MAX_NAME]}.probe"  # see `probe`
        self.outages = Outages(worker, self.probed, self.interrupted, self.pace.step)
        self.obstacle = ""  # why a claim of a lost worker could not be removed
        self._unreleased = deque[Claim]()  # the filesystem refused; the heartbeat tries again
        self._beating: float | None = None  # since when, while it waits for the filesystem
        self.watched = Watched(lease_seconds)
        self._unreadable: dict[str, float] = {}  # claims, and since when
        self._index = itertools.count()
        self._lock = threading.Lock()  # guards `held` against the heartbeat's iteration
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        store = self.store
        for folder in (store.claims, store.failures, store.lost, store.finished, store.workers):
            folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self.release_all()
        self._retry_releases()

    def release_all(self) -> None:
        """Give up all claims."""
        for claim in list(self.held.values()):
            self.release(claim)

    def _heartbeat(self) -> None:
        while not self._closed.wait(self.lease_seconds / BEATS_PER_LEASE):
            self._beating = begun = time.monotonic()
            with self._lock:
                for claim in self.held.values():
                    claim.beat(self.pace)
            self.pace.forgive(time.monotonic() - begun)  # before `hangs` forgives it no more
            self._beating = None
            self._retry_releases()

    def hangs(self, away: float = 0.0) -> str:
        """Say for how long the work on what is held has stood still, where that is too long.

        away: seconds since the last call in which this process was stopped as a whole. While the
        heartbeat waits for the filesystem, which it only writes a line to, so may the work.
        """
        self.pace.forgive(away)
        blocked = time.monotonic() - since if (since := self._beating) else 0.0
        still, limit = self.pace.still() - min(blocked, LONGEST_OUTAGE), self.pace.limit()
        is_long = bool(self.held) and still > limit
        return f"no progress for {still:.0f} s (limit {limit:.0f} s)" if is_long else ""

    def claim(self, key: str) -> Claim | None:
        """Try to claim a key; None if it is done or held by another worker."""
        if not self._take_over(key):
            return None
        claim = self._link(key)
        if claim is None:
            return None
        self.watched.seen.pop(key, None)
        try:
            if self.store.is_done(key):  # the previous owner has published it
                self.release(claim)
                return None
            claim.attempts = self.store.attempts_of(key)
            claim.lost = self.store.lost_claims(key)
        except BaseException:
            self.release(claim)
            raise
        return claim

    def _link(self, key: str) -> Claim | None:
        """Create the file of a claim; None if another worker was quicker."""
        claim = Claim(
            key=key, owner=self.owner, index=next(self._index), descriptor=-1,
            limit=int(self.pace.limit()), log=" ".join(self.log.split()),
        )  # fmt: skip
        name = self.store.claims / claim.identity
        claim.descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        failure: OSError | None = None
        try:
            os.write(claim.descriptor, claim.content())  # the first beat flushes it for others
            os.link(name, self.store.claims / key)
        except OSError as error:
            failure = error
        # Only the link count is reliable: NFS can lose the reply to a link that worked. It may be
        # above two while another worker links back a claim that it took for dead.
        try:
            owned = os.fstat(claim.descriptor).st_nlink >= 2
        except OSError:  # it may be ours, and nobody would know
            self._unreleased.append(claim)
            raise
        with contextlib.suppress(OSError):  # `sweep` removes it
            name.unlink()
        if owned:
            with self._lock:
                if not self.held:
                    self.pace.begin()  # waiting for work was no step of it
                self.held[key] = claim
            return claim
        os.close(claim.descriptor)
        if failure and failure.errno != errno.EEXIST:
            failure.filename = failure.filename or str(name)  # writing by a descriptor has none
            raise failure
        return None

    def _take_over(self, key: str) -> bool:
        """Tell whether the key is unclaimed; removes the claim of a worker that is lost."""
        path = self.store.claims / key
        try:
            seen = self.watched.look(path)
        except OSError:  # only a missing file means that there is no claim
            now = time.monotonic()
            if now - self._unreadable.setdefault(key, now) < PATIENCE * self.lease_seconds:
                return False
            raise
        self._unreadable.pop(key, None)
        if seen is None:
            if path.is_symlink():  # to nothing: not of ours
                path.unlink(missing_ok=True)
            return True
        if not seen.is_lost(self.lease_seconds):
            return False
        return self._remove(key, seen.content, keep=seen.claim is not None)

    def _remove(self, key: str, beginning: bytes, keep: bool = False) -> bool:
        """Remove `claims/<key>` if its content begins with `beginning`; True if it did.

        `keep`: as the record that a worker was lost with this task. The rename comes first: only
        one worker can win it, and no worker removes a claim that it has not read. A claim with
        other content is linked back. It was missing for a moment, in which a third worker may have
        claimed the key: then two do the same work, which is harmless.
        """
        aside = self.store.claims / ClaimText(
            key=key, owner=self.owner, index=next(self._index)
        ).identity  # fmt: skip
        target = self.store.claims / key
        try:
            target.rename(aside)
        except FileNotFoundError:
            return False
        except OSError as error:
            if not aside.exists():
                self.obstacle = f"{target}: {cause(error) or error}"
                return False
        is_meant = False
        with contextlib.suppress(OSError):
            content = aside.read_bytes()
            is_meant = content == beginning or (bool(beginning) and content.startswith(beginning))
        if not is_meant:
            with contextlib.suppress(OSError):
                os.link(aside, target)
        elif keep:
            self.lost_workers += 1
            with contextlib.suppress(OSError):
                self.store.add_loss(key, aside)
        with contextlib.suppress(OSError):  # `sweep` removes it
            aside.unlink()
        return is_meant

    def release(self, claim: Claim) -> None:
        """Give a claim up. The task is then done, failed or pending, depending on its files.

        Where the filesystem refuses, the heartbeat tries again; meanwhile another worker may take
        the claim over. It then counts no loss: what it keeps is the file of the claim, now empty.
        """
        with self._lock:
            if self.held.pop(claim.key, None) is None:
                return
        self._unreleased.append(claim)
        self._retry_releases()

    def _retry_releases(self) -> None:
        """Remove claims that are given up; those that cannot be removed now are kept in mind."""
        for _ in range(len(self._unreleased)):
            with contextlib.suppress(IndexError):  # two threads may be here
                claim = self._unreleased.popleft()
                try:
                    if not self._remove(claim.key, claim.beginning):
                        os.ftruncate(claim.descriptor, 0)
                except OSError:
                    self._unreleased.append(claim)
                else:
                    os.close(claim.descriptor)

    def publish(self, claim: Claim, write: Callable[[Path], None]) -> None:
        """Store the result: `write` fills a temporary file, which is then renamed.

        `write` must open the file only once: if `sweep` removes the file, a second open would make
        an incomplete one. The file and the folder are on disk before the claim is released. A
        result that another worker has published is replaced by the same bytes.
        """
        begun, target = time.monotonic(), self.store.result(claim.key)
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
            with contextlib.suppress(OSError):
                partial.unlink()
        sync_directory(target.parent)
        for number in range(1, ATTEMPTS + 1):
            self.store.attempt(claim.key, number).unlink(missing_ok=True)
        self.release(claim)
        self.seconds_publishing += time.monotonic() - begun

    def fail(
        self, claim: Claim, task: str, error: str, traceback: str, last: bool = False
    ) -> Failure:
        """Record that an attempt failed, and release the claim; `last`: try it no more."""
        number = ATTEMPTS if last else min(claim.attempts + 1, ATTEMPTS)
        failure = Failure(
            key=claim.key,
            task=task,
            error=error,
            traceback=traceback,
            worker=self.worker,
            host=self.host,
            log=self.log,
            attempts=number,
        )
        write_json(self.store.attempt(claim.key, number), failure)
        self.postponed.add(claim.key)
        self.release(claim)
        return failure

    def drain(self, keys: Iterable[str], index: int = 0) -> Iterator[Claim]:
        """Yield claims until every key is done or failed; the caller ends each before the next.

        Keys held by other workers are waited for, and taken over if their owner is lost. But a
        worker with an `index` above their number leaves where these owners are seen to live: as
        many workers wait as there are tasks that may need one.
        """
        for step in self.steps(keys, index):
            if isinstance(step, Claim):
                yield step
            else:
                self.interrupted.wait(step)
                self.seconds_waiting += step

    def steps(self, keys: Iterable[str], index: int = 0) -> Iterator[Claim | float]:
        """Like `drain`, but yield the seconds to wait instead of waiting."""
        return Rounds(self, keys, index).steps()

    def is_seen_alive(self, key: str) -> bool:
        """Tell whether the owner of a claim was seen to live."""
        seen = self.watched.seen.get(key)
        return seen is not None and seen.is_alive
