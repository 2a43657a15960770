"""From embeddings to calls: scores of open frames, consensus over the frames of a window."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from virnuc_rules.chunkfiles import read_manifest, read_windows
from virnuc_rules.config import Config
from virnuc_rules.errors import ChunkError, ResultError
from virnuc_rules.files import writing
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.verified import read_verified
from virnuc_rules.results import read_result
from virnuc_rules.store import Store
from virnuc_rules.tables import SampleTables, ScoredChunk
from virnuc_rules.tasks import Task, chunk_folder, read_settings, sample_tasks

logger = logging.getLogger(__name__)

Float = NDArray[np.float32]


class Consensus:
    """The best scores of each of W windows over its open frames, collected chunk by chunk.

    A window is called virus if the best score2 of its frames is at least the best score1
    (upstream's rule: the two may come from different frames).
    """

    def __init__(self, windows: int) -> None:
        self.score1: Float = np.full(windows, -np.inf, np.float32)
        self.score2: Float = np.full(windows, -np.inf, np.float32)
        self.frames = np.zeros(windows, np.int64)  # scored open frames
        self.failed = np.zeros(windows, np.bool_)  # a frame of it could not be embedded

    def add(self, window_row: NDArray[np.int64], scores: Float) -> None:
        """Take in the scores [R, 2] of open frames that belong to windows [R]."""
        np.maximum.at(self.score1, window_row, scores[:, 0])
        np.maximum.at(self.score2, window_row, scores[:, 1])
        np.add.at(self.frames, window_row, 1)

    def fail(self, window_row: NDArray[np.int64]) -> None:
        """Mark windows whose open frames have no embedding: their call would rest on a part."""
        self.failed[window_row] = True

    def part(self, rows: slice) -> "Consensus":
        """Return the consensus of some windows, as a view."""
        part = Consensus(0)
        part.score1, part.score2 = self.score1[rows], self.score2[rows]
        part.frames, part.failed = self.frames[rows], self.failed[rows]
        return part

    @property
    def called(self) -> NDArray[np.bool_]:
        """Tell which windows have a call."""
        return (self.frames > 0) & ~self.failed

    @property
    def virus(self) -> NDArray[np.bool_]:
        """Tell which windows are viral; False also where there is no call."""
        return self.called & (self.score2 >= self.score1)


def predict(config: Config, sample: str, out: Path) -> None:
    """Write the tables of a sample into the folder `out`; see `SampleTables`.

    Raises ResultError where results are missing or damaged (a damaged one is removed, so that the
    same command embeds it again), VirnucError where the disk is full; it leaves older tables as
    they were.
    """
    bundle = Bundle(config.bundle)
    tasks = list(sample_tasks(config.results, sample, *read_settings(config)))
    folder = chunk_folder(config.results, sample)
    manifest = read_manifest(folder)
    torch.set_num_threads(1)  # the classifier is small; samples run beside each other
    consensus = Consensus(manifest.windows)
    computed: set[str] = set()  # in which precision, on which type of device
    with writing(out), SampleTables(out) as tables:
        frames = 0
        classifier = bundle.open_classifier()
        for chunk in _scored(tasks, Store(config.results), classifier, config, computed):
            if chunk.scores is None:
                consensus.fail(chunk.window_row)
            else:
                consensus.add(chunk.window_row, chunk.scores)
            tables.add_frames(chunk)
            frames += len(chunk.window_row)
        rows = 0
        for part in read_windows(folder):
            tables.add_windows(rows, part, consensus)
            rows += part.num_rows
        if (frames, rows) != (manifest.open_frames, manifest.windows):
            raise ChunkError(
                f"{folder}: {frames} open frames and {rows} windows instead of "
                f"{manifest.open_frames} and {manifest.windows}; delete the folder and run again"
            )
    logger.info(
        "sample %s: %d windows, %d called, %d of them virus",
        sample, rows, consensus.called.sum(), consensus.virus.sum(),
    )  # fmt: skip
    verified = read_verified(bundle.folder, bundle.card.fingerprint)
    for name in sorted(computed):
        precision, _, device = name.partition(" on ")
        known = "" if verified.covers(precision, device) else " (not verified with this bundle)"
        logger.info("sample %s: embeddings computed in %s%s", sample, name, known)


def _scored(
    tasks: list[Task], store: Store, classifier: MLPClassifier, config: Config, computed: set[str]
) -> Iterator[ScoredChunk]:
    """Yield the chunks of a sample in order, with scores where there are embeddings.

    Adds to `computed` how these were. Looks at every chunk before it raises, so that one more run
    mends all that is damaged.
    """
    unusable: list[ResultError] = []
    for task in tasks:
        chunk = task.read()
        scores: Float | None = None
        try:
            result = read_result(store.result(task.key), task.key, chunk.ids)
            computed.add(result.computed)
            scores = classifier.scores(result.dnabert_s, result.esm2).numpy()
        except ResultError as error:
            failed = store.failure(task.key) is not None and not store.is_done(task.key)
            if not (failed and config.on_failed_chunks == "report"):
                store.forget(task.key)
                unusable.append(error)
        yield ScoredChunk(chunk.ids, chunk.table, scores)
    for other in unusable[1:]:
        logger.error("%s", other)
    if unusable:
        raise ResultError(
            f"{unusable[0]}; {len(unusable)} of {len(tasks)} chunks are without a usable result: "
            "run the same command again to embed them"
        )
