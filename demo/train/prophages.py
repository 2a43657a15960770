"""Viral genes in sequences of cells: prophages are left out, by a rule that is stated here.

A window is like a virus if one of its open frames shares a tenth of its words of eight residues
with the viral marker genes (`virnuc_rules.training.words`). In a genome, a run of MIN_WINDOWS or
more such windows, neighbours at most GAP apart, is a prophage: all of it is left out. A marker gene
of a cell is left out if a tenth of all its words are shared.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sequences import Record

from virnuc_rules.chunking.open_frames import open_frames
from virnuc_rules.chunking.windows import count, cut
from virnuc_rules.training.words import Words, is_homolog, words

WINDOW = 500
GAP = 5_000  # bases
MIN_WINDOWS = 3
_BLOCK = 1 << 24  # bases translated at once

Int = NDArray[np.int64]


def viral_words(genes: list[Record]) -> Words:
    """Return the sorted words of the open frames of genes."""
    return np.unique(np.concatenate([word for word, *_ in translated(genes)]))


def like_viruses(records: list[Record], known: Words) -> NDArray[np.bool_]:
    """Tell which records share a tenth of the words of their open frames with the known ones."""
    found = [
        is_homolog(word, contig, records_in, known)
        for word, _, contig, records_in, _ in translated(records)
    ]
    return np.concatenate([np.zeros(0, bool), *found])


def without_prophages(records: list[Record], known: Words) -> Iterator[Record]:
    """Yield the pieces of genomes that are left when prophages are taken out."""
    rest = iter(records)
    for word, frame, _, records_in, (window, contig, start) in translated(records):
        like = window[is_homolog(word, frame, len(window), known)]
        like = np.unique(like)
        for index in range(records_in):
            record = next(rest)
            yield from _outside(record, _runs(start[like[contig[like] == index]]))


def translated(
    records: list[Record],
) -> Iterator[tuple[Words, Int, Int, int, tuple[Int, Int, Int]]]:
    """Yield for some records at a time their words [N], with the open frame and the record of each.

    Then the number of records, and by open frame the window, by window the record and the start.
    """
    while records:
        sizes = np.cumsum([len(record.bases) for record in records])
        taken = max(1, int(np.searchsorted(sizes, _BLOCK, "right")))
        part, records = records[:taken], records[taken:]
        length = np.array([len(record.bases) for record in part])
        total = np.array([count(int(n), WINDOW) for n in length])
        windows = cut(length, np.zeros_like(length), total, WINDOW)
        first = (np.cumsum(length) - length)[windows.contig]
        bases = b"".join(record.bases for record in part)
        frames = open_frames(bases, first + windows.start, first + windows.end)
        word, frame = words(frames.protein)
        contig = windows.contig[frames.window[frame]]
        yield word, frame, contig, taken, (frames.window, windows.contig, windows.start)


def _runs(start: Int) -> list[tuple[int, int]]:
    """Return first and last base (exclusive) of the runs of windows that begin at `start`."""
    if not len(start):
        return []
    parts = np.split(start, np.flatnonzero(np.diff(start) > GAP) + 1)
    return [(int(p[0]), int(p[-1]) + WINDOW) for p in parts if len(p) >= MIN_WINDOWS]


def _outside(record: Record, regions: list[tuple[int, int]]) -> Iterator[Record]:
    """Yield what lies between regions; the id has start-end, 1-based and inclusive."""
    ends = [0, *(end for _, end in regions)]
    starts = [*(start for start, _ in regions), len(record.bases)]
    for start, end in zip(ends, starts, strict=True):
        if end > start:
            name = f"{record.id}:{start + 1}-{end}" if regions else record.id
            yield replace(record, id=name, bases=record.bases[start:end])
