"""Workers that are lost: they hang, or a task kills them; and who was not lost."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_claims import (
    KEY,
    KEYS,
    LEASE,
    OTHER,
    Clock,
    Waiting,
    claimed,
    owner_in_file,
    taken_over,
    watch,
    work,
    worker,
)

from virnuc_rules.queue import pace, watched
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.store import ATTEMPTS, listing


class TestWorkThatStandsStill:
    """A worker that lives but hangs: its second counter stands still."""

    def test_is_taken_over_after_its_own_limit(self, a: Queue, b: Queue, clock: Clock) -> None:
        claim = hanging(a)
        limit = a.pace.limit()
        assert limit == 20 * 8.0  # times the slowest step of a chunk that was done
        begun = clock.now
        while not (taken := b.claim(KEY)):
            clock.now += LEASE / 4
            claim.beat(a.pace)
        assert limit <= clock.now - begun <= limit + LEASE
        assert owner_in_file(b) == taken.identity
        assert [lost.owner for lost in taken.lost] == [a.owner]

    def test_a_step_in_time_keeps_it(self, a: Queue, b: Queue, clock: Clock) -> None:
        claim = hanging(a)
        for _ in range(200):
            clock.now += LEASE / 2
            if clock.now % 100 < LEASE / 2:
                a.pace.step()
            claim.beat(a.pace)
            assert b.claim(KEY) is None

    def test_the_owner_knows(self, a: Queue, clock: Clock) -> None:
        claim = hanging(a)
        clock.now += a.pace.limit()
        assert a.hangs() == ""
        clock.now += 2
        claim.beat(a.pace)
        assert a.hangs() == "no progress for 162 s (limit 160 s)" and claim.still == 162
        a.release(claim)
        clock.now += 1e6
        assert a.hangs() == ""  # it waits for others

    def test_waiting_for_work_is_no_step(self, a: Queue, b: Queue, clock: Clock) -> None:
        clock.now += 1e6
        claimed(a)
        assert a.hangs() == ""
        clock.now += a.pace.limit() / 2
        claimed(a, OTHER)  # while the first is held, its time goes on
        clock.now += a.pace.limit() / 2 + 1
        assert a.hangs() != ""

    def test_a_process_that_was_stopped_does_not_hang(self, a: Queue, clock: Clock) -> None:
        claimed(a)
        clock.now += 1e6
        assert a.hangs(1e6) == "" and a.hangs() == ""
        clock.now += a.pace.limit() + 1
        assert a.hangs() != ""

    def test_the_limit(self, a: Queue, clock: Clock) -> None:
        assert a.pace.limit() == 60 * LEASE  # nothing is known yet: an hour, with a lease of 60 s
        a.pace.begin()
        clock.now += 1
        a.pace.step()
        assert a.pace.limit() == 60 * LEASE  # not before a chunk is done
        a.pace.done()
        assert a.pace.limit() == 10 * LEASE  # 20 s would be too hasty
        clock.now += 1e6  # waiting for work is no step
        a.pace.begin()
        clock.now += 30
        a.pace.step()
        a.pace.done()
        assert a.pace.limit() == 600


def hanging(queue: Queue) -> Claim:
    """A claim of a worker whose slowest step was 8 seconds, right after it was read by others."""
    queue.pace.begin()
    clock = pace.time
    clock.now += 8  # type: ignore[attr-defined]
    queue.pace.done()
    claim = claimed(queue)
    queue.pace.begin()
    claim.beat(queue.pace)
    return claim


class TestLosses:
    def test_a_take_over_is_counted_with_the_owners_name(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        claimed(a)
        claim = taken_over(b, clock)
        assert [(lost.owner, lost.log) for lost in claim.lost] == [(a.owner, "a.log")]
        assert a.store.losses() == {KEY: 1}
        assert not claim.is_suspect and not claim.is_poison

    def test_two_put_a_task_last_and_a_third_ends_it(self, tmp_path: Path, clock: Clock) -> None:
        for number in range(3):
            dead, fresh = worker(tmp_path, f"dead{number}"), worker(tmp_path, "fresh")
            fresh.interrupted = Waiting(clock)
            steps = dead.drain(KEYS)
            dead.interrupted = Waiting(clock)
            claims = [next(steps)]
            while claims[-1].key != KEY:
                dead.release(claims[-1])
                dead.postponed.add(claims[-1].key)
                claims.append(next(steps))
            assert claims[-1].is_suspect == (number == 2)
            assert (len(claims) > 1) or number < 2  # last, once it is suspect
            watch(fresh, clock)
            claim = claimed(fresh)
            assert len(claim.lost) == number + 1
            fresh.release(claim)
        assert claim.is_poison
        failure = fresh.fail(claimed(fresh), "lake/3", "3 workers were lost", "", last=True)
        assert failure.attempts == ATTEMPTS
        assert sorted(work(fresh, KEYS)) == sorted(set(KEYS) - {KEY})

    def test_who_comes_back_was_not_lost(self, a: Queue, b: Queue, clock: Clock) -> None:
        stalled = claimed(a)
        b.release(taken_over(b, clock))
        a.release(stalled)
        assert claimed(b).lost == []

    def test_a_release_that_fails_is_no_loss(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = claimed(a)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refused)
            a.release(claim)
        assert listing(a.store.claims) == {KEY} and a.held == {}
        assert taken_over(b, clock).lost == []

    def test_an_odd_claim_is_taken_over_and_no_loss(self, a: Queue, clock: Clock) -> None:
        for content in (b"", b"odd\n", b"\xff\xfe\x00", b"x" * 10**6):
            (a.store.claims / KEY).write_bytes(content)
            claim = taken_over(a, clock)
            assert claim.lost == [] and a.store.losses() == {}
            a.release(claim)

    def test_a_live_claim_is_not_removed_for_an_empty_one(self, a: Queue, b: Queue) -> None:
        claim = claimed(a)
        assert not b._remove(KEY, b"")
        assert owner_in_file(b) == claim.identity

    @pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), os.mkfifo])
    def test_something_else_in_place_of_a_claim(
        self, a: Queue, clock: Clock, make: Callable[[Path], None]
    ) -> None:
        """A link to nothing is removed; of a pipe it is said that it is none, after a while."""
        make(a.store.claims / KEY)
        a.interrupted = Waiting(clock)
        if (a.store.claims / KEY).is_symlink():
            assert work(a, KEYS[:1]) == KEYS[:1]
        else:
            with pytest.raises(OSError, match="not a regular file"):
                work(a, KEYS[:1])

    def test_a_log_of_any_name(self, tmp_path: Path, clock: Clock) -> None:
        queue = worker(tmp_path, "a")
        queue.log = "x\udcff\n.log"
        assert claimed(queue).content().endswith(b"x? .log\n")

    def test_what_cannot_be_read_does_not_count(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither for nor against the owner: it is held, and after a while an error."""
        claimed(a)
        assert b.claim(KEY) is None
        with monkeypatch.context() as patch:
            patch.setattr(watched, "read_regular", refused)
            for _ in range(5):
                clock.now += LEASE / 2
                assert b.claim(KEY) is None
            clock.now += LEASE
            with pytest.raises(OSError, match="refused"):
                b.claim(KEY)
        clock.now += LEASE
        assert b.claim(KEY) is None
        clock.now += LEASE / 2
        assert b.claim(KEY) is None
        clock.now += LEASE / 2
        assert claimed(b)


def refused(*_: object) -> None:
    raise OSError(errno.EIO, "refused")
