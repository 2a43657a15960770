"""How long claims have stood still, by the observer's own clock."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from virnuc_rules.files.environment import read_regular
from virnuc_rules.queue.claim_text import ClaimText
from virnuc_rules.queue.store import Store


@dataclass
class Seen:
    """A claim as it was read last."""

    content: bytes
    claim: ClaimText | None  # None: the text is none of ours
    read: float | None  # when that read ended; None: the reads since have failed
    has_moved: bool = False  # its counter of life rose since the read before
    is_alive: bool = False  # it was seen to rise
    life_still: float = 0.0  # seconds
    work_still: float = 0.0

    def follow(self, before: "Seen", seconds: float) -> None:
        """Go on from what was read so many seconds before, as far as nothing has changed."""
        mine, last = self.claim, before.claim
        if mine and last and mine.identity == last.identity:
            self.has_moved = mine.life != last.life
            self.is_alive = before.is_alive or self.has_moved
            is_same_life, is_same_work = mine.life == last.life, mine.work == last.work
        else:
            is_same_life = is_same_work = self.content == before.content
        if is_same_life:
            self.life_still = before.life_still + seconds
        if is_same_work:
            self.work_still = before.work_still + seconds

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
        self.moved = 0  # how often a counter of life was seen to rise

    def look(self, path: Path, first_age: float = 0.0) -> Seen | None:
        """Read a claim; None if there is none. Raises OSError if that cannot be known.

        first_age: seconds for which a claim that is new to this observer has stood still.
        """
        key, before = path.name, self.seen.get(path.name)
        begun = time.monotonic()
        try:
            content = read_regular(path)
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
        else:
            gap = 0.0 if before.read is None else begun - before.read
            now.follow(before, min(gap, self.lease_seconds / 2))
            self.moved += now.has_moved
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
