"""Progress of a command: a bar on a terminal, and log lines with percent and remaining time."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from virnuc_rules.errors import printable
from virnuc_rules.terminal import Terminal

logger = logging.getLogger(__name__)

_SECONDS = 10.0  # minimum time between two lines


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the amount of work done since its last call.

    total: the amount of all work; None = unknown. The bar is only for a terminal, and is removed
    when the work ends. Lines are written at most every ten seconds, also to standard error if that
    is no terminal.
    """
    console = Terminal(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    level = logging.DEBUG if console.is_terminal else logging.INFO
    done, begin = 0, time.monotonic()
    last = begin
    with bar:
        task = bar.add_task(printable(title), total=total)

        def advance(amount: int) -> None:
            nonlocal done, last
            bar.advance(task, amount)
            done += amount
            now = time.monotonic()
            if now - last >= _SECONDS:
                last = now
                logger.log(level, "%s: %s", title, _text(done, total, now - begin))

        yield advance


def _text(done: int, total: int | None, seconds: float) -> str:
    if not total or not done:
        return f"at work for {_clock(seconds)}"
    fraction = min(1.0, done / total)
    return f"{fraction:.0%} done, {_clock(seconds / fraction - seconds)} left"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
