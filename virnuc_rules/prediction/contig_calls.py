"""Calls of contigs from calls of windows: arrays only, no files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Double, Float, Int
from virnuc_rules.chunking.format import WINDOW_SCHEMA
from virnuc_rules.chunking.windows import count
from virnuc_rules.config.model import Calling
from virnuc_rules.vocabulary import NO_REASON, Call, Reason

_ROWS = 1 << 16  # windows that are called together


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
    log_odds: Double  # [W] log of P(what is seen | viral) / P(what is seen | not); 0: says nothing

    @property
    def called(self) -> Bool:
        """Tell which windows have a call, [W]."""
        return np.equal(self.reason, NO_REASON)


def with_windows(
    contigs: Iterable[pa.Table], windows: Iterable[pa.Table], window: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Regroup the parts of the contig and the window table: some contigs, and all their windows.

    At most about `_ROWS` windows are together, unless one contig has more.
    """
    parts, rest = iter(windows), WINDOW_SCHEMA.empty_table()
    for table in contigs:
        ends = np.cumsum(count(table["length"].to_numpy(), window))  # windows up to each contig
        cuts = np.flatnonzero(np.diff(ends // _ROWS)) + 1
        row = 0
        for first, last in pairwise([0, *cuts.tolist(), len(ends)]):
            n_windows = int(ends[last - 1]) - row
            row += n_windows
            while rest.num_rows < n_windows:
                rest = pa.concat_tables([rest, next(parts)])
            yield table.slice(first, last - first), rest.slice(0, n_windows)
            rest = rest.slice(n_windows)


def contig_calls(windows: WindowCalls, rule: Calling) -> dict[str, Any]:
    """Return the columns of the contig table that follow from its windows, [C] each.

    A contig with fewer than `min_called_windows` called windows has no call. A called contig is
    virus if at least `min_viral_fraction` of its called windows are viral and the mean score of the
    viral windows is at least `min_score`; else it is non-viral. Both are compared as float32, as
    they are written. NaN: no window to compute a value from; such a contig is not virus. The reason
    of a contig without windows is that it is too short.
    """
    index, called, virus = windows.index, windows.called, windows.virus
    contigs = windows.contigs
    total = np.bincount(index, minlength=contigs)
    calls = np.bincount(index[called], minlength=contigs)
    viral = np.bincount(index[virus], minlength=contigs)
    score_viral = _ratio(np.bincount(index[virus], windows.score[virus], contigs), viral)
    fraction = _ratio(viral, calls)
    scores = np.bincount(index[called], windows.score[called], contigs)
    median, highest = _median_and_max(index[called], windows.score[called], calls)
    enough = calls >= rule.min_called_windows
    is_virus = (fraction >= rule.min_viral_fraction) & (score_viral >= rule.min_score)
    code = np.full(contigs, Reason.TOO_SHORT.code)  # the last
    np.minimum.at(code, index, windows.reason)
    reason = np.array(list(Reason), object)[code]
    reason[enough] = None
    return {
        "windows": total,
        "called_windows": calls,
        "viral_windows": viral,
        "viral_fraction": fraction,
        "viral_fraction_all": _ratio(viral, total),
        "score_mean": _ratio(scores, calls),
        "score_median": median,
        "score_max": highest,
        "score_viral": score_viral,
        "longest_run": _longest_run(windows),
        "call": np.where(enough, np.where(is_virus, Call.VIRUS, Call.NON_VIRAL), Call.NO_CALL),
        "reason": reason,
    }


def _longest_run(windows: WindowCalls) -> Int:
    """Return the most viral windows in a row of each contig; those without a call do not count."""
    called = windows.called
    index, virus = windows.index[called], windows.virus[called]
    begins = virus.copy()
    begins[1:] &= ~(virus[:-1] & (index[1:] == index[:-1]))
    longest = np.zeros(windows.contigs, np.int64)
    np.maximum.at(longest, index[begins], np.bincount(np.cumsum(begins)[virus] - 1))
    return longest


def _ratio(sums: NDArray[Any], count: Int) -> Float:
    with np.errstate(invalid="ignore"):
        return (sums / count).astype(np.float32)


def _median_and_max(index: Int, score: Float, count: Int) -> tuple[Float, Float]:
    """Return median and maximum of the scores of each contig; NaN where `count` is 0."""
    ordered = score[np.lexsort((score, index))].astype(np.float64)
    some = count > 0
    first, last = (np.cumsum(count) - count)[some], np.cumsum(count)[some] - 1
    median, highest = np.full((2, len(count)), np.nan, np.float32)
    median[some] = (ordered[(first + last) // 2] + ordered[(first + last + 1) // 2]) / 2
    highest[some] = ordered[last]
    return median, highest
