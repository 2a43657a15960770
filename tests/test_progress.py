"""Progress: a bar on a terminal, lines in the log, and silence where the work is short."""

import logging
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from harness import BIN, DEMO, without_settings

from virnuc_rules import progress as module
from virnuc_rules.progress import progress


class Clock:
    """Stands in for time: it moves when it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        patch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_lines_say_percent_and_time_left(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "virnuc_rules")
    with progress("chunk lake", 4000) as advance:
        for _ in range(40):
            clock.now += 1
            advance(100)
    assert lines(caplog) == [
        "chunk lake: 25% done, 0:00:30 left",
        "chunk lake: 50% done, 0:00:20 left",
        "chunk lake: 75% done, 0:00:10 left",
        "chunk lake: 100% done, 0:00:00 left",
    ]
    assert capsys.readouterr() == ("", "")


def test_short_work_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "virnuc_rules")
    with progress("chunk lake", 10) as advance:
        clock.now += 9
        advance(10)
    assert lines(caplog) == []


def test_an_unknown_or_wrong_total(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Standard input has no size, and a file may grow."""
    caplog.set_level(logging.INFO, "virnuc_rules")
    for total in (None, 0, 5):
        with progress("chunk", total) as advance:
            clock.now += 75
            advance(10)
    assert lines(caplog) == [
        "chunk: at work for 0:01:15",
        "chunk: at work for 0:01:15",
        "chunk: 100% done, 0:00:00 left",
    ]


def test_what_fails_inside_comes_out() -> None:
    with pytest.raises(ZeroDivisionError), progress("chunk", 10):
        1 / 0  # noqa: B018


def on_a_terminal(*command: str) -> tuple[int, str]:
    """Run a command whose standard error is a terminal; its exit status and what it drew."""
    terminal, terminal_of_command = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stderr=terminal_of_command, env=environment)
    os.close(terminal_of_command)
    drawn = b""
    try:
        while part := os.read(terminal, 1 << 16):
            drawn += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(terminal)
    return process.wait(timeout=120), drawn.decode()


def test_the_command_draws_a_bar_on_a_terminal_only(tmp_path: Path) -> None:
    log = tmp_path / "chunk.log"
    command = [str(BIN / "virnuc-rules"), "chunk", str(DEMO["lake"]), "--log", str(log)]
    code, drawn = on_a_terminal(*command, "--out", str(tmp_path / "a"))
    assert code == 0
    assert "chunk lake" in drawn and re.search(r"100\s*%", drawn)
    left = drawn.rpartition("\x1b[2K")[2]  # after the last line that was erased
    assert "chunk lake" not in left and left.rstrip().endswith("chunks")
    run = [*command, "--out", str(tmp_path / "b")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "" and len(without_settings(done.stderr).splitlines()) == 1
    assert len(log.read_text().splitlines()) == 2  # where the settings are from; what was made
