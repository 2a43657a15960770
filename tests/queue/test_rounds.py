"""The order in which workers try tasks, for how long they wait, and when they leave."""

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
    fail,
    publish,
    work,
    worker,
)

from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.store import listing


class TestDrain:
    def test_yields_each_key_once(self, a: Queue, clock: Clock) -> None:
        a.interrupted = Waiting(clock)
        assert sorted(work(a, [*KEYS, KEYS[0]])) == sorted(KEYS)
        assert a.store.done(KEYS) == set(KEYS)
        assert listing(a.store.claims) == set()

    def test_of_no_keys(self, a: Queue) -> None:
        assert work(a, []) == []

    def test_passes_over_what_is_done(self, a: Queue, b: Queue, clock: Clock) -> None:
        a.interrupted = Waiting(clock)
        publish(b, claimed(b))
        assert KEY not in work(a, KEYS)

    def test_what_fails_is_tried_twice(self, a: Queue, clock: Clock) -> None:
        """A worker that is alone tries it again itself, when nothing else is left."""
        a.interrupted = Waiting(clock)
        tried = work(a, KEYS, bad=[KEY])
        assert sorted(tried[:5]) == sorted(KEYS) and tried[5:] == [KEY]
        assert a.store.done(KEYS) == set(KEYS) - {KEY}
        assert a.store.failed(KEYS).keys() == {KEY}

    def test_what_failed_in_this_run_is_not_tried_by_one_that_starts(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        a.interrupted = b.interrupted = Waiting(clock)
        work(a, KEYS, bad=[KEY])
        assert work(b, KEYS) == []
        b.store.begin()
        assert work(b, KEYS) == [KEY]

    def test_the_second_try_is_another_ones_where_there_is_one(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        drains = {queue.worker: queue.drain(KEYS) for queue in (a, b)}
        for queue in (a, b):
            queue.interrupted = Waiting(clock)
        held = next(drains["a"])
        fail(a, held)
        for claim in drains["b"]:
            last = claim
            publish(b, claim)
        assert last.key == held.key and last.attempts == 1
        assert list(drains["a"]) == [] and a.store.done(KEYS) == set(KEYS)

    def test_what_failed_once_comes_last(self, a: Queue, b: Queue, clock: Clock) -> None:
        b.interrupted = Waiting(clock)
        for key in KEYS[:3]:
            fail(a, claimed(a, key))
        assert set(work(b, KEYS)[2:]) == set(KEYS[:3])

    def test_does_not_try_at_once_what_fails_meanwhile(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        held = claimed(a)
        b.interrupted = Waiting(clock, lambda: fail(a, held) if a.held else None)
        tried = work(b, KEYS)
        assert sorted(tried) == sorted(KEYS) and tried[-1] == KEY

    def test_what_fails_between_look_and_claim_comes_last(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        b.interrupted = Waiting(clock)
        claim, seen = b.claim, []

        def late(key: str) -> Claim | None:
            if not a.store.attempts():
                fail(a, claimed(a))
            found = claim(key)
            seen.append(found)
            return found

        monkeypatch.setattr(b, "claim", late)
        assert work(b, [KEY]) == [KEY]
        assert len(seen) == 2  # the first was given back
        assert listing(b.store.claims) == set()

    def test_what_was_postponed_is_left_to_others_first(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        a.interrupted = Waiting(clock)
        a.postponed.add(KEY)
        tried = work(a, KEYS)
        assert sorted(tried) == sorted(KEYS) and tried[-1] == KEY
        assert a.interrupted.waits == 1

    def test_waits_for_what_others_hold(self, a: Queue, b: Queue, clock: Clock) -> None:
        held, begun = claimed(a), clock.now

        def beat_and_end() -> None:
            if clock.now < begun + 5 * LEASE:
                held.beat(a.pace)
            elif a.held:
                publish(a, held)

        b.interrupted = Waiting(clock, beat_and_end)
        assert KEY not in work(b, KEYS)
        assert b.store.done(KEYS) == set(KEYS)
        assert b.seconds_waiting == pytest.approx(clock.now - begun)

    def test_pauses_double_up_to_a_beat_and_begin_anew_after_work(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        held = [claimed(a), claimed(a, OTHER)]
        steps = b.steps([KEY, OTHER])
        assert [next(steps) for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
        a.release(held[0])
        claim = next(steps)
        assert isinstance(claim, Claim)
        publish(b, claim)
        assert [next(steps) for _ in range(2)] == [0.05, 0.1]

    def test_leaves_a_slow_filesystem_to_those_who_work(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At most a tenth of the time goes into looking; but it looks once in a lease."""
        claimed(a)
        looks, attempts = iter([0.5, 100.0]), b.store.attempts

        def slow() -> dict[str, int]:
            clock.now += next(looks)
            return attempts()

        monkeypatch.setattr(b.store, "attempts", slow)
        steps = b.steps([KEY])
        assert next(steps) == pytest.approx(9 * 0.5)
        assert next(steps) == LEASE

    def test_takes_over_from_the_dead(self, a: Queue, b: Queue, clock: Clock) -> None:
        b.interrupted = Waiting(clock)
        claimed(a)
        assert sorted(work(b, KEYS)) == sorted(KEYS)
        assert listing(b.store.claims) == set()

    def test_two_workers_share(self, a: Queue, b: Queue, clock: Clock) -> None:
        tried = []
        keys = [f"{number:02x}{number:062x}" for number in range(100)]
        drains = [(queue, queue.drain(keys)) for queue in (a, b)]
        for queue, _ in drains:
            queue.interrupted = Waiting(clock)
        while drains:
            for queue, drain in list(drains):
                claim = next(drain, None)
                if claim is None:
                    drains.remove((queue, drain))
                else:
                    tried.append(claim.key)
                    publish(queue, claim)
        assert sorted(tried) == keys

    def test_begins_elsewhere_than_others(self, tmp_path: Path, clock: Clock) -> None:
        keys = [f"{number:02x}{number:062x}" for number in range(256)]
        first = {next(worker(tmp_path, str(n)).drain(keys)).key for n in range(8)}
        assert len(first) >= 5  # of 256: all eight differ in nine of ten draws

    def test_ends_when_interrupted(self, a: Queue) -> None:
        drain = a.drain(KEYS)
        publish(a, next(drain))
        a.interrupted.set()
        assert list(drain) == []
        assert len(a.store.done(KEYS)) == 1
        assert listing(a.store.claims) == set()

    def test_ends_when_interrupted_while_it_waits(self, a: Queue, b: Queue, clock: Clock) -> None:
        for key in KEYS:
            claimed(a, key)
        b.interrupted = Waiting(clock, lambda: b.interrupted.set())
        assert work(b, KEYS) == []
        assert b.store.done(KEYS) == set()


class TestFinishedFolders:
    def test_what_one_has_found_finished_is_not_listed_again(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a.interrupted = b.interrupted = Waiting(clock)
        work(a, KEYS)
        work(a, KEYS)
        assert {name[:2] for name in a.store.finished_shards()} == {key[:2] for key in KEYS}
        with monkeypatch.context() as patch:
            patch.setattr(b.store, "done", lambda _: pytest.fail("listed"))
            patch.setattr(b.store, "is_done", lambda _: pytest.fail("asked"))
            assert work(b, KEYS) == []

    def test_one_from_which_a_result_is_moved_meanwhile(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a.interrupted = Waiting(clock)
        work(a, [KEY])
        a.store.unfinish("")
        finish = a.store.finish

        def moved_before_the_note(name: str) -> None:
            if b.store.is_done(KEY) and not listing(b.store.damaged):
                b.store.set_aside(KEY)
            finish(name)

        monkeypatch.setattr(a.store, "finish", moved_before_the_note)
        assert work(a, [KEY]) == [KEY]
        assert a.store.is_done(KEY)

    def test_a_result_is_moved_that_was_seen_done_before(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        """Who moved it is lost: whoever finishes the folder does it again."""
        a.interrupted = Waiting(clock)
        publish(b, claimed(b))
        drain, tried = a.drain(KEYS[:2]), []
        for claim in drain:
            tried.append(claim.key)
            if len(tried) == 1:
                b.store.set_aside(KEY)
            publish(a, claim)
        assert tried == [KEYS[1], KEY]

    def test_a_folder_with_other_tasks_is_another(self, a: Queue, clock: Clock) -> None:
        a.interrupted = Waiting(clock)
        for keys in (KEYS[:1], KEYS):
            work(a, keys)
            work(a, keys)
        assert a.store.done(KEYS) == set(KEYS)

    def test_one_with_failures_is_not_finished(self, a: Queue, clock: Clock) -> None:
        a.interrupted = Waiting(clock)
        work(a, KEYS, bad=[KEY])
        work(a, KEYS)
        assert KEY[:2] not in {name[:2] for name in a.store.finished_shards()}

    def test_one_whose_result_is_damaged_is_open_again(self, a: Queue, clock: Clock) -> None:
        a.interrupted = Waiting(clock)
        for _ in range(2):
            work(a, KEYS)
        a.store.set_aside(KEY)
        assert work(a, KEYS) == [KEY]

    def test_a_run_begins_with_none(self, a: Queue, clock: Clock) -> None:
        a.interrupted = Waiting(clock)
        for _ in range(2):
            work(a, KEYS)
        a.store.result(KEY).unlink()  # by a person
        a.store.begin()
        assert work(a, KEYS) == [KEY]


class TestLeaving:
    """Of waiting workers as many stay as there are tasks that may need one."""

    def test_one_too_many_leaves_what_the_living_hold(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        held = [claimed(a, key) for key in KEYS[:2]]

        def beat() -> None:
            for claim in held:
                claim.beat(a.pace)

        b.interrupted = Waiting(clock, beat)
        assert list(b.drain(KEYS[:2], index=3)) == []
        assert listing(b.store.claims) == set(KEYS[:2]) and b.store.done(KEYS) == set()

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_who_may_be_needed_stays(self, a: Queue, b: Queue, clock: Clock, index: int) -> None:
        held, begun = [claimed(a, key) for key in KEYS[:2]], clock.now

        def beat_then_die() -> None:
            if clock.now < begun + 10 * LEASE:
                for claim in held:
                    claim.beat(a.pace)

        b.interrupted = Waiting(clock, beat_then_die)
        for claim in b.drain(KEYS[:2], index):
            publish(b, claim)
        assert b.store.done(KEYS) == set(KEYS[:2])

    def test_nobody_leaves_what_the_dead_hold(self, a: Queue, b: Queue, clock: Clock) -> None:
        living, dead = claimed(a), claimed(a, OTHER)
        b.interrupted = Waiting(clock, lambda: living.beat(a.pace) if a.held else None)
        taken = []
        for claim in b.drain([KEY, OTHER], index=9):
            taken.append(claim.key)
            publish(b, claim)
        assert taken == [dead.key] and not b.store.is_done(KEY)

    def test_nobody_leaves_what_is_free(self, a: Queue, b: Queue, clock: Clock) -> None:
        b.interrupted = Waiting(clock)
        fail(b, claimed(b))
        assert work(b, [KEY]) == [KEY]
