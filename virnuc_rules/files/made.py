"""Whether what a command made is up to date: `made.json` beside it, and an empty file `done`.

`made.json` says of what a product was made (settings, versions, keys of other products, files of
the user) and which files it has. A product is up to date if it would be made of the same, and all
its files are there. `done` is the output that Snakemake sees: before a run is planned it is made to
exist if and only if the product is up to date (`Product.settle`). Snakemake makes what is missing.
"""

import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from virnuc_rules.errors import EnvironmentProblem, MadeMeanwhile
from virnuc_rules.files.atomic import file_sha256, write_json
from virnuc_rules.files.environment import environment_named, read_regular

logger = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Seen(_Record):
    """A file as it was when a product was made of it, or when it was written."""

    size: int  # bytes
    mtime_ns: int
    sha256: str = ""  # "": not read to its end
    name: str = ""  # without its folders, which may be moved; of inputs only

    @classmethod
    def of(cls, path: Path, sha256: str = "", name: str = "") -> Self:
        """Look at a file. Raises OSError."""
        state = path.stat()
        return cls(size=state.st_size, mtime_ns=state.st_mtime_ns, sha256=sha256, name=name)

    def is_unchanged(self, path: Path) -> bool:
        """Compare name, size and time of an input; an older time is a change too.

        One that is not there any more, or cannot be looked at, counts as unchanged if it has the
        same name: it may be archived, and what was made of it is as good.
        """
        if self.name != path.name:
            return False
        now = _look(path)
        return now is None or (now.size, now.mtime_ns) == (self.size, self.mtime_ns)

    def has_same_content(self, path: Path) -> bool:
        """Compare an input by its content where its name, time or size differ."""
        try:
            return self.is_unchanged(path) or file_sha256(path) == self.sha256
        except OSError:  # whoever reads it next says why
            return False

    def is_whole(self, path: Path) -> bool:
        """Compare a file that was made. A later time is no change: Snakemake touches outputs.

        Only seconds are compared: not every copy keeps their fractions. Raises EnvironmentProblem
        where it cannot be looked at.
        """
        if is_absent(path):
            return False
        with environment_named(path):
            now = Seen.of(path)
        if now.size != self.size:
            return False
        return now.mtime_ns // _SECOND >= self.mtime_ns // _SECOND


_SECOND = 1_000_000_000  # ns
_ATTEMPTS, _LOOKS, _PAUSE = 5, 20, 0.5  # looks for another's files after each; seconds, about
_UNSEEN = Seen(size=-1, mtime_ns=0)  # standard input or a pipe: cannot be compared later


class Made(_Record):
    """The content of `made.json`."""

    of: dict[str, Any]  # settings, versions, keys of products, by name
    inputs: list[Seen] = []  # files of the user, in order; their names do not matter
    files: dict[str, Seen] = {}  # by the path relative to the folder of `made.json`
    problem: str = ""  # one line: why nothing could be made of the inputs
    failed: list[str] = []  # what could not be read or embedded: tried again in the next run

    @property
    def key(self) -> str:
        """Hash everything that the content of the product depends on."""
        parts = [self.of, [seen.sha256 for seen in self.inputs], self.problem, self.failed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_made(path: Path) -> Made | None:
    """Read a `made.json`; None where there is none, or another version wrote it.

    Raises EnvironmentProblem where it cannot be read.
    """
    try:
        with environment_named(path):
            return Made.model_validate_json(read_regular(path))
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True)
class Product:
    """What a command makes, or has made."""

    made: Path  # its made.json
    done: Path
    of: Mapping[str, Any]  # JSON values
    inputs: Sequence[Path] = field(default=())  # files of the user

    def current(self) -> Made | None:
        """Return the record of an up-to-date product, by sizes and times; else None."""
        return self._checked(Seen.is_unchanged)

    def _checked(self, is_unchanged: Callable[[Seen, Path], bool]) -> Made | None:
        made = read_made(self.made)
        if made is None or made.failed or made.of != json.loads(json.dumps(self.of)):
            return None
        if len(made.inputs) != len(self.inputs):
            return None
        if not all(map(is_unchanged, made.inputs, self.inputs)):
            return None
        files = made.files.items()
        return made if all(seen.is_whole(self.made.parent / name) for name, seen in files) else None

    def settle(self) -> Made | None:
        """Make `done` exist if and only if the product is up to date, and return its record."""
        # In this order: a job of another run removes `done` before it begins to write, so one that
        # exists now and does not fit is no news of such a job.
        existed = os.path.lexists(self.done)
        made = self.current()
        if made and not existed:
            touch(self.done, min(self.made.stat().st_mtime_ns, time.time_ns()))
        elif made and self.done.stat().st_mtime_ns > time.time_ns():
            touch(self.done)  # of a clock that is ahead: what is made now would be older
        elif existed and not made:
            self.done.unlink(missing_ok=True)
        return made

    def up_to_date(self, stamp: Path | None) -> bool:
        """Tell whether a command has nothing to do; says so, and writes the stamp.

        Inputs whose times differ are compared by their content.
        """
        now = [_look(path) for path in self.inputs]  # before their content is read
        made = self._checked(Seen.has_same_content)
        if made is None:
            return False
        logger.info("%s: up to date", self.made.parent)
        inputs = [
            each.model_copy(update={"sha256": seen.sha256}) if each else seen
            for seen, each in zip(made.inputs, now, strict=True)
        ]
        self._write(made.model_copy(update={"inputs": inputs}), stamp)
        return True

    def make(self, write: Callable[[], None], stamp: Path | None) -> None:
        """Call `write`, then write the stamp; both where another process makes it at the same time.

        Who was slower waits for the files of the other: an error would take them away from it too,
        as Snakemake deletes the output of a failed job. Where both have removed the files of each
        other, one of them is faster in the next attempt. Raises what `write` raises.
        """
        for left in reversed(range(_ATTEMPTS)):
            try:
                write()
            except EnvironmentProblem as error:
                is_slower = isinstance(error, MadeMeanwhile)
                if self._is_there(_LOOKS if is_slower else 1, stamp):
                    return
                if not (is_slower and left):
                    raise
            else:
                break
        if stamp:
            touch(stamp)

    def _is_there(self, looks: int, stamp: Path | None) -> bool:
        for look in range(looks):
            if look:
                time.sleep(random.uniform(0.5, 1.5) * _PAUSE)  # noqa: S311
            if self.up_to_date(stamp):
                return True
        return False

    def at(self, made: Path) -> "Product":
        """Return this product with another place of its `made.json`, beside its staged files."""
        return replace(self, made=made)

    def look(self, *, content: bool = True) -> list[Seen]:
        """Look at the inputs, before they are read; also at their content. Raises OSError."""
        return [
            Seen.of(path, file_sha256(path) if content else "", path.name)
            if path.is_file()
            else _UNSEEN
            for path in self.inputs
        ]

    def finish(
        self,
        inputs: Iterable[Seen],
        files: Iterable[Path],
        stamp: Path | None,
        *,
        problem: str = "",
        failed: Sequence[str] = (),
        known: Mapping[Path, str] | None = None,
    ) -> None:
        """Write `made.json` once all files are in place, and then the stamp.

        Who replaces single files removes an older `made.json` first. inputs: as `look` returned
        them; files: what was made; problem, failed: see `Made`; known: sha256 of files that were
        hashed before.
        """
        hashes = {path: (known or {}).get(path) or file_sha256(path) for path in files}
        folder = self.made.parent
        made = Made(
            of=dict(self.of),
            inputs=list(inputs),
            files={os.path.relpath(p, folder): Seen.of(p, sha) for p, sha in hashes.items()},
            problem=problem,
            failed=list(failed),
        )
        self._write(made, stamp)

    def _write(self, made: Made, stamp: Path | None) -> None:
        write_json(self.made, made)
        if stamp:
            touch(stamp)


def accept(path: Path, changed: Path) -> None:
    """Note in a `made.json`, if there is one, that a command has changed a file on purpose."""
    made = read_made(path)
    name = os.path.relpath(changed, path.parent)
    if made and name in made.files:
        seen = Seen.of(changed, file_sha256(changed))
        write_json(path, made.model_copy(update={"files": {**made.files, name: seen}}))


def _look(path: Path) -> Seen | None:
    try:
        return Seen.of(path, name=path.name)
    except OSError:
        return None


def is_absent(path: Path) -> bool:
    """Tell whether there is no such file; one that cannot be looked at is not absent."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def touch(path: Path, mtime_ns: int = 0) -> None:
    """Give a file this time, 0 = now; make it, empty, where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    if mtime_ns:
        os.utime(path, ns=(mtime_ns, mtime_ns))
