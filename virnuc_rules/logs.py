"""Where a verb says what it does: lines on standard error, and a log file for each attempt."""

import logging
import os
import re
from pathlib import Path

logger = logging.getLogger("virnuc_rules")


def start_log(log: Path | None) -> Path | None:
    """Log to standard error, a line an event; and to a file, with times and tracebacks.

    The file is `NAME.attempt-N.log`, N counting up: Snakemake deletes the logs it knows before it
    tries a job again, and what was said before is wanted then. `log` itself becomes another name
    of the newest. Returns the file.
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
    """Create the next attempt's file, which no other process has, and name it `log` too."""
    pattern = re.compile(re.escape(log.stem) + r"\.attempt-(\d+)" + re.escape(log.suffix))
    found = (pattern.fullmatch(path.name) for path in log.parent.iterdir())
    number = 1 + max((int(match[1]) for match in found if match), default=0)
    while True:
        attempt = log.with_name(f"{log.stem}.attempt-{number}{log.suffix}")
        try:
            attempt.touch(exist_ok=False)
        except FileExistsError:  # another started at the same moment
            number += 1
            continue
        link = log.with_name(f".{attempt.name}.link")
        os.link(attempt, link)
        link.replace(log)
        return attempt
