"""Calls of contigs from calls of windows: arrays only, no files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Float, Int
from virnuc_rules.chunking.format import WINDOW_SCHEMA
from virnuc_rules.chunking.windows import count
from virnuc_rules.config.model import Calling
from virnuc_rules.models.card import ContigModel
from virnuc_rules.models.prevalence import EVEN, at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls, longest_run
from virnuc_rules.prediction.contig_model import contig_log_odds
from virnuc_rules.vocabulary import Call, Reason

_ROWS = 1 << 16  # windows that are called together
CUTOFFS = {"conservative": 0.9, "default": 0.5, "sensitive": 0.2}  # probabilities, by `calls`
# Where the stops of a phage are recoded, a tenth of its windows keep an open frame (5 of 44 of one
# with genetic code 15); a human contig that VirNuc 0.1 called virus had 2 of 628.
MIN_CALLED_FRACTION = 0.1


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


@dataclass(frozen=True, slots=True)
class ContigRule:
    """How contigs are called: by a model of contigs where `calls` asks for it and there is one."""

    calling: Calling
    model: ContigModel | None
    prevalence: float = EVEN  # viral fraction of contigs with a call, above 0 and below 1
    given: float | None = None  # cutoff in place of that of `calls`; above 1: nothing is virus

    @property
    def cutoff(self) -> float | None:
        """Return the probability from which on a contig is virus; None: the keys `min_*` decide."""
        if self.given is not None or self.model is None:
            return self.given
        return CUTOFFS.get(self.calling.calls)


def contig_calls(windows: WindowCalls, rule: ContigRule) -> dict[str, Any]:
    """Return the columns of the contig table that follow from its windows, [C] each.

    With a model of contigs, a contig with a called window is virus if its probability reaches the
    cutoff. Else the keys `min_*` decide: a contig with fewer than `min_called_windows` called
    windows has no call; one is virus if at least `min_viral_fraction` of its called windows are
    viral and the mean score of the viral windows is at least `min_score` and, unless `calls` is
    `virnucpro`, at least MIN_CALLED_FRACTION of its windows have a call; else it is non-viral.
    Scores are compared as float32, as they are written. NaN: no window to compute a value from;
    such a contig is not virus. The reason of a contig without windows is that it is too short.
    """
    index, called, virus = windows.index, windows.called, windows.virus

    def count(rows: Bool) -> Int:
        return np.bincount(index[rows], minlength=windows.contigs)

    def mean(values: Float, rows: Bool) -> Float:
        return _ratio(np.bincount(index[rows], values[rows], windows.contigs), count(rows))

    total, calls, viral = np.bincount(index, minlength=windows.contigs), count(called), count(virus)
    median, highest = _median_and_max(index[called], windows.score[called], calls)
    columns = {
        "probability": _probability(windows, rule),
        "margin": mean(windows.margin, called),
        "windows": total,
        "called_windows": calls,
        "viral_windows": viral,
        "viral_fraction": _ratio(viral, calls),
        "viral_fraction_all": _ratio(viral, total),
        "score_mean": mean(windows.score, called),
        "score_median": median,
        "score_max": highest,
        "score_viral": mean(windows.score, virus),
        "longest_run": longest_run(windows, np.ones(len(index))),
    }
    enough, is_virus = _decided(columns, rule)
    code = np.full(windows.contigs, Reason.TOO_SHORT.code)  # of a contig without windows
    np.minimum.at(code, index, windows.reason)
    reason = np.array(list(Reason), object)[code]
    reason[enough] = None
    call = np.where(enough, np.where(is_virus, Call.VIRUS, Call.NON_VIRAL), Call.NO_CALL)
    return {**columns, "call": call, "reason": reason}


def _probability(windows: WindowCalls, rule: ContigRule) -> Float:
    if rule.model is None:
        return np.full(windows.contigs, np.nan, np.float32)
    return at_prevalence(contig_log_odds(windows, rule.model), rule.prevalence).astype(np.float32)


def _decided(columns: dict[str, Any], rule: ContigRule) -> tuple[Bool, Bool]:
    """Return which contigs have a call, and which of these are virus, [C] each."""
    calls, keys = columns["called_windows"], rule.calling
    if rule.cutoff is not None:
        return calls > 0, columns["probability"] >= np.float32(rule.cutoff)
    is_virus = columns["viral_fraction"] >= keys.min_viral_fraction
    is_virus &= columns["score_viral"] >= keys.min_score
    if keys.calls in CUTOFFS:
        is_virus &= calls >= MIN_CALLED_FRACTION * columns["windows"]
    return calls >= keys.min_called_windows, is_virus


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
