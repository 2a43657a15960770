"""What the file of a claim says, and the names in it: formatted and parsed here only."""

import os
import re
import uuid
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"\.([^.]+)\.(.+)-(\d+) (\d+)\n")
_OWNER = re.compile(r"(.+)-(\d+)-[0-9a-f]+")
_LONGEST = 40  # characters of a name: an owner is part of file names, which may have 255 bytes


def new_owner(worker: str, host: str) -> str:
    """Name a worker of this process as the owner of claims, unlike any other one."""
    return f"{worker[:_LONGEST]}-{host[:_LONGEST]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def name_and_pid(owner: str) -> tuple[str, int]:
    """Return an owner's worker and host, as one name, and its process id."""
    parts = _OWNER.fullmatch(owner)
    return (parts[1], int(parts[2])) if parts else (owner, 0)


@dataclass
class ClaimText:
    """The `number`-th claim of `owner`, for `key`; `beats` is the counter of its heartbeat."""

    key: str
    owner: str
    number: int
    beats: int = 0

    @property
    def identity(self) -> str:
        """What the file begins with, unique to this claim; also the file's first name."""
        return f".{self.key}.{self.owner}-{self.number}"

    @property
    def beginning(self) -> bytes:
        """What the file begins with however often the heart has beaten."""
        return f"{self.identity} ".encode()

    def content(self) -> bytes:
        """Return what the file says: identity and counter, always of the same length."""
        return self.beginning + f"{self.beats:012d}\n".encode()

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Read what `content` wrote; None for anything else."""
        parts = _TEXT.fullmatch(content.decode(errors="replace"))
        return cls(parts[1], parts[2], int(parts[3]), int(parts[4])) if parts else None
