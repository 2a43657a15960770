"""The results of a run and the states of its tasks, which are given by files.

embeddings/<k2>/<key>.safetensors   the result exists                       -> done
queue/claims/<key>                  a worker works on it                    -> running
queue/failed/<key>.<attempt>.json   a worker tried and failed; the second
                                    attempt is the last of a run            -> failed
queue/lost/<key>.<number>           the claim of a worker that was lost
otherwise                                                                   -> pending
"""

import contextlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.queue.claim_text import ClaimText

ATTEMPTS = 2  # of a run to embed a chunk, by two workers where there are two
SUSPECT, POISON = 2, 3  # workers lost with a task: it comes last and alone; it is not tried again


class Failure(BaseModel):
    """The content of a file in `failed`: the error of an attempt."""

    key: str
    task: str  # sample and chunk, for messages
    error: str  # one line
    traceback: str
    worker: str
    host: str
    log: str
    attempts: int


class Store:
    """The folders of a run. Reading them needs no worker and changes nothing."""

    def __init__(self, results: Path) -> None:
        folder = RunFolder(results)
        self.embeddings, self.damaged = folder.embeddings, folder.damaged
        self.claims, self.failures, self.lost = folder.claims, folder.failures, folder.lost
        self.finished, self.workers = folder.finished, folder.worker_reports

    def result(self, key: str) -> Path:
        """Return the path of a result; 256 folders keep each of them quick to list."""
        return self.embeddings / key[:2] / f"{key}.safetensors"

    def is_done(self, key: str) -> bool:
        """Tell whether the result exists. Publishing is atomic: it is then complete."""
        return self.result(key).exists()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Return the keys that have results; lists each folder once."""
        done: set[str] = set()
        for shard, members in by_shard(keys).items():
            names = listing(self.embeddings / shard)
            done.update(key for key in members if f"{key}.safetensors" in names)
        return done

    def set_aside(self, key: str) -> Path | None:
        """Move a damaged result away, so that its task is pending; return where it is now."""
        aside = self.damaged / f"{key}.{uuid.uuid4().hex[:8]}.safetensors"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            moved = self.result(key).rename(aside)
        except FileNotFoundError:
            return None
        self.unfinish(key[:2])
        return moved

    def claimed(self) -> set[str]:
        """Return the keys of tasks that a worker holds, or did; lists the folder."""
        return {name for name in listing(self.claims) if not name.startswith(".")}

    def finished_shards(self) -> set[str]:
        """Return the names of folders in which nothing is left to do, by `finish`."""
        return listing(self.finished)

    def finish(self, name: str) -> None:
        """Note that nothing is left to do in a folder, for those who come after."""
        with contextlib.suppress(OSError):
            (self.finished / name).touch()

    def unfinish(self, shard: str) -> None:
        """Remove the notes on a folder."""
        for name in self.finished_shards():
            if name.startswith(shard):
                (self.finished / name).unlink(missing_ok=True)

    def attempt(self, key: str, number: int) -> Path:
        """Return the path of the record of a failed attempt, from 1."""
        return self.failures / f"{key}.{number}.json"

    def failure(self, key: str) -> Failure | None:
        """Return the record of a task that failed in its last attempt; None if it has not."""
        path = self.attempt(key, ATTEMPTS)
        try:
            return Failure.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            words = {"traceback": "", "worker": "", "host": "", "log": ""}
            error = f"{path}: the record of its failure is damaged"
            return Failure(key=key, task=key, error=error, attempts=ATTEMPTS, **words)

    def failed(self, keys: Iterable[str]) -> dict[str, Failure]:
        """Return the records of the tasks that failed in their last attempt."""
        attempts = self.attempts()
        last = (self.failure(key) for key in keys if attempts.get(key, 0) >= ATTEMPTS)
        return {failure.key: failure for failure in last if failure}

    def attempts(self) -> dict[str, int]:
        """Return how often each task failed in this run; lists the folder."""
        names = listing(self.failures)
        return _numbers(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def attempts_of(self, key: str) -> int:
        """Return how often a task failed in this run."""
        return max((n for n in range(1, ATTEMPTS + 1) if self.attempt(key, n).exists()), default=0)

    def loss(self, key: str, number: int) -> Path:
        """Return the path of the claim of the n-th worker that was lost with a task, from 1."""
        return self.lost / f"{key}.{number}"

    def losses(self) -> dict[str, int]:
        """Return how many workers were lost with each task; lists the folder."""
        return _numbers(name for name in listing(self.lost))

    def lost_claims(self, key: str) -> list[ClaimText]:
        """Return the claims of workers that were lost with a task."""
        lost = list[ClaimText]()
        for number in range(1, POISON + 1):
            try:
                claim = ClaimText.parse(self.loss(key, number).read_bytes())
            except FileNotFoundError:
                break
            if claim:  # empty: the worker has come back
                lost.append(claim)
        return lost

    def add_loss(self, key: str, claim: Path) -> None:
        """Move the file of a claim to the lost ones."""
        for number in range(1, POISON + 1):
            with contextlib.suppress(FileNotFoundError):
                if self.loss(key, number).stat().st_size and number < POISON:
                    continue
            claim.replace(self.loss(key, number))
            return

    def begin(self, keys: Iterable[str] | None = None) -> None:
        """Let a run begin: no task (of `keys`) has failed yet or cost a worker.

        Results may have been deleted since the last one: no folder is known to be finished.
        """
        self._remove((self.failures, self.lost), None if keys is None else set(keys))
        self.unfinish("")
        for folder in self.embeddings.glob("*") if keys is None else ():
            for path in folder.glob(".*.partial"):  # `sweep` looks only where a worker was lost
                if self.is_done(_key(path.name)):
                    path.unlink(missing_ok=True)

    def sweep(self, keys: Iterable[str]) -> None:
        """Remove files that lost workers left of done tasks: claims, failures, partial files.

        Safe while workers run: they do not need these files of a task that is done.
        """
        folders, wanted = (self.claims, self.failures, self.lost), set(keys)
        left = {_key(name) for folder in folders for name in listing(folder)} & wanted
        self._remove(folders, {key for key in left if self.is_done(key)})
        for path in self.workers.glob(".*.probe.*.partial"):  # who is at it tries again
            path.unlink(missing_ok=True)

    def _remove(self, folders: Iterable[Path], keys: set[str] | None) -> None:
        """Remove files of tasks, or of all; also partial results of the workers of those done."""
        removed = set[str]()
        for folder in folders:
            for name in listing(folder):
                if keys is None or _key(name) in keys:
                    (folder / name).unlink(missing_ok=True)
                    removed.add(_key(name))
        for key in removed:
            if self.is_done(key):
                for path in self.result(key).parent.glob(f".{key}.*.partial"):
                    path.unlink(missing_ok=True)


def _key(name: str) -> str:
    """Return the key in the name of a file, which may be hidden."""
    return name.removeprefix(".").split(".")[0]


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """Return the largest number of each key in names `<key>.<number>`; others are left out."""
    numbers: dict[str, int] = {}
    for name in names:
        key, _, number = name.partition(".")
        if key and number.isdigit():
            numbers[key] = max(int(number), numbers.get(key, 0))
    return numbers


def by_shard(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group keys by the folder that their results are in."""
    shards: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        shards[key[:2]].append(key)
    return dict(shards)


def listing(folder: Path) -> set[str]:
    """Return the names in a folder; an empty set if it does not exist."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names, not paths: a million of them
    except FileNotFoundError:
        return set()
