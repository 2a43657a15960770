"""From embeddings to scores: what the classifier says of open frames, and consensus of windows."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_rules.chunking.format import Chunk
from virnuc_rules.chunking.open_frames import FRAMES
from virnuc_rules.config.model import Config
from virnuc_rules.embedding.embedding_file import Embeddings, read_result
from virnuc_rules.embedding.tasks import Task
from virnuc_rules.errors import ModelError, ResultError
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.prediction.contig_calls import Float, Int
from virnuc_rules.queue.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The R open frames of a chunk with their scores, float32 [R, 2]; None if embedding failed."""

    table: pa.Table
    scores: NDArray[np.float32] | None

    @property
    def window_row(self) -> Int:
        """Rows of the windows in the window table, [R]."""
        return self.table["window_row"].to_numpy()  # type: ignore[no-any-return]

    @property
    def frame(self) -> NDArray[np.int8]:
        """Indices into FRAMES, [R]."""
        frames = self.table["frame"].cast(pa.string())
        index = pc.index_in(frames, value_set=pa.array(FRAMES))
        return index.to_numpy().astype(np.int8)  # type: ignore[no-any-return]


class Consensus:
    """The best scores of each of W windows over its open frames, collected chunk by chunk.

    A window is called virus if the best score2 of its frames is at least the best score1
    (upstream's rule: the two may come from different frames).
    """

    def __init__(self, windows: int) -> None:
        self.score1: Float = np.full(windows, -np.inf, np.float32)
        self.score2: Float = np.full(windows, -np.inf, np.float32)
        self.best = np.full(windows, len(FRAMES), np.int8)  # first frame with score2
        self.frames = np.zeros(windows, np.int8)  # open frames so far
        self.failed = np.zeros(windows, np.bool_)  # a frame of it could not be embedded

    def add(self, window_row: Int, frame: NDArray[np.int8], scores: Float) -> None:
        """Take in scores [R, 2] of open frames [R] (indices into FRAMES) of windows [R]."""
        score2 = np.ascontiguousarray(scores[:, 1])
        before = self.score2[window_row]
        np.maximum.at(self.score1, window_row, scores[:, 0])
        np.maximum.at(self.score2, window_row, score2)
        best = self.score2[window_row]
        self.best[window_row[best > before]] = len(FRAMES)
        first = score2 == best
        np.minimum.at(self.best, window_row[first], frame[first])
        np.add.at(self.frames, window_row, 1)

    def fail(self, window_row: Int) -> None:
        """Mark windows whose open frames have no embedding: their call would rest on a part."""
        self.failed[window_row] = True
        np.add.at(self.frames, window_row, 1)

    def part(self, rows: slice) -> "Consensus":
        """Return the consensus of some windows, as a view."""
        part = Consensus(0)
        for name, array in vars(self).items():
            setattr(part, name, array[rows])
        return part

    @property
    def margin(self) -> Float:
        """Return the log odds of virus, log(score2 / score1), float32 [W]; from 0 on it is virus.

        NaN where there is no call. With one open frame it is the difference of the logits.
        """
        least = np.float32(np.finfo(np.float32).tiny)
        with np.errstate(invalid="ignore"):
            both = np.log(np.maximum(self.score2, least)) - np.log(np.maximum(self.score1, least))
        return np.where(self.called, both, np.float32(np.nan))

    @property
    def called(self) -> NDArray[np.bool_]:
        """Tell which windows have a call."""
        return (self.frames > 0) & ~self.failed

    @property
    def virus(self) -> NDArray[np.bool_]:
        """Tell which windows are viral; False also where there is no call."""
        return self.called & (self.score2 >= self.score1)


def _check_scores(scores: Float, ids: list[str], bundle: Path) -> None:
    """Raise ModelError where scores [R, 2] are not numbers: embeddings are checked to be."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{bundle}: the classifier's scores of {ids[bad[0]]} are not finite; its weights are "
            "unusable, make the bundle again"
        )


def usable_results(
    tasks: list[Task], store: Store, config: Config
) -> Iterator[tuple[Chunk, Embeddings | None]]:
    """Yield the chunks of a sample in order with their embeddings.

    None: the chunk failed, and `on_failed_chunks` is `report`. Looks at every chunk before it
    raises ResultError, and forgets results that are damaged, so that one more run mends them all.
    """
    unusable: list[ResultError] = []
    for task in tasks:
        chunk, result = task.read(), None
        try:
            result = read_result(store.result(task.key), task.key, chunk.ids)
        except ResultError as error:
            failed = store.failure(task.key) is not None and not store.is_done(task.key)
            if not (failed and config.on_failed_chunks == "report"):
                store.forget(task.key)
                unusable.append(error)
        yield chunk, result
    for other in unusable[1:]:
        logger.error("%s", other)
    if unusable:
        raise ResultError(
            f"{unusable[0]}; {len(unusable)} of {len(tasks)} chunks are without a usable result: "
            "run the same command again to embed them"
        )


def scored_chunks(
    tasks: list[Task], store: Store, classifier: MLPClassifier, config: Config, computed: set[str]
) -> Iterator[ScoredChunk]:
    """Yield the chunks of a sample in order, with scores where there are embeddings.

    Adds to `computed` how these were. Raises what `usable_results` does, and ModelError for a
    classifier whose scores are not finite.
    """
    for chunk, result in usable_results(tasks, store, config):
        scores: Float | None = None
        if result is not None:
            computed.add(result.computed)
            scores = classifier.scores(result.dnabert_s, result.esm2).numpy()
            _check_scores(scores, chunk.ids, config.bundle)
        yield ScoredChunk(chunk.table, scores)
