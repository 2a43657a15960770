"""The queue in a folder: one owner at a time, whole results, no clock but the observer's own."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from virnuc_rules.queue import claims as queue_module
from virnuc_rules.queue import pace, rounds, watched
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.store import ATTEMPTS, Store, by_shard, listing

LEASE = 10.0  # seconds of the fake clock
KEY = "ab" + "0" * 62
OTHER = "cd" + "1" * 62
# Two in one folder, and others by themselves.
KEYS = [KEY, "ab" + "2" * 62, OTHER, "ef" + "3" * 62, "01" + "4" * 62]


class Clock:
    """Stands in for the module `time`: a monotonic clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Waiting(threading.Event):
    """An event whose waiting costs no time: it moves the fake clock and calls `meanwhile`."""

    def __init__(self, clock: Clock, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.clock, self.meanwhile, self.waits = clock, meanwhile, 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits += 1
        assert self.waits < 1000, "the queue waits for ever"
        self.clock.now += timeout
        self.meanwhile()
        return self.is_set()


def faked(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the queue a fake clock."""
    fake = Clock()
    for module in (queue_module, watched, rounds, pace):
        monkeypatch.setattr(module, "time", fake)
    return fake


def worker(results: Path, name: str = "a") -> Queue:
    """A worker without a heartbeat: a test calls `Claim.beat` by hand."""
    queue = Queue(results, name, LEASE, log=f"{name}.log")
    store = queue.store
    for folder in (store.claims, store.failures, store.lost, store.finished, store.workers):
        folder.mkdir(parents=True, exist_ok=True)
    return queue


def claimed(queue: Queue, key: str = KEY) -> Claim:
    claim = queue.claim(key)
    assert claim is not None
    return claim


def payload(key: str) -> bytes:
    return f"result of {key}".encode() * 100


def writer(key: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(payload(key))

    return write


def publish(queue: Queue, claim: Claim) -> None:
    queue.publish(claim, writer(claim.key))


def fail(queue: Queue, claim: Claim) -> int:
    return queue.fail(claim, "lake/3", "ValueError: bad", "Traceback ...").attempts


def work(queue: Queue, keys: Iterable[str], bad: Iterable[str] = ()) -> list[str]:
    """Drain; the keys in `bad` fail. Returns what was tried, in order."""
    tried = []
    for claim in queue.drain(keys):
        tried.append(claim.key)
        if claim.key in bad:
            fail(queue, claim)
        else:
            publish(queue, claim)
    return tried


def files(store: Store) -> set[str]:
    """Names of all files under embeddings/, partial ones too."""
    return {path.name for path in store.embeddings.rglob("*") if path.is_file()}


def owner_in_file(queue: Queue, key: str = KEY) -> str:
    return (queue.store.claims / key).read_text().split()[0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return faked(monkeypatch)


@pytest.fixture
def a(tmp_path: Path, clock: Clock) -> Queue:
    return worker(tmp_path, "a")


@pytest.fixture
def b(tmp_path: Path, clock: Clock) -> Queue:
    return worker(tmp_path, "b")


class TestClaim:
    def test_excludes_a_second_worker(self, a: Queue, b: Queue) -> None:
        claim = claimed(a)
        assert b.claim(KEY) is None
        assert listing(a.store.claims) == {KEY}
        assert owner_in_file(a) == claim.identity

    def test_does_not_touch_other_keys(self, a: Queue, b: Queue) -> None:
        claimed(a)
        assert claimed(b, OTHER).key == OTHER

    def test_none_of_a_done_key(self, a: Queue, b: Queue) -> None:
        publish(a, claimed(a))
        assert b.claim(KEY) is None
        assert listing(b.store.claims) == set()

    def test_release_makes_way(self, a: Queue, b: Queue) -> None:
        a.release(claimed(a))
        assert listing(a.store.claims) == set()
        assert a.held == {}
        assert not a.store.is_done(KEY)
        assert a.store.failure(KEY) is None
        claimed(b)

    def test_holds_where_the_reply_to_link_is_lost(
        self, a: Queue, b: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = os.link

        def link_and_lose(source: Path, target: Path) -> None:
            link(source, target)
            raise OSError("the reply was lost")

        monkeypatch.setattr(os, "link", link_and_lose)
        claim = claimed(a)
        monkeypatch.undo()
        assert owner_in_file(a) == claim.identity
        assert b.claim(KEY) is None
        assert listing(a.store.claims) == {KEY}

    def test_leaves_nothing_where_another_was_quicker(
        self, a: Queue, b: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = os.link

        def link_late(source: Path, target: Path) -> None:
            monkeypatch.setattr(os, "link", link)
            claimed(b)
            link(source, target)

        monkeypatch.setattr(os, "link", link_late)
        assert a.claim(KEY) is None
        assert listing(a.store.claims) == {KEY}
        assert a.held == {}
        assert owner_in_file(b) == b.held[KEY].identity

    def test_holds_what_another_is_putting_back(
        self, a: Queue, b: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """b meant a dead claim, took a's aside and put it back; b's name is still there."""
        aside = b.store.claims / f".{KEY}.aside"

        link = os.link

        def link_twice(source: Path, target: Path) -> None:
            link(source, target)
            link(target, aside)

        monkeypatch.setattr(os, "link", link_twice)
        claim = a.claim(KEY)
        aside.unlink()
        assert owner_in_file(a) == (claim.identity if claim else None)

    def test_a_folder_without_hard_links_is_an_error(
        self, a: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def link(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(PermissionError):
            a.claim(KEY)
        assert listing(a.store.claims) == set()

    def test_names_of_any_length_do(
        self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are part of the names of files, which may have 255 bytes."""
        monkeypatch.setattr("socket.gethostname", lambda: "h" * 200)
        queue = worker(tmp_path, "w" * 200)
        publish(queue, claimed(queue))
        assert queue.store.is_done(KEY)

    def test_one_of_many_wins(self, tmp_path: Path) -> None:
        queues = [worker(tmp_path, str(number)) for number in range(8)]
        for number in range(20):
            key = f"{number:064x}"
            assert len(claim_together(queues, key)) == 1
        assert len(listing(queues[0].store.claims)) == 20


def claim_together(queues: list[Queue], key: str) -> list[Claim]:
    """Claim in threads, as close to one moment as can be. Returns the claims that were got."""
    barrier = threading.Barrier(len(queues))
    tried: list[Claim | None] = []

    def run(queue: Queue) -> None:
        barrier.wait(60)
        tried.append(queue.claim(key))

    threads = [threading.Thread(target=run, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tried) == len(queues)
    return [claim for claim in tried if claim]


class TestPublish:
    def test_stores_the_result_and_ends_the_claim(self, a: Queue) -> None:
        publish(a, claimed(a))
        assert a.store.result(KEY).read_bytes() == payload(KEY)
        assert files(a.store) == {f"{KEY}.safetensors"}
        assert listing(a.store.claims) == set()
        assert a.held == {}

    def test_an_error_leaves_neither_result_nor_partial(self, a: Queue, b: Queue) -> None:
        def write(path: Path) -> None:
            path.write_bytes(payload(KEY)[:10])
            raise ValueError("half way")

        claim = claimed(a)
        with pytest.raises(ValueError, match="half way"):
            a.publish(claim, write)
        assert files(a.store) == set()
        assert b.claim(KEY) is None  # still ours, to fail or to release
        assert fail(a, claim) == 1
        claimed(b)

    def test_nothing_is_visible_before_it_is_whole(self, a: Queue) -> None:
        def write(path: Path) -> None:
            with path.open("wb") as handle:
                handle.write(payload(KEY)[:10])
                handle.flush()
                assert not a.store.is_done(KEY)
                assert a.store.done([KEY]) == set()
                assert [name for name in files(a.store) if not name.startswith(".")] == []
                handle.write(payload(KEY)[10:])

        a.publish(claimed(a), write)
        assert a.store.result(KEY).read_bytes() == payload(KEY)

    def test_is_on_disk_before_the_claim_ends(
        self, a: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps, fsync, sync_directory = [], os.fsync, queue_module.sync_directory

        def step(name: str) -> None:
            steps.append((name, a.store.is_done(KEY), a.store.claims.joinpath(KEY).exists()))

        def spy_fsync(descriptor: int) -> None:
            step("file")
            fsync(descriptor)

        def spy_directory(folder: Path) -> None:
            assert folder == a.store.result(KEY).parent
            step("folder")
            monkeypatch.setattr(os, "fsync", fsync)
            sync_directory(folder)

        claim = claimed(a)
        monkeypatch.setattr(os, "fsync", spy_fsync)
        monkeypatch.setattr(queue_module, "sync_directory", spy_directory)
        publish(a, claim)
        assert steps == [("file", False, True), ("folder", True, True)]

    def test_replaces_another_ones_result(self, a: Queue, b: Queue, clock: Clock) -> None:
        stalled = claimed(a)
        publish(b, taken_over(b, clock))
        publish(a, stalled)
        assert a.store.result(KEY).read_bytes() == payload(KEY)
        assert files(a.store) == {f"{KEY}.safetensors"}
        assert listing(a.store.claims) == set()

    def test_survives_a_sweep_of_its_partial_file(self, a: Queue, b: Queue, clock: Clock) -> None:
        def write(path: Path) -> None:
            path.write_bytes(payload(KEY))
            publish(b, taken_over(b, clock))
            b.store.sweep([KEY])
            assert not path.exists()

        a.publish(claimed(a), write)
        assert a.store.result(KEY).read_bytes() == payload(KEY)
        assert listing(a.store.claims) == set()

    def test_a_missing_file_is_an_error_where_there_is_no_result(self, a: Queue) -> None:
        with pytest.raises(FileNotFoundError):
            a.publish(claimed(a), lambda path: None)
        assert not a.store.is_done(KEY)


class TestFail:
    def test_says_what_happened(self, a: Queue) -> None:
        failure = a.fail(claimed(a), "lake/3", "ValueError: bad", "Traceback ...")
        assert a.store.attempts() == {KEY: 1}
        assert a.store.failure(KEY) is None  # it will be tried again
        assert failure.model_dump() == {
            "key": KEY,
            "task": "lake/3",
            "error": "ValueError: bad",
            "traceback": "Traceback ...",
            "worker": "a",
            "host": a.host,
            "log": "a.log",
            "attempts": 1,
        }
        assert listing(a.store.claims) == set()
        assert listing(a.store.failures) == {f"{KEY}.1.json"}

    def test_counts_attempts_of_all_workers(self, a: Queue, b: Queue) -> None:
        assert [fail(queue, claimed(queue)) for queue in (a, b)] == [1, 2]
        assert a.store.attempts() == {KEY: 2}
        failure = a.store.failure(KEY)
        assert failure and failure.worker == "b"
        assert listing(a.store.failures) == {f"{KEY}.1.json", f"{KEY}.2.json"}

    def test_a_run_begins_without_failures_and_losses(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        for key in (KEY, OTHER):
            fail(a, claimed(a, key))
        claimed(a)
        b.release(taken_over(b, clock))
        assert a.store.losses() == {KEY: 1}
        a.store.begin([KEY])
        assert a.store.attempts() == {OTHER: 1} and a.store.losses() == {}
        a.store.begin()
        assert a.store.attempts() == {}

    def test_success_removes_the_record(self, a: Queue, b: Queue) -> None:
        fail(a, claimed(a))
        publish(b, claimed(b))
        assert a.store.attempts() == {}
        assert listing(a.store.failures) == set()

    def test_a_damaged_record_is_one(self, a: Queue) -> None:
        path = a.store.attempt(KEY, ATTEMPTS)
        path.write_text('{"key": "ab')
        assert a.store.failed([KEY])[KEY].error == f"{path}: the record of its failure is damaged"


def taken_over(queue: Queue, clock: Clock, key: str = KEY) -> Claim:
    """Watch another's claim for a lease, in which it does not beat, and take it."""
    watch(queue, clock, key)
    return claimed(queue, key)


def watch(queue: Queue, clock: Clock, key: str = KEY) -> None:
    """See another's claim stand still until just before the lease is over."""
    for _ in range(2):
        assert queue.claim(key) is None
        clock.now += LEASE / 2


class TestTakeOver:
    def test_only_after_the_lease(self, a: Queue, b: Queue, clock: Clock) -> None:
        claimed(a)
        clock.now += 100 * LEASE  # for how long a has been dead does not count: b has not looked
        for pause in (0.0, 0.4, 0.4, 0.19):
            clock.now += pause * LEASE
            assert b.claim(KEY) is None
        clock.now += 0.011 * LEASE
        claim = claimed(b)
        assert owner_in_file(b) == claim.identity
        assert listing(a.store.claims) == {KEY}

    def test_never_from_a_beating_owner(self, a: Queue, b: Queue, clock: Clock) -> None:
        claim = claimed(a)
        for _ in range(100):
            assert b.claim(KEY) is None
            claim.beat(a.pace)
            clock.now += 0.9 * LEASE
        assert owner_in_file(a) == claim.identity

    def test_not_if_it_beats_once_however_late(self, a: Queue, b: Queue, clock: Clock) -> None:
        claim = claimed(a)
        assert b.claim(KEY) is None
        clock.now += 5 * LEASE
        claim.beat(a.pace)
        assert b.claim(KEY) is None
        clock.now += 0.9 * LEASE
        assert b.claim(KEY) is None

    def test_each_observer_watches_for_itself(
        self, a: Queue, b: Queue, tmp_path: Path, clock: Clock
    ) -> None:
        claimed(a)
        taken_over(b, clock)
        c = worker(tmp_path, "c")
        assert c.claim(KEY) is None
        clock.now += 0.9 * LEASE
        assert c.claim(KEY) is None

    def test_only_one_wins(self, a: Queue, b: Queue, tmp_path: Path, clock: Clock) -> None:
        claimed(a)
        c = worker(tmp_path, "c")
        for _ in range(2):
            assert b.claim(KEY) is None
            assert c.claim(KEY) is None
            clock.now += LEASE / 2
        claim = claimed(b)
        assert c.claim(KEY) is None  # b's claim is new to c
        assert owner_in_file(c) == claim.identity

    def test_of_many_at_once_the_one_in_the_file_wins(self, tmp_path: Path, clock: Clock) -> None:
        dead = worker(tmp_path, "dead")
        queues = [worker(tmp_path, str(number)) for number in range(8)]
        keys = [f"{number:064x}" for number in range(20)]
        for key in keys:
            claimed(dead, key)
            for _ in range(2):
                assert all(queue.claim(key) is None for queue in queues)
                clock.now += LEASE / 2
            # A claim that is put back leaves a gap, in which another can claim: two can win.
            won = claim_together(queues, key)
            assert owner_in_file(dead, key) in {claim.identity for claim in won}
        assert listing(dead.store.claims) == set(keys)

    def test_a_slow_read_is_no_part_of_the_lease(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The network hangs for longer than a lease; right after it a's claim is not dead yet."""
        claimed(a)
        read = Path.read_bytes

        def slow_read(path: Path) -> bytes:
            clock.now += 2 * LEASE
            return read(path)

        monkeypatch.setattr(watched, "read_regular", slow_read)
        assert b.claim(KEY) is None
        monkeypatch.setattr(watched, "read_regular", Path.read_bytes)
        clock.now += 0.1 * LEASE
        assert b.claim(KEY) is None

    def test_a_slow_second_read_is_no_part_of_the_lease(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a read that hangs brings may be as old as the read: a may have beaten since."""
        held, read = claimed(a), Path.read_bytes
        assert b.claim(KEY) is None

        def slow_read(path: Path) -> bytes:
            content = read(path)
            clock.now += 2 * LEASE
            return content

        with monkeypatch.context() as patch:
            patch.setattr(watched, "read_regular", slow_read)
            assert b.claim(KEY) is None
        assert owner_in_file(a) == held.identity

    def test_the_way_is_free_if_it_was_released_meanwhile(self, b: Queue) -> None:
        assert b._take_over(KEY)

    def test_a_stalled_owner_that_wakes_does_no_harm(
        self, a: Queue, b: Queue, clock: Clock
    ) -> None:
        stalled = claimed(a)
        claim = taken_over(b, clock)
        stalled.beat(a.pace)
        assert owner_in_file(b) == claim.identity
        publish(a, stalled)
        assert owner_in_file(b) == claim.identity
        publish(b, claim)
        assert b.store.result(KEY).read_bytes() == payload(KEY)
        assert listing(b.store.claims) == set()

    @pytest.mark.parametrize("end", [Queue.release, fail])
    def test_a_stalled_owner_does_not_end_the_new_claim(
        self, a: Queue, b: Queue, clock: Clock, end: Callable[[Queue, Claim], object]
    ) -> None:
        stalled = claimed(a)
        claim = taken_over(b, clock)
        end(a, stalled)
        assert listing(b.store.claims) == {KEY}
        assert owner_in_file(b) == claim.identity


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


class TestRemove:
    def test_puts_back_what_is_another_ones(self, a: Queue, b: Queue) -> None:
        claim = claimed(a)
        before = (a.store.claims / KEY).stat().st_ino
        assert not b._remove(KEY, b"another")
        assert (a.store.claims / KEY).stat().st_ino == before
        assert listing(a.store.claims) == {KEY}
        claim.beat(a.pace)
        assert (a.store.claims / KEY).read_bytes() == claim.content()

    def test_puts_back_a_claim_that_has_beaten_since_the_look(self, a: Queue, b: Queue) -> None:
        claim = claimed(a)
        looked = (a.store.claims / KEY).read_bytes()
        claim.beat(a.pace)
        assert not b._remove(KEY, looked)
        assert owner_in_file(a) == claim.identity

    def test_takes_what_is_meant(self, a: Queue, b: Queue) -> None:
        assert b._remove(KEY, claimed(a).content())
        assert listing(a.store.claims) == set()

    def test_tells_claims_of_one_worker_apart(self, a: Queue) -> None:
        claims = [claimed(a)]
        for _ in range(10):
            (a.store.claims / KEY).unlink()  # as if it were taken over, and free again
            claims.append(claimed(a))
        a.release(claims[1])
        assert owner_in_file(a) == claims[10].identity

    def test_nothing_there(self, a: Queue) -> None:
        assert not a._remove(KEY, b"")


class TestHeartbeat:
    def test_beats_by_itself(self, tmp_path: Path) -> None:
        with Queue(tmp_path, "a", lease_seconds=0.05) as queue:
            claimed(queue)
            path = queue.store.claims / KEY
            seen = {path.read_bytes()}
            end = time.monotonic() + 60
            while len(seen) < 4 and time.monotonic() < end:
                seen.add(path.read_bytes())
                time.sleep(0.001)
            assert len(seen) == 4

    def test_beats_several_times_in_a_lease(
        self, a: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that one that is late or lost is not taken for death."""
        pauses: list[float] = []

        class Closed(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                pauses.append(timeout or 0)
                return len(pauses) > 3

        claim, a._closed = claimed(a), Closed()
        a._heartbeat()
        assert claim.life == 3
        assert max(pauses) <= LEASE / 4

    def test_a_beat_is_on_disk(self, a: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise a client of NFS may keep it to itself for longer than a lease."""
        claim, synced = claimed(a), []

        def spy(descriptor: int) -> None:
            assert descriptor == claim.descriptor
            synced.append((a.store.claims / KEY).read_bytes())

        monkeypatch.setattr(os, "fsync", spy)
        claim.beat(a.pace)
        assert synced == [claim.content()]

    def test_the_end_releases_what_is_held(self, tmp_path: Path) -> None:
        with Queue(tmp_path, "a", LEASE) as queue:
            claimed(queue)
            claimed(queue, OTHER)
        assert listing(queue.store.claims) == set()
        assert not queue._thread.is_alive()

    def test_an_error_releases_what_is_held(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="oh"), Queue(tmp_path, "a", LEASE) as queue:
            claimed(queue)
            raise ValueError("oh")
        assert listing(queue.store.claims) == set()

    def test_a_counter_of_any_height_has_one_length(self, a: Queue) -> None:
        claim = claimed(a)
        length = len(claim.content())
        for _ in range(12):
            claim.beat(a.pace)
            content = (a.store.claims / KEY).read_bytes()
            assert content == claim.content()
            assert len(content) == length

    def test_beating_for_a_removed_claim_is_no_error(self, a: Queue) -> None:
        claim = claimed(a)
        (a.store.claims / KEY).unlink()
        claim.beat(a.pace)
        a.release(claim)
        assert listing(a.store.claims) == set()


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


class TestSweep:
    def test_removes_what_the_killed_left_of_done_keys(self, a: Queue, b: Queue) -> None:
        left = [leave_behind(b, key) for key in (KEY, OTHER)]
        for key, paths in zip((KEY, OTHER), left, strict=True):
            paths += [
                b.store.attempt(key, 1),
                b.store.failures / f".{key}.1.json.h.1.partial",
                b.store.loss(key, 1),
            ]
            for path in paths[-3:]:
                path.touch()
        write_result(a, KEY)
        a.store.sweep(KEYS)
        assert not any(path.exists() for path in left[0])
        assert all(path.exists() for path in left[1])
        assert a.store.result(KEY).read_bytes() == payload(KEY)

    def test_touches_only_its_keys(self, a: Queue, b: Queue) -> None:
        left = leave_behind(b, OTHER)
        write_result(a, OTHER)
        a.store.sweep([KEY])
        assert all(path.exists() for path in left)

    def test_with_nothing_there(self, a: Queue) -> None:
        a.store.sweep(KEYS)


def leave_behind(queue: Queue, key: str) -> list[Path]:
    """Leave what a worker leaves that is killed as it claims, and one as it publishes."""
    claim = claimed(queue, key)
    hidden = queue.store.claims / claim.identity
    os.link(queue.store.claims / key, hidden)
    partial = queue.store.result(key).with_name(f".{key}.{queue.owner}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(payload(key)[:10])
    return [queue.store.claims / key, hidden, partial]


def write_result(queue: Queue, key: str) -> None:
    path = queue.store.result(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(payload(key))


class TestStore:
    def test_done_equals_is_done(self, a: Queue, b: Queue) -> None:
        for key in KEYS[1:3]:
            publish(a, claimed(a, key))
        leave_behind(b, KEYS[0])  # in the folder of a done key
        leave_behind(b, KEYS[3])  # in a folder without a result; the last key has no folder
        store = Store(a.store.embeddings.parent)
        assert store.done(KEYS) == {key for key in KEYS if store.is_done(key)} == set(KEYS[1:3])
        assert store.done([]) == set()

    def test_asks_only_for_its_keys(self, a: Queue) -> None:
        publish(a, claimed(a))
        assert a.store.done([OTHER]) == set()

    def test_looking_leaves_no_trace(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "results")
        assert store.done(KEYS) == set()
        assert not store.is_done(KEY)
        assert store.failure(KEY) is None
        assert list(tmp_path.iterdir()) == []

    def test_a_deleted_result_is_pending_again(self, a: Queue) -> None:
        publish(a, claimed(a))
        a.store.result(KEY).unlink()
        assert a.store.done([KEY]) == set()
        claimed(a)

    def test_a_damaged_result_is_set_aside_each_time(self, a: Queue) -> None:
        publish(a, claimed(a, OTHER))
        kept = []
        for content in (b"one", b"two"):
            publish(a, claimed(a))
            a.store.result(KEY).write_bytes(content)
            kept.append(a.store.set_aside(KEY))
            assert a.store.done([KEY, OTHER]) == {OTHER}
        assert [path and path.read_bytes() for path in kept] == [b"one", b"two"]
        assert a.store.set_aside(KEY) is None  # gone already

    def test_shards_keep_all_keys_in_order(self) -> None:
        shards = by_shard(KEYS)
        assert shards == {"ab": KEYS[:2], "cd": [OTHER], "ef": [KEYS[3]], "01": [KEYS[4]]}
