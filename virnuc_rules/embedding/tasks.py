"""The tasks of a run: which chunks there are, in which samples, and the key of each result."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from virnuc_rules.chunking.format import Chunk, ChunkEntry, read_chunk, read_manifest
from virnuc_rules.config.model import Config
from virnuc_rules.errors import ModelError
from virnuc_rules.models.card import BundleCard, read_card

SCHEMA = 2  # of the result files and of what is computed; raising it makes old results unknown


class Settings(BaseModel):
    """What decides the bytes of a result, beside the chunk and the bundle."""

    model_config = ConfigDict(frozen=True)

    precision: str  # as asked for: what `auto` became is in the result
    batch_tokens: int

    @classmethod
    def of(cls, config: Config) -> Self:
        """Take them out of the config."""
        return cls(precision=config.precision, batch_tokens=config.batch_tokens)


@dataclass(frozen=True, slots=True)
class Task:
    """One chunk to embed; equal chunks of two samples have the same key and are one task."""

    key: str
    sample: str
    path: Path
    entry: ChunkEntry

    @property
    def name(self) -> str:
        """Name the chunk for people: sample and file."""
        return f"{self.sample}/{self.entry.file}"

    def read(self) -> Chunk:
        """Read the chunk; see `read_chunk`."""
        return read_chunk(self.path, self.entry)


def result_key(chunk_sha256: str, fingerprint: str, settings: Settings) -> str:
    """Name the result of a chunk: everything that its bytes depend on, hashed."""
    parts = [SCHEMA, chunk_sha256, fingerprint, settings.model_dump()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_settings(config: Config) -> tuple[BundleCard, Settings]:
    """Return what the keys of results depend on, beside the chunks."""
    return read_card(config.bundle), Settings.of(config)


def sample_tasks(
    results: Path, sample: str, card: BundleCard, settings: Settings
) -> Iterator[Task]:
    """Yield the tasks of a sample in input order.

    Raises ChunkError where the sample is not chunked yet, ModelError where its windows are not of
    the length that the bundle was trained for.
    """
    folder = chunk_folder(results, sample)
    manifest = read_manifest(folder)
    if manifest.window != card.window:
        raise ModelError(
            f"sample {sample} was cut into windows of {manifest.window} bases, but bundle "
            f"{card.name} is for {card.window}; set `window` to that, or use another bundle"
        )
    for entry in manifest.chunks:
        key = result_key(entry.sha256, card.fingerprint, settings)
        yield Task(key, sample, folder / entry.file, entry)


def all_tasks(
    results: Path, samples: Iterable[str], card: BundleCard, settings: Settings
) -> dict[str, Task]:
    """Return the tasks of all samples by key."""
    return {
        task.key: task
        for sample in samples
        for task in sample_tasks(results, sample, card, settings)
    }


def stamp_folder(config: Config) -> Path:
    """Return where the stamps of workers are: another folder for other models or settings.

    Snakemake does not look at `predict` where only stamps that are there already separate it from
    workers that must run again. With a new folder they are not there. A bundle that is made from a
    definition is named by that: when the run is planned it need not be there yet.
    """
    models = config.bundle_definition or read_card(config.bundle).fingerprint
    parts = json.dumps([models, Settings.of(config).model_dump()], sort_keys=True)
    name = hashlib.sha256(parts.encode()).hexdigest()[:12]
    return config.results / "queue" / "stamps" / name


def chunk_folder(results: Path, sample: str) -> Path:
    """Return where the chunks of a sample are."""
    return results / "chunks" / sample
