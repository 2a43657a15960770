"""The open frames that a classifier is trained on: their embeddings stay on the disk.

Result files are mapped into memory, never read into it as a whole. What is in memory is the place
of each open frame (8 bytes), and the pool of rows that batches are drawn from.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.chunking.format import Chunk
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.errors import VirnucError
from virnuc_rules.prediction.scored_chunks import usable_results
from virnuc_rules.training.annotation import CodingSequences
from virnuc_rules.training.labelled import Labelled, annotated
from virnuc_rules.training.split import PARTS, Part
from virnuc_rules.vocabulary import Label

logger = logging.getLogger(__name__)

SEGMENT = 256  # rows that are read together: neighbours in a file, which disks like
POOL = 1 << 15  # rows that a batch is drawn from, 436 MB at the width of the published models

_Batch = tuple[Tensor, Tensor]  # features [B, F], labels int64 [B]


@dataclass(slots=True)
class Block:
    """Some open frames of one result file."""

    dnabert_s: Tensor  # mapped, all rows of the file
    esm2: Tensor
    rows: Int  # [R] those that are meant, ascending
    label: int

    @property
    def width(self) -> int:
        """Number of features."""
        return self.dnabert_s.shape[1] + self.esm2.shape[1]

    def features(self, rows: Int) -> Tensor:
        """Read rows of the file; float32 [len(rows), both widths]."""
        index = torch.from_numpy(rows)
        return torch.cat([self.dnabert_s[index], self.esm2[index]], dim=1)


class Rows:
    """The open frames of a part of the data, with the labels of their contigs."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = [block for block in blocks if len(block.rows)]
        self.counts = np.zeros(len(Label), np.int64)  # by label
        for block in self.blocks:
            self.counts[block.label] += len(block.rows)

    def by_label(self) -> dict[Label, int]:
        """Return how many there are of each label."""
        return dict(zip(Label, self.counts.tolist(), strict=True))

    def capped(self, most: int, seed: int) -> "Rows":
        """Return at most so many rows of each label, drawn by the seed; 0: all."""
        draw = np.random.default_rng(seed)
        blocks: list[Block] = []
        for label, count in enumerate(self.counts.tolist()):
            mine = [block for block in self.blocks if block.label == label]
            kept = np.ones(count, bool)
            if most and count > most:
                kept[:] = False
                kept[draw.permutation(count)[:most]] = True
            ends = np.cumsum([len(block.rows) for block in mine])
            for block, keep in zip(mine, np.split(kept, ends[:-1]), strict=True):
                blocks.append(Block(block.dnabert_s, block.esm2, block.rows[keep], label))
        return Rows(blocks)

    def shuffled(self, batch: int, draw: np.random.Generator) -> Iterator[_Batch]:
        """Yield all rows once, in random order, in batches: features [B, F], labels int64 [B].

        Segments of neighbours are read in random order, and the rows of a pool of them mixed.
        The last batch may be smaller; one of a single row, of which no variance can be had, is
        part of the one before.
        """
        segments = [
            (block, block.rows[at : at + SEGMENT])
            for block in self.blocks
            for at in range(0, len(block.rows), SEGMENT)
        ]
        order = draw.permutation(len(segments))
        rest: _Batch | None = None  # of the pool before: too few for a batch
        for first in range(0, len(order), POOL // SEGMENT):
            x, y = _pool(
                rest, [segments[index] for index in order[first : first + POOL // SEGMENT]]
            )
            mixed = torch.from_numpy(draw.permutation(len(y)))
            whole = max(0, len(y) - batch - 1) // batch * batch
            for at in range(0, whole, batch):
                rows = mixed[at : at + batch]
                yield x[rows], y[rows]
            rest = x[mixed[whole:]], y[mixed[whole:]]
        if rest:
            ends = [batch] if len(rest[1]) > batch + 1 else []
            yield from zip(*(part.tensor_split(ends) for part in rest), strict=True)

    def in_order(self, batch: int) -> Iterator[_Batch]:
        """Yield all rows as they are on disk, in batches: features [B, F], labels int64 [B]."""
        for block in self.blocks:
            for at in range(0, len(block.rows), batch):
                rows = block.rows[at : at + batch]
                yield block.features(rows), torch.full((len(rows),), block.label)


def _pool(rest: _Batch | None, segments: list[tuple[Block, Int]]) -> _Batch:
    """Read segments behind the rest of the pool before them, into memory that is filled once."""
    kept = 0 if rest is None else len(rest[1])
    ends = np.cumsum([kept, *(len(rows) for _, rows in segments)])
    x = torch.empty(int(ends[-1]), segments[0][0].width)
    y = torch.empty(int(ends[-1]), dtype=torch.int64)
    if rest is not None:
        x[:kept], y[:kept] = rest
    for (block, rows), first, last in zip(segments, ends[:-1], ends[1:], strict=True):
        x[first:last], y[first:last] = block.features(rows), block.label
    return x, y


def read_rows(settings: LabelledSettings, labelled: Labelled, *parts: Part) -> dict[Part, Rows]:
    """Map the embeddings of the labelled samples, and sort their open frames into parts.

    Where a file has an annotation, open frames outside of its coding sequences are left out.
    Raises what `usable_results` and `annotated` raise, and VirnucError where a part has no open
    frame of one of the labels.
    """
    blocks: dict[Part, list[Block]] = {part: [] for part in parts}
    tasks = Tasks.of(settings.run, settings.embedding)
    for sample in labelled.samples:
        coding = dict(annotated(sample))
        failed = outside = 0
        for chunk, result in usable_results(list(tasks.of_sample(sample.name)), settings.run):
            if result is None:
                failed += len(chunk.ids)
                continue
            contig = sample.window_contig[chunk.table["window_row"].to_numpy()]
            kept = _coding(chunk, contig, coding)
            outside += int((~kept).sum())
            for part in parts:
                mine = np.flatnonzero(kept & (sample.part[contig] == PARTS.index(part)))
                blocks[part].append(Block(result.dnabert_s, result.esm2, mine, sample.label))
        if failed:
            logger.warning("sample %s: %d open frames have no embedding", sample.name, failed)
        if coding:
            logger.info("sample %s: %d open frames outside of CDS left out", sample.name, outside)
    found = {part: Rows(blocks[part]) for part in parts}
    for part, rows in found.items():
        for label, count in rows.by_label().items():
            if not count:
                raise VirnucError(
                    f"{settings.inputs.samples}: no open frame of label {label} in the {part} "
                    "part; give more groups, or name parts in the column `part`"
                )
    return found


def _coding(chunk: Chunk, contig: Int, coding: dict[int, CodingSequences]) -> Bool:
    """Tell which open frames of a chunk may be trained on: inside coding sequences, if known."""
    kept: NDArray[np.bool_] = np.ones(len(contig), bool)
    start, end = chunk.table["start"].to_numpy(), chunk.table["end"].to_numpy()
    forward = pc.starts_with(chunk.table["frame"].cast(pa.string()), "F").to_numpy()
    for number in set(np.unique(contig).tolist()) & coding.keys():
        for strand in (1, -1):
            mine = np.flatnonzero((contig == number) & (forward == (strand > 0)))
            kept[mine] = coding[number].contain(strand, start[mine], end[mine])
    return kept
