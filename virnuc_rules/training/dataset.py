"""The open frames that a classifier is trained on; their embeddings stay on the disk.

Embedding files are memory-mapped, never read as a whole. Memory holds the row index of each open
frame (8 bytes), and the pool of rows that batches are drawn from.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.chunking.format import Chunk
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.errors import VirnucError
from virnuc_rules.prediction.scored_chunks import usable_results
from virnuc_rules.training.annotation import CodingSequences
from virnuc_rules.training.labelled import Labelled, annotated
from virnuc_rules.training.split import PARTS, Part
from virnuc_rules.vocabulary import Label

logger = logging.getLogger(__name__)

SEGMENT = 256  # adjacent rows of a file that are read together
POOL = 1 << 15  # rows that a batch is drawn from, 436 MB at the width of the published models

_Batch = tuple[Tensor, Tensor]  # features [B, F], labels int64 [B]


@dataclass(slots=True)
class Block:
    """R open frames of one embedding file."""

    dnabert_s: Tensor  # memory-mapped, all rows of the file
    esm2: Tensor
    rows: Int  # [R] rows in the file, ascending
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
    """The open frames of a part of the data, with labels."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = [block for block in blocks if len(block.rows)]
        self.counts = np.zeros(len(Label), np.int64)  # by label
        for block in self.blocks:
            self.counts[block.label] += len(block.rows)

    def by_label(self) -> dict[Label, int]:
        """Return the number of open frames of each label."""
        return dict(zip(Label, self.counts.tolist(), strict=True))

    def capped(self, maximum: int, seed: int) -> "Rows":
        """Return at most `maximum` rows of each label, drawn at random; 0: all."""
        draw = np.random.default_rng(seed)
        blocks: list[Block] = []
        for label, count in enumerate(self.counts.tolist()):
            of_label = [block for block in self.blocks if block.label == label]
            kept = np.ones(count, bool)
            if maximum and count > maximum:
                kept[draw.permutation(count)[maximum:]] = False
            ends = np.cumsum([len(block.rows) for block in of_label])
            for block, keep in zip(of_label, np.split(kept, ends[:-1]), strict=True):
                blocks.append(replace(block, rows=block.rows[keep]))
        return Rows(blocks)

    def shuffled(self, batch: int, draw: np.random.Generator) -> Iterator[_Batch]:
        """Yield all rows once, in random order, in batches: features [B, F], labels int64 [B].

        Segments of adjacent rows are read in random order, and the rows of a pool of segments are
        shuffled. The last batch may be smaller, but never has a single row (batch normalization
        needs a variance): such a row is in the batch before.
        """
        segments = [
            (block, block.rows[first : first + SEGMENT])
            for block in self.blocks
            for first in range(0, len(block.rows), SEGMENT)
        ]
        order, size = draw.permutation(len(segments)), POOL // SEGMENT
        rest: _Batch | None = None  # of the pool before: too few for a batch
        for first in range(0, len(order), size):
            x, y = _pool(rest, [segments[index] for index in order[first : first + size]])
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
        """Yield all rows in the order on disk, in batches: features [B, F], labels int64 [B]."""
        for block in self.blocks:
            for first in range(0, len(block.rows), batch):
                rows = block.rows[first : first + batch]
                yield block.features(rows), torch.full((len(rows),), block.label)


def _pool(rest: _Batch | None, segments: list[tuple[Block, Int]]) -> _Batch:
    """Return the rest of the previous pool followed by segments, read into one new tensor."""
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
    """Return the open frames of the labelled samples by part; embeddings are memory-mapped.

    Where a file has an annotation, open frames outside of its coding sequences are left out.
    Raises what `usable_results` and `annotated` raise, and VirnucError where a part has no open
    frame of one of the labels.
    """
    blocks: dict[Part, list[Block]] = {part: [] for part in parts}
    tasks = Tasks.of(settings.run, settings.embedding, need_embeddings=True)
    for sample in labelled.samples:
        coding = dict(annotated(sample))
        failed = outside = 0
        of_sample = list(tasks.of_sample(sample.name))
        for chunk, result in usable_results(of_sample, settings.run):
            if not isinstance(result, Embeddings):
                failed += len(chunk.ids)
                continue
            contig = sample.window_contig[chunk.table["window_row"].to_numpy()]
            kept = _coding(chunk, contig, coding)
            outside += int((~kept).sum())
            for part in parts:
                rows = np.flatnonzero(kept & (sample.part[contig] == PARTS.index(part)))
                blocks[part].append(Block(result.dnabert_s, result.esm2, rows, sample.label))
        if failed:
            logger.warning("sample %s: %d open frames have no embedding", sample.name, failed)
        if coding:
            logger.info("sample %s: %d open frames outside of CDS left out", sample.name, outside)
    rows_of = {part: Rows(blocks[part]) for part in parts}
    for part, part_rows in rows_of.items():
        for label, count in part_rows.by_label().items():
            if not count:
                raise VirnucError(
                    f"{settings.inputs.samples}: no open frame of label {label} in the {part} "
                    "part; give more groups, or name parts in the column `part`"
                )
    return rows_of


def _coding(chunk: Chunk, contig: Int, coding: dict[int, CodingSequences]) -> Bool:
    """Tell which open frames [R] of a chunk are coding; all of those without annotation."""
    kept: NDArray[np.bool_] = np.ones(len(contig), bool)
    start, end = chunk.table["start"].to_numpy(), chunk.table["end"].to_numpy()
    forward = pc.starts_with(chunk.table["frame"].cast(pa.string()), "F").to_numpy()
    for index in set(np.unique(contig).tolist()) & coding.keys():
        for strand in (1, -1):
            rows = np.flatnonzero((contig == index) & (forward == (strand > 0)))
            kept[rows] = coding[index].contain(strand, start[rows], end[rows])
    return kept
