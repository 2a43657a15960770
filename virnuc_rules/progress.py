"""How far a verb is: a bar on a terminal, lines with percent and time left in the log."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

_SECONDS = 10.0  # between lines


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that is told what of `total` is done; None where nobody knows how much it is.

    The bar is for a terminal, and goes when the work ends. Lines come at most every ten seconds;
    they go to standard error too where it is no terminal.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    lines = _Lines(title, total, logging.DEBUG if console.is_terminal else logging.INFO)
    with bar:
        task = bar.add_task(title, total=total)

        def advance(number: int) -> None:
            bar.advance(task, number)
            lines.advance(number)

        yield advance


class _Lines:
    """Says now and then how far the work is."""

    def __init__(self, title: str, total: int | None, level: int) -> None:
        self.title, self.total, self.level = title, total, level
        self.done = 0
        self.begin = self.last = time.monotonic()

    def advance(self, number: int) -> None:
        self.done += number
        now = time.monotonic()
        if now - self.last < _SECONDS:
            return
        self.last = now
        logger.log(self.level, "%s: %s", self.title, self.text(now - self.begin))

    def text(self, seconds: float) -> str:
        if not self.total or not self.done:
            return f"at work for {_clock(seconds)}"
        share = min(1.0, self.done / self.total)
        return f"{share:.0%} done, {_clock(seconds / share - seconds)} left"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
