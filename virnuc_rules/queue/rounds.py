"""In which order a worker tries the tasks of a run.

A round goes over the folders of results that have open tasks, each worker in an order of its own,
so that two rarely try the same task. A worker that finds nothing looks around in pauses: at a few
of the claims of others, and at the tasks that come last: those that failed once, or cost two
workers. A thousand waiting workers must leave the filesystem to the working ones: who finds a
folder finished leaves a note of that, so that the others need not list it.
"""

import hashlib
import logging
import random
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from virnuc_rules.queue.pace import BEATS_PER_LEASE, PATIENCE
from virnuc_rules.queue.store import ATTEMPTS, SUSPECT, by_shard

if TYPE_CHECKING:
    from virnuc_rules.queue.claims import Claim, Queue

logger = logging.getLogger(__name__)

_WATCHED = 8  # claims in a look
_FIRST_PAUSE = 0.05  # seconds between two rounds that found nothing; doubles up to a look
_REST = 9  # a pause is at least this many times as long as the round before it
_FEW = 4  # tasks: cheaper to ask for each by itself than to list their folder


class Rounds:
    """The open tasks of a worker; `steps` tries them until none is left."""

    def __init__(self, queue: "Queue", keys: Iterable[str], index: int = 0) -> None:
        self.queue, self.store, self.index = queue, queue.store, index
        self.shards = by_shard(dict.fromkeys(keys))
        self.open = {key for keys in self.shards.values() for key in keys}
        self.keys = dict(self.shards)  # all tasks of a folder, also those that are done
        self.names = {shard: _name(shard, keys) for shard, keys in self.shards.items()}
        self.failed = set[str]()  # shards with failed tasks
        self.finished = set[str]()  # names of shards that another worker found finished
        self.order = sorted(
            self.shards, key=lambda shard: hashlib.sha256((shard + queue.owner).encode()).digest()
        )
        self.claimed = set[str]()  # by anybody, when it was last listed
        self.attempts: dict[str, int] = {}
        self.suspects = set[str]()
        self.next_look = 0.0  # at claims of others
        self.watched: list[str] = []
        self.seen = 0, 0, 0  # of progress: claims won, tasks open, rises of others' counters
        self.won, self.since, self.silence = 0, time.monotonic(), PATIENCE * queue.lease_seconds
        self.random = random.Random(queue.owner)  # noqa: S311 - a choice, no secret

    def steps(self) -> Iterator["Claim | float"]:
        """Yield claims and pauses; see `Queue.steps`."""
        pause, beat = _FIRST_PAUSE, self.queue.lease_seconds / BEATS_PER_LEASE
        while self.shards and not self.queue.interrupted.is_set():
            begun, idle = time.monotonic(), True
            for claim in self._round():
                pause, idle, self.won = _FIRST_PAUSE, False, self.won + 1
                yield claim
                if self.queue.interrupted.is_set():
                    return
                self._look_around()
            if idle and self.shards:
                if last := self._last(also_own=pause > _FIRST_PAUSE):
                    pause, self.won = _FIRST_PAUSE, self.won + 1
                    yield last
                    continue
                if not self.shards or self._may_leave():
                    return
                self._tell_if_stuck()
                rest = _REST * (time.monotonic() - begun)
                yield min(max(pause, rest), self.queue.lease_seconds)
                pause = min(2 * pause, beat)

    def _round(self) -> Iterator["Claim"]:
        """Try each open task once."""
        self._look_around()
        for shard in filter(self.shards.__contains__, self.order):
            for key in self._open(shard):
                if key in self.claimed or self._comes_last(key) or self.store.is_done(key):
                    continue
                if claim := self._try(key):
                    yield claim
                if claim := self._watch():
                    yield claim
        if claim := self._watch():
            yield claim

    def _look_around(self) -> None:
        """List what changes while this worker is busy: claims, failures, losses."""
        self.claimed = self.store.claimed()
        self.attempts = self.store.attempts()
        self.finished = self.store.finished_shards()
        self.suspects = {k for k, number in self.store.losses().items() if number >= SUSPECT}

    def _open(self, shard: str) -> list[str]:
        """Return the tasks of a folder that are still to do, and forget the others."""
        before = self.shards.pop(shard)
        if self.names[shard] in self.finished:
            self.open.difference_update(before)
            return []
        keys = [key for key in before if self.attempts.get(key, 0) < ATTEMPTS]
        if len(keys) < len(before):
            self.failed.add(shard)
        free = [k for k in keys if k not in self.claimed and not self._comes_last(k)]
        if len(free) > _FEW:
            done = self.store.done(keys)
        else:
            done = {key for key in free if self.store.is_done(key)}
        left = [key for key in keys if key not in done]
        if not left and shard not in self.failed:
            left = self._finish(shard)
        if left:
            self.shards[shard] = left
        self.open.difference_update(before)
        self.open.update(left)
        return left

    def _finish(self, shard: str) -> list[str]:
        """Note that a folder is finished; return tasks whose results were moved away meanwhile.

        Who moves one removes the notes after it, and this looks again after writing one.
        """
        self.store.finish(self.names[shard])
        done = self.store.done(self.keys[shard])
        missing = [key for key in self.keys[shard] if key not in done]
        if missing:
            self.store.unfinish(shard)
        return missing

    def _comes_last(self, key: str) -> bool:
        return key in self.attempts or key in self.suspects or key in self.queue.postponed

    def _try(self, key: str) -> "Claim | None":
        """Claim a task, unless it has failed since the last look around."""
        claim = self.queue.claim(key)
        if claim and claim.attempts != self.attempts.get(key, 0):
            self.queue.release(claim)  # another worker has just tried it and failed
            return None
        return claim

    def _watch(self) -> "Claim | None":
        """Look at a few claims of others, once in a while; take over what is lost."""
        if time.monotonic() < self.next_look:
            return None
        self.next_look = time.monotonic() + self.queue.lease_seconds / BEATS_PER_LEASE
        held = self.claimed & self.open
        self.watched = [key for key in self.watched if key in held]
        more = sorted(held.difference(self.watched, self.queue.held))
        self.watched += self.random.sample(more, min(_WATCHED - len(self.watched), len(more)))
        for key in self.watched:
            if claim := self._try(key):
                return claim
        return None

    def _tell_if_stuck(self) -> None:
        """Say where nothing goes on here or elsewhere for three leases; then ever less often."""
        now, seen = time.monotonic(), (self.won, len(self.open), self.queue.watched.moved)
        if seen != self.seen:
            self.seen, self.since, self.silence = seen, now, PATIENCE * self.queue.lease_seconds
        elif now - self.since > self.silence:
            self.silence *= 2
            logger.warning(
                "worker %s: no chunk could be claimed for %.0f s and no other worker moves, but %d "
                "are left%s; may this user rename and delete all files in %s? If no worker runs, "
                "delete those files", self.queue.worker, now - self.since, len(self.open),
                f" ({self.queue.obstacle})" if self.queue.obstacle else "", self.store.claims,
            )  # fmt: skip

    def _may_leave(self) -> bool:
        """Tell whether all that is open is in good hands, and enough workers wait beside this one.

        Nothing is lost by it: who holds the last tasks waits for those whose owners are not seen to
        live, since it cannot leave either.
        """
        is_held = self.open <= self.claimed and bool(self.watched)
        alive = all(map(self.queue.is_seen_alive, self.watched))
        return is_held and alive and self.index > len(self.open)

    def _forget(self, key: str) -> None:
        """Drop a task that was found done."""
        self.open.discard(key)
        self.shards[key[:2]].remove(key)
        if not self.shards[key[:2]]:
            del self.shards[key[:2]]

    def _last(self, also_own: bool) -> "Claim | None":
        """Claim one of the tasks that come last, first one that failed elsewhere."""
        postponed = self.queue.postponed
        last = [
            key
            for shard in filter(self.shards.__contains__, self.order)
            for key in self.shards[shard]
            if self._comes_last(key) and key not in self.claimed
        ]
        for key in sorted(last, key=lambda key: key in postponed):
            if self.store.is_done(key):
                self._forget(key)
            elif (key not in postponed or also_own) and (claim := self._try(key)):
                return claim
        return None


def _name(shard: str, keys: Iterable[str]) -> str:
    """Name a folder of results with these tasks: other tasks in it are another matter."""
    return f"{shard}.{hashlib.sha256(' '.join(sorted(keys)).encode()).hexdigest()[:16]}"
