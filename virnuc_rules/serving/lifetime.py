"""The end of a worker that comes from outside: signals, time, a gone Snakemake, a hanging step.

A worker is asked to stop first: it ends after its micro-batch and releases its claims. Where its
main thread does not answer (it hangs in a driver, a lock, a pipe), a thread does it by force. Code
that hangs while holding the GIL stops all threads of Python; then `faulthandler`, which needs no
GIL, prints the traceback and exits with 1. Claims are then taken over by others.
"""

import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

import psutil

logger = logging.getLogger(__name__)

# What schedulers and terminals send to end a job.
SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_POLL = 0.5  # seconds
_AWAY = 5.0  # seconds between two looks: the process, or its machine, was stopped meanwhile
_GRACE = 10.0  # seconds from being asked to stop to the end by force; Slurm kills after 30
_WITHOUT_GIL = 3600.0  # seconds in which no other thread of Python has run; a job may be suspended
_MIN_RESERVE, _MAX_RESERVE = 30.0, 120.0  # seconds, for starting and ending the process
_MARGIN = 1.25  # the next chunk may take this many times as long as the longest before it


class Interrupted(Exception):
    """The worker was asked to stop: its claims are to be released."""


class Lifetime:
    """Calls `stop(reason)`, once, when the worker must end, and `force(reason)` if it does not.

    `force` must end the process; `hangs` says, where the work does not go on, since when.
    `minutes` is the maximum duration of the job, 0 = no limit; a tenth of it, at least 30 s and at
    most 2 minutes, is kept for starting and ending. A worker that Snakemake started ends with
    Snakemake, since nobody would wait for it or see its errors. Use it as a context manager, in the
    main thread.
    """

    def __init__(
        self,
        minutes: float,
        stop: Callable[[str], None],
        force: Callable[[str], None],
        hangs: Callable[[float], str] = lambda away: "",
    ) -> None:
        seconds = 60 * minutes
        reserve = min(max(_MIN_RESERVE, seconds / 10), _MAX_RESERVE, seconds / 2)
        self._end = time.monotonic() + seconds - reserve if minutes else float("inf")
        self._snakemake = next(iter(snakemakes()), None)  # the nearest
        self._longest = 0.0
        self._stop, self._force, self._hangs = stop, force, hangs
        self._stopped: tuple[str, float] | None = None  # why, and when
        self._limit: tuple[float, Callable[[], None]] | None = None  # see `limited`
        self._lock = threading.RLock()  # a signal handler may come while it is held
        self._closed = threading.Event()
        self._pipe = (-1, -1)  # written to by C, see `__enter__`
        self._before: dict[int, object] = {}
        self._thread = threading.Thread(target=self._watch, name="lifetime", daemon=True)

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        # Written to by the handler in C, also while the main thread runs no Python.
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        for end in self._pipe:
            os.close(end)

    def chunk_took(self, seconds: float) -> None:
        """Stop if another chunk of the longest duration would not fit into the job's time."""
        self._longest = max(self._longest, seconds)
        if time.monotonic() + _MARGIN * self._longest > self._end:
            self.stop("no other chunk fits into the job's time", self._end)

    @contextlib.contextmanager
    def limited(self, seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
        """Call `give_up`, which must end the process, if the block takes longer than `seconds`.

        A signal in the block raises Interrupted in the main thread: for loading, which is long.
        """
        self._limit = time.monotonic() + seconds, give_up
        _end_without_gil(seconds + _GRACE / 2)
        try:
            yield
        finally:
            with self._lock:
                self._limit = None
            _end_without_gil(_WITHOUT_GIL)

    def stop(self, reason: str, until: float = 0.0) -> None:
        """Ask the worker to stop; only the first reason counts.

        until: it may go on with what it does; only after this time the grace time begins.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = reason, max(time.monotonic(), until)
        if threading.current_thread() is not self._thread:
            self._stop(reason)
        else:  # `stop` logs, and a log may hang: this thread must go on
            threading.Thread(target=self._stop, args=(reason,), daemon=True).start()

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal in the main thread, between two steps of Python."""
        self.stop(_interrupted_by(number))
        if self._limit:
            raise Interrupted

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closed.is_set():
            try:
                for number in self._signals():
                    self.stop(_interrupted_by(number))
                now = time.monotonic()
                away, last = max(0.0, now - last - _AWAY), now
                self._turn(now, away)
            except Exception:  # no memory, no more open files: the next turn may go well
                logger.debug("%s", traceback.format_exc())
                time.sleep(_POLL)

    def _turn(self, now: float, away: float) -> None:
        """Look once at all that may end the worker; away: seconds that the process was stopped."""
        with self._lock:
            if self._limit:
                self._limit = self._limit[0] + away, self._limit[1]
            limit = self._limit
        if now > self._end:
            self.stop("the job's time is over")
        elif self._snakemake and not _is_alive(self._snakemake):
            self.stop("Snakemake is gone")
        if self._stopped and now > self._stopped[1] + _GRACE:
            self._force(f"{self._stopped[0]}; it did not stop within {_GRACE:g} s")
        elif limit and now > limit[0]:
            limit[1]()
        elif hangs := self._hangs(away):
            self._force(hangs)
        elif not limit:
            _end_without_gil(_WITHOUT_GIL)

    def _signals(self) -> bytes:
        """Wait a little for signals; return their numbers."""
        ready, _, _ = select.select(self._pipe[:1], [], [], _POLL)
        if not ready:
            return b""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._pipe[0], 64)
        return b""


def _end_without_gil(seconds: float) -> None:
    """Let the process end after so many seconds, unless this is called again."""
    if sys.__stderr__:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)


def _interrupted_by(number: int) -> str:
    return f"interrupted by {signal.Signals(number).name}"


def snakemakes() -> list[psutil.Process]:
    """Return the Snakemake processes above this process, the nearest first."""
    return [process for process in psutil.Process().parents() if _is_snakemake(process)]


def _is_snakemake(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    if words and Path(words[0]).name.startswith("python"):  # python [-options] [-m] snakemake
        words = [word for word in words[1:4] if not word.startswith("-")]
    return bool(words) and Path(words[0]).name == "snakemake"


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):  # such as too many open files
        return True
