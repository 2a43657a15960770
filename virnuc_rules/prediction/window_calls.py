"""Calls of windows: the consensus of their open frames, by upstream's rule."""

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.prediction.contig_calls import Float, Int
from virnuc_rules.vocabulary import Frame


class Consensus:
    """The best scores of each of W windows over its open frames, collected chunk by chunk.

    A window is called virus if the best score2 of its frames is at least the best score1
    (upstream's rule: the two may come from different frames).
    """

    def __init__(self, windows: int) -> None:
        self.score1: Float = np.full(windows, -np.inf, np.float32)
        self.score2: Float = np.full(windows, -np.inf, np.float32)
        self.best = np.full(windows, len(Frame), np.int8)  # first frame with score2
        self.frames = np.zeros(windows, np.int8)  # open frames so far
        self.failed = np.zeros(windows, np.bool_)  # a frame of it could not be embedded

    def add(self, window_row: Int, frame: NDArray[np.int8], scores: Float) -> None:
        """Take in scores [R, 2] of open frames [R] (codes of frames) of windows [R]."""
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
