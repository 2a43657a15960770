"""The windows of contigs with their calls: those of VirNucPro, but for windows of few bases."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Double, Float, Int
from virnuc_rules.config.model import Chunking
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError
from virnuc_rules.models.calibration import Odds
from virnuc_rules.vocabulary import NO_REASON, Reason

if TYPE_CHECKING:
    from virnuc_rules.prediction.window_calls import Consensus

MIN_BASES = 150  # of a window: 45 % of random ones of 149 bases have an open frame, 62 % of 120
MIN_UNAMBIGUOUS = 0.5  # fraction of the bases of a window


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


def called_windows(
    contigs: pa.Table,
    table: pa.Table,
    consensus: "Consensus",
    odds: Odds,
    chunks: ChunkFolder,
    chunking: Chunking,
) -> WindowCalls:
    """Call the windows of contigs, rows of the contig and the window table of `chunks`.

    chunking: the settings that these were made with. Raises ChunkError where the numbers of open
    frames disagree with the window table.
    """
    reason, floor = _reasons(table, consensus, chunks), floors(table, chunking)
    np.copyto(reason, floor, where=floor != NO_REASON)
    called = reason == NO_REASON
    first = contigs["contig_index"][0].as_py() if contigs.num_rows else 0
    margin = np.where(called, consensus.margin, np.float32(np.nan))
    return WindowCalls(
        contigs=contigs.num_rows,
        index=table["contig_index"].to_numpy() - first,
        start=table["start"].to_numpy(),
        end=table["end"].to_numpy(),
        score=consensus.score2,
        reason=reason,
        virus=consensus.virus & called,
        margin=margin,
        log_odds=odds.evidence(margin, reason == Reason.NO_OPEN_FRAME.code),
    )


def _reasons(table: pa.Table, consensus: "Consensus", chunks: ChunkFolder) -> NDArray[np.int8]:
    """Return why each window has no call, as codes; NO_REASON where it has one."""
    index = pc.index_in(table["reason"].cast(pa.string()), value_set=pa.array(list(Reason)))
    open_frames, has_reason = table["open_frames"].to_numpy(), index.is_valid().to_numpy()
    if np.any(open_frames != consensus.frames) or np.any((open_frames == 0) != has_reason):
        raise ChunkError(
            f"{chunks.windows}: does not belong to the open frames in the chunks; "
            "delete the folder and run again"
        )
    reason: NDArray[np.int8] = index.fill_null(NO_REASON).to_numpy().astype(np.int8)
    reason[consensus.failed] = Reason.EMBEDDING_FAILED.code
    return reason


def floors(table: pa.Table, chunking: Chunking) -> NDArray[np.int8]:
    """Return why windows of contigs have too few bases for a call, whatever their scores, [W].

    table: rows of the window table of the chunk folder. Codes of a Reason; NO_REASON: enough. A
    bundle for windows shorter than MIN_BASES calls whole windows. Reads are called as they are.
    """
    reason = np.full(table.num_rows, NO_REASON, np.int8)
    if chunking.duplicate_ids != "keep":
        bases = table["end"].to_numpy() - table["start"].to_numpy()
        few = table["unambiguous"].to_numpy() < MIN_UNAMBIGUOUS * bases
        reason[few] = Reason.TOO_AMBIGUOUS.code
        reason[bases < min(MIN_BASES, chunking.window)] = Reason.TOO_SHORT.code
    return reason


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
