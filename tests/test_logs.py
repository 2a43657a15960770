"""Log files: one for each attempt, and the newest under the name that Snakemake knows."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from virnuc_rules.logs import logger, start_log


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = logger.handlers, logger.level
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level = handlers, level


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_attempt_has_its_own_file(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "0.log"
    for number in (1, 2, 3):
        attempt = start_log(log)
        assert attempt == tmp_path / "logs" / f"0.attempt-{number}.log"
        logger.info("attempt %d", number)
        assert "INFO attempt" in log.read_text() and log.samefile(attempt)
        if number == 2:
            log.unlink()  # Snakemake does that before it tries again
    assert names(log.parent) == ["0.attempt-1.log", "0.attempt-2.log", "0.attempt-3.log", "0.log"]
    texts = [(log.parent / f"0.attempt-{number}.log").read_text() for number in (1, 2, 3)]
    assert [re.findall(r"attempt \d", text) for text in texts] == [
        ["attempt 1"], ["attempt 2"], ["attempt 3"],
    ]  # fmt: skip


def test_numbers_count_on_above_ten_and_other_logs_do_not_count(tmp_path: Path) -> None:
    for name in ("0.attempt-9.log", "0.attempt-10.log", "1.attempt-70.log", "0.attempt-x.log"):
        (tmp_path / name).touch()
    assert start_log(tmp_path / "0.log") == tmp_path / "0.attempt-11.log"


def test_details_go_to_the_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_log(tmp_path / "0.log")
    logger.info("a line")
    logger.debug("Traceback")
    assert capsys.readouterr().err == "a line\n"
    text = (tmp_path / "0.log").read_text()
    assert "INFO a line" in text and "DEBUG Traceback" in text


def test_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert start_log(None) is None
    assert logging.getLogger("virnuc_rules.serving.worker").isEnabledFor(logging.INFO)
    logger.warning("a line")
    assert capsys.readouterr().err == "a line\n"


def test_processes_at_once_get_different_files(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from virnuc_rules.logs import logger, start_log\n"
        "sys.stdin.buffer.raw.read(1)\n"
        "for _ in range(20): start_log(Path(sys.argv[1])); logger.debug('mine')"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "0.log")]
    begin, write = os.pipe()
    processes = [subprocess.Popen(command, stdin=begin) for _ in range(4)]
    os.close(begin)
    os.write(write, b"1234")
    os.close(write)
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    expected = [f"0.attempt-{number}.log" for number in range(1, 81)]
    assert names(tmp_path) == sorted([*expected, "0.log"])
    assert all((tmp_path / name).read_text().count("mine") == 1 for name in expected)
