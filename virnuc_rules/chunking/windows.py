"""Cutting contigs into windows, exactly as VirNucPro does (`split_fasta_chunk`).

A contig of length n becomes ceil(n / window) windows that overlap by the surplus, which is
windows * window - n: each step is shortened by floor(surplus / windows), and the first few steps by
one base more. The last window may be shorter than the others.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from virnuc_rules.arrays import Int

_Length = TypeVar("_Length", int, Int)


@dataclass(frozen=True, slots=True)
class Windows:
    """W windows of several contigs, in order; coordinates are 0-based and half open."""

    contig: Int  # [W] row of the contig in the arrays given to `cut`
    number: Int  # [W] 1-based number of the window in its contig
    start: Int  # [W] first base in the contig
    end: Int  # [W] base after the last one

    def __len__(self) -> int:
        return len(self.start)


def count(length: _Length, window: int) -> _Length:
    """Return the number of windows of a contig of `length` bases, or of each of several [C].

    0 for an empty contig.
    """
    return -(-length // window)


def cut(length: Int, first: Int, n_windows: Int, window: int) -> Windows:
    """Cut `n_windows[i]` windows of contig i (`length[i]` bases), from 0-based index `first[i]` on.

    The position of a window depends only on its index, so a contig of any size can be cut piece by
    piece. Arrays are int64 [contigs]. Raises ValueError for a window that does not exist.
    """
    total = count(length, window)
    if np.any(first < 0) or np.any(first + n_windows > total):
        raise ValueError("asked for windows beyond the end of a contig")
    contig = np.repeat(np.arange(len(length)), n_windows)
    before = np.cumsum(n_windows) - n_windows
    index = np.arange(len(contig)) - before[contig] + first[contig]
    surplus = total * window - length
    shorten = surplus // np.maximum(total, 1)
    one_more = surplus - shorten * (total - 1)
    start = index * window - index * shorten[contig] - np.minimum(index, one_more[contig])
    end = np.minimum(start + window, length[contig])
    return Windows(contig, index + 1, start, end)


def span(length: int, first: int, n_windows: int, window: int) -> tuple[int, int]:
    """Return the bases (start, end) covered by `n_windows` windows from index `first` on."""
    if n_windows == count(length, window):
        return 0, length
    ends = np.array([first, first + n_windows - 1])
    windows = cut(np.full(2, length), ends, np.ones(2, np.int64), window)
    return int(windows.start[0]), int(windows.end[1])
