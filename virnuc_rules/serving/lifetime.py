"""What ends a worker from outside: the end of its job's time, or the death of its Snakemake."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

_POLL = 0.5  # seconds
_LEAST_RESERVE, _MOST_RESERVE = 30.0, 120.0  # seconds: the job began before us, and we must end
_MARGIN = 1.25  # a chunk may take so much longer than the longest before it


class Lifetime:
    """Calls `stop(reason)`, once, when the worker must end; use it as a context manager.

    `minutes` is how long the job may last; a tenth of it, but not less than 30 s or more than 2
    minutes, is kept for starting and ending. 0: as long as it likes. A worker that was started by
    Snakemake ends when that is gone: nobody would wait for it, or see its errors.
    """

    def __init__(self, minutes: float, stop: Callable[[str], None]) -> None:
        seconds = 60 * minutes
        reserve = min(max(_LEAST_RESERVE, seconds / 10), _MOST_RESERVE, seconds / 2)
        self._end = time.monotonic() + seconds - reserve if minutes else float("inf")
        self._snakemake = _snakemake()
        self._longest = 0.0
        self._stop = stop
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lifetime", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def chunk_took(self, seconds: float) -> None:
        """Stop where another chunk that takes as long would not fit any more."""
        self._longest = max(self._longest, seconds)
        if time.monotonic() + _MARGIN * self._longest > self._end:
            self._stop_once("no other chunk fits into the job's time")

    def _watch(self) -> None:
        while not self._closed.wait(_POLL):
            if time.monotonic() > self._end:
                self._stop_once("the job's time is over")
            elif self._snakemake and not _lives(self._snakemake):
                self._stop_once("Snakemake is gone")

    def _stop_once(self, reason: str) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._stop(reason)


def _snakemake() -> psutil.Process | None:
    """Return the nearest Snakemake above this process, None where a person started it."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()[:3]  # python snakemake, python -m snakemake
        except psutil.Error:
            continue
        if any(Path(word).name == "snakemake" for word in words):
            return process
    return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
