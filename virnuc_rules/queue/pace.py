"""How far a worker is, and when it must be taken to hang."""

import threading
import time

PATIENCE = 3  # leases until a worker says what does not go on
BEATS_PER_LEASE = 5  # of a worker's counters; others look as often
_SLOWEST = 20  # a step may take this many times as long as the slowest before it
_LEASES = 10  # at least; 10 minutes with the default lease
_FIRST_LEASES = 60  # before the first chunk is done: an hour


class Pace:
    """Counts the steps of a worker: micro-batches, reads, writes. Threads may share it."""

    def __init__(self, lease_seconds: float) -> None:
        self.steps = 0
        self._lease = lease_seconds
        self._slowest: float | None = None  # seconds, of the chunks that are done
        self._slowest_now = 0.0  # of the chunk at work
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Begin a chunk: the time before it was no step."""
        with self._lock:
            self.steps += 1
            self._last, self._slowest_now = time.monotonic(), 0.0

    def step(self) -> None:
        """Count a step that has just ended."""
        with self._lock:
            now = time.monotonic()
            self.steps += 1
            self._slowest_now = max(self._slowest_now, now - self._last)
            self._last = now

    def done(self) -> None:
        """End a chunk: its slowest step is now known to be normal."""
        self.step()
        with self._lock:
            self._slowest = max(self._slowest or 0.0, self._slowest_now)

    def forgive(self, seconds: float) -> None:
        """Do not count time in which the process was stopped."""
        with self._lock:
            self._last = min(self._last + seconds, time.monotonic())

    def still(self) -> float:
        """Return the seconds since the last step."""
        return time.monotonic() - self._last

    def limit(self) -> float:
        """Return the seconds after which a step counts as hanging."""
        if self._slowest is None:
            return _FIRST_LEASES * self._lease
        return max(_SLOWEST * self._slowest, _LEASES * self._lease)
