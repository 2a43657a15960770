"""Waiting for a server that is away, and saying where nothing goes on."""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import wait_until
from test_claims import KEY, LEASE, OTHER, Clock, claimed, publish, worker

from virnuc_rules.errors import EnvironmentProblem
from virnuc_rules.queue import claims, waiting
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.waiting import Interruption, Outages

GONE = EnvironmentProblem("here: Transport endpoint is not connected (ENOTCONN)")


class Server:
    """What a probe finds: a server that is away until it is back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOTCONN) -> None:
        self.number, self.asked, self.is_back = number, 0, False
        monkeypatch.setattr(waiting, "probe", self.probe)
        monkeypatch.setattr(waiting, "_PAUSE", 0.01)

    def probe(self, _: Path) -> None:
        self.asked += 1
        if not self.is_back:
            raise GONE from OSError(self.number, "it")


def outages(tmp_path: Path, interrupted: Interruption, step: Callable[[], None]) -> Outages:
    return Outages("0", tmp_path / "it", interrupted, step)


def test_two_threads_wait_until_it_is_back_and_one_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, steps, found = Server(monkeypatch), list[int](), list[bool]()
    both = outages(tmp_path, Interruption(), lambda: steps.append(1))
    threads = [threading.Thread(target=lambda: found.append(both.outlast(GONE))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.asked > 3)
    server.is_back = True
    for thread in threads:
        thread.join()
    assert found == [True, True] and len(steps) >= 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "does its server not answer?" in said[0] and "back after" in said[1]
    assert both.outlast(GONE) is False  # it is not away


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EDQUOT])
def test_other_errors_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    server = Server(monkeypatch, number)
    assert outages(tmp_path, Interruption(), lambda: None).outlast(GONE) is False
    assert server.asked == 1


def test_it_is_waited_for_only_so_long_and_then_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    monkeypatch.setattr(waiting, "LONGEST_OUTAGE", 0.1)
    one = outages(tmp_path, Interruption(), lambda: None)
    with pytest.raises(EnvironmentProblem, match="ENOTCONN"):
        one.outlast(GONE)
    asked = server.asked
    with pytest.raises(EnvironmentProblem, match="ENOTCONN"):
        one.outlast(GONE)
    assert server.asked == asked + 1


def test_an_interruption_ends_all_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    monkeypatch.setattr(waiting, "_PAUSE", 60.0)
    interrupted, ended = Interruption(), list[int]()
    one = outages(tmp_path, interrupted, lambda: None)

    def wait(outlast: Callable[[EnvironmentProblem], bool]) -> None:
        with pytest.raises(EnvironmentProblem):
            outlast(GONE)
        ended.append(1)

    others = outages(tmp_path, interrupted, lambda: None), one
    threads = [threading.Thread(target=wait, args=(each.outlast,)) for each in (one, *others)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.asked >= 2)
    begun = time.monotonic()
    interrupted.set()
    for thread in threads:
        thread.join()
    assert ended == [1, 1, 1] and time.monotonic() - begun < 50


def away(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The calls on claims fail, as of a server that is away, until `undo`."""

    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    patch = pytest.MonkeyPatch()
    for name in ("rename", "exists", "unlink"):
        patch.setattr(Path, name, gone)
    for name in ("pwrite", "ftruncate", "fstat"):
        patch.setattr(os, name, gone)
    return patch


class TestReleasedLater:
    """A claim that cannot be given up while the server is away is given up when it is back."""

    def test_by_the_heartbeat(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: Queue, b: Queue
    ) -> None:
        claim = claimed(a)
        patch = away(monkeypatch)
        a.release(claim)
        patch.undo()
        assert b.claim(KEY) is None  # another may only wait
        a._retry_releases()
        publish(b, claimed(b))
        assert list(a.store.claims.iterdir()) == list(a.store.lost.iterdir()) == []

    def test_after_another_has_taken_it_over(
        self, monkeypatch: pytest.MonkeyPatch, a: Queue, b: Queue, clock: Clock
    ) -> None:
        """That other one's claim stays, and no loss is counted."""
        claim = claimed(a)
        patch = away(monkeypatch)
        a.release(claim)
        patch.undo()
        taken = taken_over(b, clock)
        assert len(b.store.lost_claims(KEY)) == 1
        a._retry_releases()
        assert b.store.lost_claims(KEY) == []
        assert (b.store.claims / KEY).read_bytes().startswith(taken.beginning)
        publish(b, taken)

    def test_one_that_may_have_been_won(
        self, monkeypatch: pytest.MonkeyPatch, a: Queue, b: Queue
    ) -> None:
        """The link was made, and then the server went away: nobody knows whose it is."""
        patch = pytest.MonkeyPatch()

        def gone(_: int) -> None:
            raise OSError(errno.EBADFD, os.strerror(errno.EBADFD))

        patch.setattr(os, "fstat", gone)
        with pytest.raises(OSError, match="bad state"):
            a.claim(KEY)
        patch.undo()
        assert a.held == {} and (a.store.claims / KEY).exists()
        a._retry_releases()
        assert claimed(b)
        assert [path.name for path in b.store.claims.iterdir() if path.name == KEY] == [KEY]


def taken_over(queue: Queue, clock: Clock) -> Claim:
    for _ in range(10):
        if claim := queue.claim(KEY):
            return claim
        clock.now += LEASE / 2
    raise AssertionError("it was not taken over")


class TestHanging:
    def test_a_heartbeat_that_waits_for_the_filesystem_is_no_hanging_work(
        self, a: Queue, clock: Clock
    ) -> None:
        claimed(a)
        a._beating = clock.now
        clock.now += a.pace.limit() + 1
        assert a.hangs() == ""
        a._beating = None
        assert "no progress" in a.hangs()
        a._beating = clock.now - claims.LONGEST_OUTAGE
        clock.now += claims.LONGEST_OUTAGE + a.pace.limit()
        assert "no progress" in a.hangs()

    def test_time_that_is_forgiven_is_not_of_the_future(self, a: Queue, clock: Clock) -> None:
        """A claim with a negative number could not be read."""
        a.pace.forgive(100)
        assert a.pace.still() == 0


class TestStuck:
    """A worker that wins nothing while nobody moves says so; see `_tell_if_stuck`."""

    def rounds(self, queue: Queue, clock: Clock, leases: float) -> list[Claim | float]:
        steps, seen, end = queue.steps([KEY, OTHER]), [], clock.now + leases * LEASE
        for step in steps:
            seen.append(step)
            if not isinstance(step, Claim):
                clock.now += step
            else:
                publish(queue, step)
            if clock.now > end:
                break
        return seen

    def test_where_a_claim_cannot_be_removed(
        self, a: Queue, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        claimed(a)
        rename = Path.rename

        def refused(path: Path, target: Path) -> Path:
            if path.name == KEY:
                raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", refused)
        self.rounds(b, clock, 2.5)
        assert not caplog.records
        self.rounds(b, clock, 30)
        said = [record.getMessage() for record in caplog.records]
        assert 2 <= len(said) <= 4  # ever less often
        assert said[0].startswith("worker b: no chunk could be claimed for 3")
        assert f"1 are left ({b.store.claims / KEY}: Operation not permitted (EPERM))" in said[0]

    def test_where_its_own_claims_are_never_won(
        self, b: Queue, clock: Clock, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """As where link counts stop to be told: the probe of the start has found them."""
        link = os.link
        monkeypatch.setattr(
            os, "link", lambda one, two: link(one, two) if Path(two).name.startswith(".") else None
        )
        self.rounds(b, clock, 10)
        (first, *_) = [record.getMessage() for record in caplog.records]
        assert "no chunk could be claimed for 3" in first and "2 are left" in first

    def test_not_where_another_worker_lives(
        self, a: Queue, b: Queue, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        claim = claimed(a)
        for step in b.steps([KEY]):
            assert isinstance(step, float)
            clock.now += step
            claim.beat(a.pace)
            a.pace.step()
            if clock.now > 1000 + 30 * LEASE:
                break
        assert not caplog.records


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_claims_of_another_user_in_a_folder_where_only_owners_may_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 1777, as of /tmp: the worker of another user cannot take this one's claim over."""
    first = worker(tmp_path, "root")
    claimed(first)
    for folder in (tmp_path / "queue").iterdir():
        folder.chmod(0o1777)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above are closed to others
    said = Path("said")
    said.touch()
    pid = os.fork()
    if not pid:
        logger = logging.getLogger("virnuc_rules")
        logger.handlers = [logging.FileHandler(said)]
        os.setuid(65534)
        try:
            with Queue(Path(), "other", 0.2) as queue:
                end = time.monotonic() + 60
                for step in queue.steps([KEY]):
                    time.sleep(min(0.05, float(step)))  # type: ignore[arg-type]
                    if said.stat().st_size or time.monotonic() > end:
                        break
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert "queue/claims/ab" in said.read_text() and "(EPERM)" in said.read_text()
