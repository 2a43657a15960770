"""The results of a run and the states of its tasks, which are given by files.

embeddings/<k2>/<key>.safetensors   the result exists              -> done
queue/claims/<key>                  a worker works on it           -> running
queue/failed/<key>.json             a worker tried and failed      -> failed
otherwise                                                          -> pending
"""

import os
import uuid
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from virnuc_rules.config.run_folder import RunFolder


class Failure(BaseModel):
    """The content of `failed/<key>.json`: the last error of a task."""

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
        self.claims, self.failures = folder.claims, folder.failures
        self.workers = folder.worker_reports

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
            return self.result(key).rename(aside)
        except FileNotFoundError:
            return None

    def failure(self, key: str) -> Failure | None:
        """Return the failure of a task; None if it has not failed."""
        try:
            return Failure.model_validate_json((self.failures / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def failed(self, keys: Iterable[str]) -> dict[str, Failure]:
        """Return the failures of the keys that failed; lists the folder once."""
        names = listing(self.failures)
        failures = (self.failure(key) for key in keys if f"{key}.json" in names)
        return {failure.key: failure for failure in failures if failure}


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
