"""Two workers of a queue, with a clock that only a test moves."""

from pathlib import Path

import pytest
from test_claims import Clock, faked, worker

from virnuc_rules.queue.claims import Queue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return faked(monkeypatch)


@pytest.fixture
def a(tmp_path: Path, clock: Clock) -> Queue:
    return worker(tmp_path, "a")


@pytest.fixture
def b(tmp_path: Path, clock: Clock) -> Queue:
    return worker(tmp_path, "b")
