"""Cutting contigs into windows, exactly as VirNucPro does (`split_fasta_chunk`).

A contig of length n becomes ceil(n / window) windows, which share the surplus as overlap: with
surplus = windows * window - n, each step is shortened by floor(surplus / windows), and the first
few steps by one base more. The last window may end up shorter than the others.
"""

from dataclasses import dataclass

import numpy as np

from virnuc_rules.arrays import Int

_PAIR = np.array([1, 1])


@dataclass(frozen=True, slots=True)
class Windows:
    """W windows of several contigs, in order; coordinates are 0-based and half open."""

    contig: Int  # [W] row of the contig in the arrays given to `cut`
    number: Int  # [W] 1-based number of the window in its contig
    start: Int  # [W] first base in the contig
    end: Int  # [W] base after the last one

    def __len__(self) -> int:
        return len(self.start)


def count(length: int, window: int) -> int:
    """Return the number of windows of a contig of `length` bases (0 for an empty contig)."""
    return -(-length // window)


def cut(length: Int, first: Int, number: Int, window: int) -> Windows:
    """Give `number[i]` windows of a contig of `length[i]` bases, from its `first[i]`-th (0-based).

    The place of a window follows from its number alone, so a contig of any size can be cut piece
    by piece. Arrays are int64 [contigs]; raises ValueError for a window that does not exist.
    """
    total = -(-length // window)
    if np.any(first < 0) or np.any(first + number > total):
        raise ValueError("asked for windows beyond the end of a contig")
    contig = np.repeat(np.arange(len(length)), number)
    before = np.cumsum(number) - number
    index = np.arange(len(contig)) - before[contig] + first[contig]
    surplus = total * window - length
    shorten = surplus // np.maximum(total, 1)
    one_more = surplus - shorten * (total - 1)
    start = index * window - index * shorten[contig] - np.minimum(index, one_more[contig])
    end = np.minimum(start + window, length[contig])
    return Windows(contig, index + 1, start, end)


def span(length: int, first: int, number: int, window: int) -> tuple[int, int]:
    """Return the bases (start, end) that `number` windows from the `first`-th on cover."""
    if number == count(length, window):
        return 0, length
    ends = cut(np.array([length, length]), np.array([first, first + number - 1]), _PAIR, window)
    return int(ends.start[0]), int(ends.end[1])
