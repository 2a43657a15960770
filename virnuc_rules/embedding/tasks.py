"""The tasks of a run: the chunks of its samples and the keys of their results."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from virnuc_rules.chunking.manifest import ChunkEntry, read_manifest
from virnuc_rules.config.model import Embedding, Run
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import ModelError, UnusableSample
from virnuc_rules.models.card import CLASSIFIER, BundleCard, read_card

if TYPE_CHECKING:  # pyarrow takes most of a second to import: a job without work does not import it
    from virnuc_rules.chunking.format import Chunk

SCHEMA = 4  # of the result files and the computation; a higher one makes old results unknown
FLOAT32 = 4  # bytes of a number in a result file
_COMPILE = "auto"  # the setting: compiled layers where they can be; `Computation` has what was done


@dataclass(frozen=True, slots=True)
class Output:
    """A result file that a task may have."""

    key: str
    widths: tuple[int, ...]  # of its float32 matrices, by their names in order

    @property
    def row(self) -> int:
        """Bytes for an open frame."""
        return FLOAT32 * sum(self.widths)


@dataclass(frozen=True, slots=True)
class Task:
    """One chunk to embed; equal chunks have the same key and are one task."""

    output: Output  # what a worker makes of it
    outputs: tuple[Output, ...]  # any of these is enough: see `Tasks.of`; the smallest is the first
    sample: str
    path: Path
    entry: ChunkEntry

    @property
    def key(self) -> str:
        """The key of what a worker makes of it, by which the queue knows the task."""
        return self.output.key

    @property
    def name(self) -> str:
        """Sample and file of the chunk, for messages."""
        return f"{self.sample}/{self.entry.file}"

    def read(self) -> "Chunk":
        """Read the chunk; see `read_chunk`."""
        from virnuc_rules.chunking.format import read_chunk

        return read_chunk(self.path, self.entry)


def result_key(chunk_sha256: str, fingerprint: str, settings: Embedding) -> str:
    """Return the key of a result: a hash of everything that its bytes depend on."""
    computed = {**settings.model_dump(), "compile": _COMPILE}
    parts = [SCHEMA, chunk_sha256, fingerprint, computed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scores_key(key: str, classifier: str) -> str:
    """Return the key of scores: of the embeddings' key and the sha256 of the classifier's file."""
    return hashlib.sha256(f"{key} {classifier}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a run, with one bundle and one set of settings."""

    folder: RunFolder
    card: BundleCard
    settings: Embedding
    keep_embeddings: bool
    need_embeddings: bool = False

    @classmethod
    def of(cls, run: Run, settings: Embedding, *, need_embeddings: bool = False) -> Self:
        """Read the bundle's card.

        need_embeddings: for `train`. Else scores are enough, and what workers made of a chunk with
        the other `keep_embeddings` is as good.
        Raises ModelError if it is missing, or has no classifier where only scores are kept.
        """
        card = read_card(run.bundle)
        if not (run.keep_embeddings or card.classifier):
            raise ModelError(
                f"{run.bundle}: bundle {card.name} has no classifier, so `keep_embeddings: false` "
                "would keep nothing; set it to true, or give another bundle"
            )
        return cls(RunFolder(run.results), card, settings, run.keep_embeddings, need_embeddings)

    def of_sample(self, sample: str) -> Iterator[Task]:
        """Yield the tasks of a sample in input order.

        Raises ChunkError if the sample is not chunked yet, ModelError if its windows have not the
        length that the bundle was trained for.
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
            yield self.of_chunk(sample, folder.path / entry.file, entry)

    def of_chunk(self, sample: str, path: Path, entry: ChunkEntry) -> Task:
        """Return the task of a chunk."""
        key = result_key(entry.sha256, self.card.fingerprint, self.settings)
        embeddings = Output(key, self.card.widths)
        if self.card.classifier is None or self.need_embeddings:
            return Task(embeddings, (embeddings,), sample, path, entry)
        widths = (self.card.classifier.classes,)
        scores = Output(scores_key(key, self.card.sha256[CLASSIFIER]), widths)
        made = embeddings if self.keep_embeddings else scores
        return Task(made, (scores, embeddings), sample, path, entry)

    def of_samples(self, samples: Iterable[str]) -> dict[str, Task]:
        """Return the tasks of samples by key; a sample whose files cannot be used has none."""
        tasks: dict[str, Task] = {}
        for sample in samples:
            with contextlib.suppress(UnusableSample):
                tasks |= {task.key: task for task in self.of_sample(sample)}
        return tasks
