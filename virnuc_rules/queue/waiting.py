"""How a worker waits: until it is interrupted, or until a server that is away is back."""

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from virnuc_rules.errors import VirnucError, one_line
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.files.probe import probe

logger = logging.getLogger(__name__)

LONGEST_OUTAGE = 1800.0  # seconds for which workers wait for a server that is away
_PAUSE = 2.0  # seconds between two questions whether it is back
# A server that does not answer, or a client that is cut off: NFS, Lustre, GPFS, BeeGFS, FUSE.
_AWAY = {
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ECOMM, errno.ENOLINK, errno.EREMOTEIO,
    errno.EBADFD, errno.ENODEV,
}  # fmt: skip


class Interruption:
    """Ends `drain`. An Event that a signal handler of the waiting thread may set, too."""

    def __init__(self) -> None:
        self._set = False
        self._wake: SimpleQueue[None] = SimpleQueue()  # reentrant, unlike the lock of Event

    def set(self) -> None:
        """End every `wait`, also later ones."""
        self._set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Wait until it is set, at most `seconds`."""
        if not self._set:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=seconds)
                self._wake.put(None)  # for another thread that waits


class Outages:
    """Waits, in any thread, while the filesystem of `path` does not answer; see `probe`.

    step: called before each question, so that this waiting does not count as hanging.
    """

    def __init__(
        self, worker: str, path: Path, interrupted: Interruption, step: Callable[[], None]
    ) -> None:
        self._name, self._path, self._interrupted, self._step = worker, path, interrupted, step
        self._lock = threading.Lock()  # one thread asks for all
        self._back = 0.0  # when the last outage ended
        self._is_over = False  # this worker waits for nothing any more

    def outlast(self, error: Exception) -> bool:
        """Wait until the server is back; False if it is not away.

        error: after which this is asked. It is raised where that takes too long, or the worker is
        interrupted.
        """
        called = time.monotonic()
        with self._lock:
            if self._back > called:  # another thread has waited
                return True
            was_away = False
            while self._is_away():
                is_long = time.monotonic() - called > LONGEST_OUTAGE
                self._is_over = self._is_over or is_long or self._interrupted.is_set()
                if self._is_over:
                    raise error
                if not was_away:
                    logger.warning(
                        "worker %s: %s: does its server not answer? waiting for it for up to %g "
                        "minutes", self._name, environment_problem(error) or one_line(error),
                        LONGEST_OUTAGE / 60,
                    )  # fmt: skip
                was_away = True
                self._step()
                self._interrupted.wait(_PAUSE)
            if was_away:
                self._back = time.monotonic()
                logger.warning("worker %s: back after %.0f s", self._name, self._back - called)
            return was_away

    def _is_away(self) -> bool:
        try:
            probe(self._path)
        except VirnucError as error:  # not of one file, which a bad disk may say: of a new one
            return getattr(error.__cause__, "errno", None) in _AWAY
        return False
