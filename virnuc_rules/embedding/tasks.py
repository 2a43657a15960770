"""The tasks of a run: which chunks there are, in which samples, and the key of each result."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from virnuc_rules.chunking.format import Chunk, ChunkEntry, read_chunk, read_manifest
from virnuc_rules.config.model import Config, Embedding, Run
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import ModelError
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.vocabulary import GENETIC_CODE

SCHEMA = 3  # of the result files and of what is computed; raising it makes old results unknown
_COMPILE = False  # the networks' layers run as they are written


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


def result_key(chunk_sha256: str, fingerprint: str, settings: Embedding) -> str:
    """Name the result of a chunk: everything that its bytes depend on, hashed."""
    computed = {**settings.model_dump(), "genetic_code": GENETIC_CODE, "compile": _COMPILE}
    parts = [SCHEMA, chunk_sha256, fingerprint, computed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tasks:
    """What there is to embed in a run, with one bundle and one set of settings."""

    folder: RunFolder
    card: BundleCard
    settings: Embedding

    @classmethod
    def of(cls, run: Run, settings: Embedding) -> Self:
        """Read the bundle's card. Raises ModelError where there is none."""
        return cls(RunFolder(run.results), read_card(run.bundle), settings)

    def of_sample(self, sample: str) -> Iterator[Task]:
        """Yield the tasks of a sample in input order.

        Raises ChunkError where the sample is not chunked yet, ModelError where its windows are not
        of the length that the bundle was trained for.
        """
        folder = self.folder.chunks(sample)
        manifest = read_manifest(folder)
        if manifest.chunking.window != self.card.window:
            raise ModelError(
                f"sample {sample} was cut into windows of {manifest.chunking.window} bases, but "
                f"bundle {self.card.name} is for {self.card.window}; chunk it again, or use "
                "another bundle"
            )
        for entry in manifest.chunks:
            key = result_key(entry.sha256, self.card.fingerprint, self.settings)
            yield Task(key, sample, folder.path / entry.file, entry)

    def of_samples(self, samples: Iterable[str]) -> dict[str, Task]:
        """Return the tasks of samples by key."""
        return {task.key: task for sample in samples for task in self.of_sample(sample)}


def stamp_folder(config: Config) -> Path:
    """Return where the stamps of workers are: another folder for other models or settings.

    Snakemake does not look at `predict` where only stamps that are there already separate it from
    workers that must run again. With a new folder they are not there. A bundle that is made from a
    definition is named by that: when the run is planned it need not be there yet.
    """
    models = config.workflow.bundle_definition or read_card(config.run.bundle).fingerprint
    parts = json.dumps([models, config.embedding.model_dump()], sort_keys=True)
    name = hashlib.sha256(parts.encode()).hexdigest()[:12]
    return RunFolder(config.run.results).stamps / name
