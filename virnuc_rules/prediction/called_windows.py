"""The windows of contigs with their calls: arrays only, no files."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Double, Float, Int
from virnuc_rules.vocabulary import NO_REASON


@dataclass(frozen=True, slots=True)
class WindowCalls:
    """The W windows of C whole contigs, in order; a contig without bases has none."""

    contigs: int  # C
    index: Int  # [W] contig of the window, from 0
    start: Int  # [W] in the contig, 0-based, half open
    end: Int
    score: Float  # [W] best score_virus of its open frames; undefined without a call
    reason: NDArray[np.int8]  # [W] code of a Reason; NO_REASON: it has a call
    virus: Bool  # [W] False where there is no call
    margin: Float  # [W] log(score_virus / score_non_viral), the best of each; NaN without a call
    log_odds: Double  # [W] log of P(what is seen | viral) / P(what is seen | not); 0: says nothing

    @property
    def called(self) -> Bool:
        """Tell which windows have a call, [W]."""
        return np.equal(self.reason, NO_REASON)

    def take(self, rows: Int | Bool, index: Int, contigs: int) -> Self:
        """Return some windows, rows or a mask [W], as those of other contigs."""
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return type(self)(contigs=contigs, index=index, **columns)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the windows of several lists of contigs."""
        first = np.cumsum([0, *(part.contigs for part in parts)])
        index = [part.index + shift for part, shift in zip(parts, first, strict=False)]
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
        }
        return cls(contigs=int(first[-1]), index=np.concatenate(index), **columns)


_COLUMNS = [each.name for each in fields(WindowCalls)][2:]  # [W] each, but for the index


def exclusive(windows: WindowCalls) -> tuple[Int, Int]:
    """Return starts [W] and ends [W] of the windows, overlaps cut in the middle.

    Every base of a contig is then in exactly one window, as bedGraph asks for.
    """
    start, end = windows.start.copy(), windows.end.copy()
    (left,) = np.nonzero(windows.index[1:] == windows.index[:-1])
    end[left] = start[left + 1] = (end[left] + start[left + 1]) // 2
    return start, end


def longest_run(windows: WindowCalls, weight: Double) -> Double:
    """Return the largest weight of viral windows in a row of each contig, [C].

    weight: of each window [W]. Windows without a call do not interrupt a run, and do not count.
    """
    called = windows.called
    index, virus = windows.index[called], windows.virus[called]
    begins = virus.copy()
    begins[1:] &= ~(virus[:-1] & (index[1:] == index[:-1]))
    runs = np.bincount(np.cumsum(begins)[virus] - 1, weight[called][virus])
    longest = np.zeros(windows.contigs)
    np.maximum.at(longest, index[begins], runs)
    return longest
