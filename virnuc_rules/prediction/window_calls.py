"""Calls of windows from the scores of their open frames, by upstream's rule."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Float, Int
from virnuc_rules.prediction.scored_chunks import ScoredChunk
from virnuc_rules.vocabulary import Frame


@dataclass(slots=True)
class Consensus:
    """The best scores of each of W windows over its open frames, collected chunk by chunk.

    A window is called virus if the best score2 of its frames is at least the best score1
    (upstream's rule: the two may come from different frames).
    """

    score1: Float  # [W] maximum of its frames, -inf without any
    score2: Float  # [W] the same
    best: NDArray[np.int8]  # [W] first frame with score2, code of a Frame
    frames: NDArray[np.int8]  # [W] open frames so far
    failed: Bool  # [W] at least one frame could not be embedded

    @classmethod
    def empty(cls, windows: int) -> Self:
        """Return the consensus of this number of windows before any open frame is added."""
        return cls(
            np.full(windows, -np.inf, np.float32),
            np.full(windows, -np.inf, np.float32),
            np.full(windows, len(Frame), np.int8),
            np.zeros(windows, np.int8),
            np.zeros(windows, np.bool_),
        )

    def add_chunk(self, chunk: ScoredChunk) -> None:
        """Add the open frames of a chunk; without scores, mark their windows as failed."""
        if chunk.scores is None:
            self.fail(chunk.window_row)
        else:
            self.add(chunk.window_row, chunk.frame, chunk.scores)

    def add(self, window_row: Int, frame: NDArray[np.int8], scores: Float) -> None:
        """Add scores [R, 2] of open frames [R] (codes of Frame) of windows [R]."""
        score2 = np.ascontiguousarray(scores[:, 1])
        before = self.score2[window_row]
        np.maximum.at(self.score1, window_row, scores[:, 0])
        np.maximum.at(self.score2, window_row, score2)
        best = self.score2[window_row]
        self.best[window_row[best > before]] = len(Frame)
        first = score2 == best
        np.minimum.at(self.best, window_row[first], frame[first])
        np.add.at(self.frames, window_row, 1)

    def fail(self, window_row: Int) -> None:
        """Mark windows [R] of open frames without embedding: their consensus is incomplete."""
        self.failed[window_row] = True
        np.add.at(self.frames, window_row, 1)

    def part(self, rows: slice) -> "Consensus":
        """Return the consensus of some windows, as a view."""
        columns: tuple[Any, ...] = self.score1, self.score2, self.best, self.frames, self.failed
        return Consensus(*(column[rows] for column in columns))

    @property
    def margin(self) -> Float:
        """Return the log odds of virus, log(score2 / score1), float32 [W]; virus from 0 on.

        NaN where there is no call. With one open frame it is the difference of the logits.
        """
        tiny = np.float32(np.finfo(np.float32).tiny)
        with np.errstate(invalid="ignore"):
            odds = np.log(np.maximum(self.score2, tiny)) - np.log(np.maximum(self.score1, tiny))
        return np.where(self.called, odds, np.float32(np.nan))

    @property
    def called(self) -> Bool:
        """Tell which windows VirNucPro calls: those that have scores. See also `floors`."""
        return (self.frames > 0) & ~self.failed

    @property
    def virus(self) -> Bool:
        """Tell which windows are viral; False also where there is no call."""
        return self.called & (self.score2 >= self.score1)
