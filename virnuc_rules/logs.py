"""What a command says: standard output, lines on standard error, a log file for each attempt."""

import logging
import os
import re
import sys
from pathlib import Path
from typing import TextIO

from virnuc_rules.errors import printable

logger = logging.getLogger("virnuc_rules")


def say(text: object, file: TextIO | None = None) -> None:
    """Print lines or a JSON document, which stays one; by default to standard output."""
    print(printable(str(text), "\n\t"), file=file or sys.stdout, flush=True)


class _Printable(logging.Formatter):
    """One line for each event; only a traceback, which is for the file, has several."""

    def format(self, record: logging.LogRecord) -> str:
        is_traceback = record.levelno == logging.DEBUG
        return printable(super().format(record), "\n\t" if is_traceback else "\t")


def start_log(log: Path | None) -> Path | None:
    """Log to standard error, one line per event, and to a file with times and tracebacks.

    The file is `NAME.attempt-N.log`, N counting up: Snakemake deletes the logs it knows before it
    runs a job again, and the log of the failed attempt must stay. `log` becomes a second name of
    the newest file. Returns the file, or None without `log`.
    """
    logger.setLevel(logging.DEBUG)
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    terminal.setFormatter(_Printable("%(message)s"))
    logger.handlers = [terminal]
    logging.raiseExceptions = False  # a full disk would print a traceback for every line
    if log is None:
        return None
    log.parent.mkdir(parents=True, exist_ok=True)
    attempt = _new_attempt(log)
    file = logging.FileHandler(attempt)
    file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(file)
    return attempt


def _new_attempt(log: Path) -> Path:
    """Create the file of the next attempt and make `log` a second name of it."""
    pattern = re.compile(re.escape(log.stem) + r"\.attempt-(\d+)" + re.escape(log.suffix))
    matches = (pattern.fullmatch(path.name) for path in log.parent.iterdir())
    attempts = max((int(match[1]) for match in matches if match), default=0)
    while True:
        attempts += 1
        attempt = log.with_name(f"{log.stem}.attempt-{attempts}{log.suffix}")
        try:
            attempt.touch(exist_ok=False)
        except FileExistsError:  # another process created it at the same moment
            continue
        link = log.with_name(f".{attempt.name}.link")
        os.link(attempt, link)
        link.replace(log)
        return attempt
