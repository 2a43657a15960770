"""The format of a claim's file and of the names in it."""

import os
import re
import uuid
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"\.([^.]+)\.(.+)-(\d+) (\d+) (\d+) (\d+) (\d+) (.*)\n")
_OWNER = re.compile(r"(.+)-(\d+)-[0-9a-f]+")
MAX_NAME = 40  # characters: an owner is part of file names, which have at most 255 bytes


def new_owner(worker: str, host: str) -> str:
    """Return a unique name for a worker of this process as an owner of claims."""
    return f"{worker[:MAX_NAME]}-{host[:MAX_NAME]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def name_and_pid(owner: str) -> tuple[str, int]:
    """Return the `<worker>-<host>` of an owner and its process id (0 if it has none)."""
    parts = _OWNER.fullmatch(owner)
    return (parts[1], int(parts[2])) if parts else (owner, 0)


@dataclass(kw_only=True)
class ClaimText:
    """The claim `index` of `owner`, for `key`, with two counters of its owner."""

    key: str
    owner: str
    index: int
    life: int = 0  # raised by a thread of the owner
    work: int = 0  # raised by each step of its work
    still: int = 0  # seconds since the last step, at the last rise of `life`
    limit: int = 0  # seconds: an owner that makes no step for so long hangs
    log: str = ""  # of the owner, one line

    @property
    def identity(self) -> str:
        """The text that identifies this claim; also the name under which the file is created."""
        return f".{self.key}.{self.owner}-{self.index}"

    @property
    def beginning(self) -> bytes:
        """The part of the content that never changes."""
        return f"{self.identity} ".encode()

    def content(self) -> bytes:
        """Return the content of the file, always of the same length."""
        counters = f"{self.life:012d} {self.work:012d} {self.still:09d} {self.limit:09d}"
        return self.beginning + f"{counters} {self.log}\n".encode(errors="replace")

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Parse the result of `content`; None for anything else."""
        parts = _TEXT.fullmatch(content.decode(errors="replace"))
        if not parts:
            return None
        key, owner, *numbers, log = parts.groups()
        index, life, work, still, limit = map(int, numbers)
        return cls(
            key=key, owner=owner, index=index,
            life=life, work=work, still=still, limit=limit, log=log,
        )  # fmt: skip
