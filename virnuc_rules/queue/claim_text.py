"""The format of a claim's file and of the names in it."""

import os
import re
import uuid
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"\.([^.]+)\.(.+)-(\d+) (\d+)\n")
_OWNER = re.compile(r"(.+)-(\d+)-[0-9a-f]+")
_MAX_NAME = 40  # characters: an owner is part of file names, which have at most 255 bytes


def new_owner(worker: str, host: str) -> str:
    """Return a unique name for a worker of this process as an owner of claims."""
    return f"{worker[:_MAX_NAME]}-{host[:_MAX_NAME]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def name_and_pid(owner: str) -> tuple[str, int]:
    """Return the `<worker>-<host>` of an owner and its process id (0 if it has none)."""
    parts = _OWNER.fullmatch(owner)
    return (parts[1], int(parts[2])) if parts else (owner, 0)


@dataclass
class ClaimText:
    """The claim `index` of `owner`, for `key`; `beats` is the counter of its heartbeat."""

    key: str
    owner: str
    index: int
    beats: int = 0

    @property
    def identity(self) -> str:
        """The text that identifies this claim; also the name under which the file is created."""
        return f".{self.key}.{self.owner}-{self.index}"

    @property
    def beginning(self) -> bytes:
        """The part of the content that no heartbeat changes."""
        return f"{self.identity} ".encode()

    def content(self) -> bytes:
        """Return the content of the file: identity and counter, always of the same length."""
        return self.beginning + f"{self.beats:012d}\n".encode()

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Parse the result of `content`; None for anything else."""
        parts = _TEXT.fullmatch(content.decode(errors="replace"))
        return cls(parts[1], parts[2], int(parts[3]), int(parts[4])) if parts else None
