"""Stopping a worker when the time of its job is over, or when its Snakemake has ended."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

_POLL = 0.5  # seconds
_MIN_RESERVE, _MAX_RESERVE = 30.0, 120.0  # seconds, for starting and ending the process
_MARGIN = 1.25  # the next chunk may take this many times as long as the longest before it


class Lifetime:
    """Calls `stop(reason)`, once, when the worker must end; use it as a context manager.

    `minutes` is the maximum duration of the job, 0 = no limit; a tenth of it, at least 30 s and at
    most 2 minutes, is kept for starting and ending. A worker that Snakemake started ends with
    Snakemake, since nobody would wait for it or see its errors.
    """

    def __init__(self, minutes: float, stop: Callable[[str], None]) -> None:
        seconds = 60 * minutes
        reserve = min(max(_MIN_RESERVE, seconds / 10), _MAX_RESERVE, seconds / 2)
        self._end = time.monotonic() + seconds - reserve if minutes else float("inf")
        self._snakemake = next(iter(snakemakes()), None)  # the nearest
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
        """Stop if another chunk of the longest duration would not fit into the job's time."""
        self._longest = max(self._longest, seconds)
        if time.monotonic() + _MARGIN * self._longest > self._end:
            self._stop_once("no other chunk fits into the job's time")

    def _watch(self) -> None:
        while not self._closed.wait(_POLL):
            if time.monotonic() > self._end:
                self._stop_once("the job's time is over")
            elif self._snakemake and not _is_alive(self._snakemake):
                self._stop_once("Snakemake is gone")

    def _stop_once(self, reason: str) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._stop(reason)


def snakemakes() -> list[psutil.Process]:
    """Return the Snakemake processes above this process, the nearest first."""
    return [process for process in psutil.Process().parents() if _is_snakemake(process)]


def _is_snakemake(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()[:3]  # python snakemake, python -m snakemake
    except psutil.Error:
        return False
    return any(Path(word).name == "snakemake" for word in words)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
