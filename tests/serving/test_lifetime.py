"""What ends a worker from outside."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import wait_until

from virnuc_rules.serving.lifetime import Lifetime

NO_ROOM = "no other chunk fits into the job's time"


@pytest.fixture
def reasons() -> list[str]:
    return []


def test_without_a_limit_no_chunk_is_too_long(reasons: list[str]) -> None:
    with Lifetime(0, reasons.append, reasons.append) as lifetime:
        lifetime.chunk_took(1e9)
    assert reasons == []


@pytest.mark.parametrize(
    ("minutes", "fits", "too_long"),
    [
        (10, 420, 440),  # a minute is kept: 540 s are left, of which a chunk may take 4 / 5
        (2, 70, 73),  # half a minute is kept
        (100, 4670, 4710),  # two minutes are kept
        (0.5, 11, 13),  # half of it is kept
    ],
)
def test_a_chunk_must_fit(reasons: list[str], minutes: float, fits: float, too_long: float) -> None:
    with Lifetime(minutes, reasons.append, reasons.append) as lifetime:
        lifetime.chunk_took(fits)
        lifetime.chunk_took(0.1)
        assert reasons == []
        lifetime.chunk_took(too_long)
        lifetime.chunk_took(too_long)  # said once only
        assert reasons == [NO_ROOM]


def test_the_longest_chunk_counts(reasons: list[str]) -> None:
    with Lifetime(10, reasons.append, reasons.append) as lifetime:
        for seconds in (100, 440, 1):
            lifetime.chunk_took(seconds)
    assert reasons == [NO_ROOM]


def test_the_time_is_over(reasons: list[str]) -> None:
    with Lifetime(0.01, reasons.append, reasons.append):
        wait_until(lambda: reasons)
    assert reasons == ["the job's time is over"]


CHILD = """
import sys, threading, psutil
from virnuc_rules.serving.lifetime import Lifetime
over = threading.Event()
with Lifetime(0, lambda reason: (print(reason, flush=True), over.set()), print):
    print("begun", flush=True)
    over.wait(120)
"""
PARENT = (
    "import subprocess, sys; subprocess.run(['sh', '-c', '\"$0\" -c \"$1\"; true', *sys.argv[1:]])"
)


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "gone"])
def test_snakemake_is_gone(tmp_path: Path, reaped: bool) -> None:
    """It may be a zombie, if who started it does not look after it."""
    script = tmp_path / "snakemake"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script, sys.executable, CHILD], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    if reaped:
        parent.wait()
    assert parent.stdout.read() == "Snakemake is gone\n"
    parent.wait()


def test_another_program_may_go(tmp_path: Path) -> None:
    """A worker that was started by hand outlives its shell, and ends when its work does."""
    script = tmp_path / "shell"
    script.write_text(PARENT)
    child = CHILD.replace("over.wait(120)", "over.wait(2)")
    parent = subprocess.Popen(
        [sys.executable, script, sys.executable, child], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    assert parent.stdout.read() == ""
    parent.wait()
