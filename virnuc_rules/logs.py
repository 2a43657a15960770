"""The log of a command: lines on standard error, and a log file for each attempt."""

import logging
import os
import re
from pathlib import Path

logger = logging.getLogger("virnuc_rules")


def start_log(log: Path | None) -> Path | None:
    """Log to standard error, one line per event, and to a file with times and tracebacks.

    The file is `NAME.attempt-N.log`, N counting up: Snakemake deletes the logs it knows before it
    runs a job again, and the log of the failed attempt must stay. `log` becomes a second name of
    the newest file. Returns the file, or None without `log`.
    """
    logger.setLevel(logging.DEBUG)
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [terminal]
    logging.raiseExceptions = False  # a full disk would print a traceback for every line
    if log is None:
        return None
    log.parent.mkdir(parents=True, exist_ok=True)
    attempt = _new_attempt(log)
    file = logging.FileHandler(attempt)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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
