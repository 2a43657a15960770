"""The owners of claimed tasks, for an observer that claims nothing."""

import time

from virnuc_rules.queue.claim_text import ClaimText
from virnuc_rules.queue.store import Store, listing


class Heartbeats:
    """Observes the claims of a run, once or repeatedly; claims are only read.

    The first time, the age of a claim is the age of its file, which is wrong by the difference
    between the clocks of two machines. Later it is as for a worker: a claim is dead when its
    counter stood still for `lease_seconds` of this machine's clock.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._seen: dict[str, tuple[bytes, float]] = {}  # content, and when it was first seen

    def owners(self, store: Store) -> dict[str, str | None]:
        """Return the claimed keys with their owner; None where the heartbeat has stopped."""
        owners: dict[str, str | None] = {}
        for key in listing(store.claims):
            if key.startswith("."):
                continue  # a claim that is being created or removed
            path = store.claims / key
            try:
                content, age = path.read_bytes(), time.time() - path.stat().st_mtime
            except OSError:
                continue  # released in the meantime
            now = time.monotonic()
            before, since = self._seen.get(key, (b"", now - max(age, 0.0)))
            if before and before != content:
                since = now
            self._seen[key] = content, since
            claim = ClaimText.parse(content)
            owners[key] = claim.owner if claim and now - since < self.lease_seconds else None
        return owners
