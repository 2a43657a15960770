"""What ends a worker from outside."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import wait_until

from virnuc_rules.serving import lifetime as lifetime_module
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


def test_a_chunk_that_is_being_written_has_the_rest_of_the_time(reasons: list[str]) -> None:
    forced: list[str] = []
    with Lifetime(100, reasons.append, forced.append) as lifetime:
        lifetime.chunk_took(5000)
        lifetime._turn(time.monotonic() + 60, 0.0)
        assert reasons == [NO_ROOM] and forced == []
        lifetime._turn(lifetime._end + 11, 0.0)
    assert forced == [f"{NO_ROOM}; it did not stop within 10 s"]


def test_what_fails_once_does_not_end_the_watch(
    reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as too many open files: the next look may go well."""
    turns = iter([OSError(24, "Too many open files"), MemoryError(), RuntimeError("no thread")])

    def hangs(away: float) -> str:
        for error in turns:
            raise error
        return "it hangs"

    with Lifetime(0, reasons.append, reasons.append, hangs):
        wait_until(lambda: reasons)
    assert reasons[0] == "it hangs"


def test_time_in_which_the_process_was_stopped_does_not_count(reasons: list[str]) -> None:
    away: list[float] = []
    with (
        Lifetime(0, reasons.append, reasons.append, lambda gap: away.append(gap) or "") as one,
        one.limited(100, lambda: reasons.append("too long")),
    ):
        one._turn(time.monotonic() + 150, 145.0)
        assert reasons == [] and away[-1] == 145.0
        one._turn(time.monotonic() + 300, 0.0)
    assert "too long" in reasons


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        (["python3.11", "/x/bin/snakemake", "--cores", "2"], True),
        (["/usr/bin/python", "-m", "snakemake"], True),
        (["python", "-IS", "/tmp/fork/snakemake"], True),
        (["snakemake"], True),
        (["screen", "-S", "snakemake"], False),
        (["bash", "-s", "snakemake"], False),
        (["vim", "snakemake"], False),
        ([], False),
    ],
)
def test_which_process_is_snakemake(words: list[str], is_one: bool) -> None:
    class Process:
        def cmdline(self) -> list[str]:
            return words

    assert lifetime_module._is_snakemake(Process()) is is_one  # type: ignore[arg-type]


def test_the_time_is_over(reasons: list[str]) -> None:
    with Lifetime(0.01, reasons.append, reasons.append):
        wait_until(lambda: reasons)
    assert reasons == ["the job's time is over"]


CHILD = """
import sys, threading, psutil
from virnuc_rules.serving import lifetime as lifetime_module
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
