"""Where the results of a run are, and the state of a task: the queue is the store.

embeddings/<k2>/<key>.safetensors   the result is there            -> done
queue/claims/<key>                  somebody works on it           -> running
queue/failed/<key>.json             somebody tried and failed      -> failed
otherwise                                                          -> pending
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from virnuc_rules.config.run_folder import RunFolder


class Failure(BaseModel):
    """What `failed/<key>.json` says: the last error of a task."""

    key: str
    task: str  # which chunk of which sample, for people
    error: str  # one line
    traceback: str
    worker: str
    host: str
    log: str
    attempts: int


class Store:
    """The folders of a run. Reading them needs no worker and leaves no trace."""

    def __init__(self, results: Path) -> None:
        folder = RunFolder(results)
        self.embeddings, self.stamps = folder.embeddings, folder.stamps
        self.claims, self.failures = folder.claims, folder.failures
        self.workers = folder.worker_reports

    def result(self, key: str) -> Path:
        """Return the place of a result; folders of at most 1/256 of them stay quick to list."""
        return self.embeddings / key[:2] / f"{key}.safetensors"

    def is_done(self, key: str) -> bool:
        """Tell whether the result is there. Publishing is atomic: what is there is whole."""
        return self.result(key).exists()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Return the keys that have results, listing each folder once instead of asking by key."""
        found: set[str] = set()
        for shard, members in by_shard(keys).items():
            names = listing(self.embeddings / shard)
            found.update(key for key in members if f"{key}.safetensors" in names)
        return found

    def forget(self, key: str) -> None:
        """Make a task pending again, and let Snakemake know that the workers are needed."""
        self.result(key).unlink(missing_ok=True)
        for stamp in self.stamps.rglob("*.txt"):
            stamp.unlink(missing_ok=True)

    def failure(self, key: str) -> Failure | None:
        """Return what is known of a failed task, None where it has not failed."""
        try:
            return Failure.model_validate_json((self.failures / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def failed(self, keys: Iterable[str]) -> dict[str, Failure]:
        """Return the failures among the keys, listing the folder once instead of asking by key."""
        names = listing(self.failures)
        found = (self.failure(key) for key in keys if f"{key}.json" in names)
        return {failure.key: failure for failure in found if failure}


def by_shard(keys: Iterable[str]) -> dict[str, list[str]]:
    """Group keys by the folder that their results are in."""
    shards: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        shards[key[:2]].append(key)
    return dict(shards)


def listing(folder: Path) -> set[str]:
    """Return the names in a folder; none where there is no folder yet."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names, not paths: a million of them
    except FileNotFoundError:
        return set()
