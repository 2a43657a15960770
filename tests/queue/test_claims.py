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
