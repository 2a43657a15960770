"""How long claims have stood still, by the observer's own clock."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from virnuc_rules.queue.claim_text import ClaimText
from virnuc_rules.queue.store import Store


@dataclass
class Seen:
    """A claim as it was read last."""

    content: bytes
    claim: ClaimText | None  # None: the text is none of ours
    read: float | None  # when that read ended; None: the reads since have failed
    life_still: float = 0.0  # seconds
    work_still: float = 0.0

    def is_lost(self, lease_seconds: float) -> bool:
        """Tell whether the owner is dead or hangs."""
        hangs = self.claim is not None and self.work_still >= self.claim.limit
        return self.life_still >= lease_seconds or hangs


class Watched:
    """Observes claims again and again; claims are only read.

    Only time between two good reads of a claim counts, and of that at most half a lease: while the
    observer or its filesystem is away, the owner may be fine.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.seen: dict[str, Seen] = {}

    def look(self, path: Path, first_age: float = 0.0) -> Seen | None:
        """Read a claim; None if there is none. Raises OSError if that cannot be known.

        first_age: seconds for which a claim that is new to this observer has stood still.
        """
        key, before = path.name, self.seen.get(path.name)
        begun = time.monotonic()
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            self.seen.pop(key, None)
            return None
        except OSError:
            if before:
                before.read = None
            raise
        now = Seen(content, ClaimText.parse(content), time.monotonic())
        if before is None:
            now.life_still = first_age
        elif before.read is not None:
            gap = min(begun - before.read, self.lease_seconds / 2)
            if _life(now) == _life(before):
                now.life_still = before.life_still + gap
            if _work(now) == _work(before):
                now.work_still = before.work_still + gap
        elif _life(now) == _life(before):
            now.life_still, now.work_still = before.life_still, before.work_still
        self.seen[key] = now
        return now

    def all(self, store: Store) -> dict[str, Seen]:
        """Read all claims by key, for an observer who may look only once.

        A claim that is new to it is as old as its file, which is wrong by the difference between
        the clocks of two machines.
        """
        found: dict[str, Seen] = {}
        for key in sorted(store.claimed()):
            path = store.claims / key
            with contextlib.suppress(OSError):  # released in the meantime
                age = max(time.time() - path.stat().st_mtime, 0.0)
                if seen := self.look(path, age):
                    found[key] = seen
        return found


def _life(seen: Seen) -> object:
    return (seen.claim.identity, seen.claim.life) if seen.claim else seen.content


def _work(seen: Seen) -> object:
    return (seen.claim.identity, seen.claim.work) if seen.claim else seen.content
