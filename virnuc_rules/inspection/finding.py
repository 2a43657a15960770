"""What the checks of `doctor` have in common: their input, their result, running programs."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel

from virnuc_rules.config.model import Config
from virnuc_rules.errors import VirnucError

Level = Literal["ok", "note", "warning", "FAILED"]


class Finding(BaseModel):
    """The result of one check; `remedy` says what to do if it is not good."""

    level: Level
    check: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{self.level:8}{self.check}: {self.found}{remedy}"

    @classmethod
    def of(cls, check: str, found: str, remedy: str = "", level: Level = "warning") -> Self:
        """Return a finding of level ok, or of `level` if there is a remedy."""
        return cls(level=level if remedy else "ok", check=check, found=found, remedy=remedy)


class Site(NamedTuple):
    """The settings that are checked."""

    config: Config
    profile: Path | None  # folder of Slurm's; None: that of the working directory


def ask(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a program for at most a minute; its exit code is not checked."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def scratch(config: Config) -> Iterator[Path]:
    """Make a temporary folder inside `results`."""
    try:
        config.run.results.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".doctor-", dir=config.run.results)
    except OSError as error:
        reason = f"{config.run.results}: cannot be written ({error.strerror})"
        raise VirnucError(f"{reason}; set `results` to a folder of yours") from None
    with folder as name:
        yield Path(name)
