"""Who is at work on which task, as an onlooker sees it who claims nothing."""

import time

from virnuc_rules.queue.claim_text import ClaimText
from virnuc_rules.queue.store import Store, listing


class Heartbeats:
    """The claims of a run, looked at once or again and again; they are only read.

    At the first look a claim's age is its file's time by our clock, which may be wrong by what the
    clocks differ. From then on it is as for a worker: the counter must not stand still for
    `lease_seconds` of our own clock.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._seen: dict[str, tuple[bytes, float]] = {}  # content, and when it was new to us

    def owners(self, store: Store) -> dict[str, str | None]:
        """Return the claimed keys with their owner; None where the heartbeat has stopped."""
        owners: dict[str, str | None] = {}
        for key in listing(store.claims):
            if key.startswith("."):
                continue  # a claim that is being made or removed
            path = store.claims / key
            try:
                content, age = path.read_bytes(), time.time() - path.stat().st_mtime
            except OSError:
                continue  # released meanwhile
            now = time.monotonic()
            before, since = self._seen.get(key, (b"", now - max(age, 0.0)))
            if before and before != content:
                since = now
            self._seen[key] = content, since
            claim = ClaimText.parse(content)
            owners[key] = claim.owner if claim and now - since < self.lease_seconds else None
        return owners
