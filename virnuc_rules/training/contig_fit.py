"""Fitting the model of contigs to labelled contigs, cut to several lengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from virnuc_rules.arrays import Bool, Double, Int
from virnuc_rules.config.model import Calling
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import ContigModel, Reached
from virnuc_rules.models.prevalence import SHOWN, at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_calls import CUTOFFS, ContigRule, contig_calls
from virnuc_rules.prediction.contig_model import BOUNDS, FEATURES, contig_log_odds, features
from virnuc_rules.vocabulary import Call, Label, Reason

SIZES = (1, 2, 4, 10, 20, 40)  # windows of a piece
_MAX_PIECES = 10  # of a contig and a size, evenly spaced
_MIN_PIECES = 10  # of each label and a size; a size with fewer is left out
_PENALTY = 0.001  # of squared standardised coefficients, beside the mean loss


@dataclass(frozen=True, slots=True)
class Pieces:
    """P pieces of labelled contigs: so many windows in a row."""

    windows: WindowCalls  # of the pieces, which are its contigs
    virus: Bool  # [P] label
    group: Int  # [P]
    size: Int  # [P] index of SIZES

    @property
    def weight(self) -> Double:
        """Weigh pieces [P]: each size, and each label in a size, has the same total weight."""
        kinds = self.size * 2 + self.virus
        each = 1.0 / np.bincount(kinds)[kinds]
        weight: Double = each / each.sum()
        return weight


def cut_pieces(windows: WindowCalls, virus: Bool, group: Int, chosen: Bool) -> Pieces:
    """Cut the chosen contigs, with labels and groups [C], to pieces of each of SIZES.

    Pieces without a called window are left out, and so are sizes that only one label has: a contig
    must not count as viral since the viral ones are short.
    """
    count = np.bincount(windows.index, minlength=windows.contigs)
    first = np.cumsum(count) - count
    parts: list[tuple[Int, Int, Int]] = []  # first window, contig, index of the size
    for index, size in enumerate(SIZES):
        for contig in np.flatnonzero(chosen & (count >= size)).tolist():
            number = count[contig] // size
            kept = np.unique(np.linspace(0, number - 1, min(number, _MAX_PIECES)).astype(int))
            begin = first[contig] + kept * size
            parts.append((begin, np.full_like(begin, contig), np.full_like(begin, index)))
    empty = np.zeros((3, 0), np.int64)
    begin, contig, size_index = np.concatenate([empty, *map(np.array, parts)], axis=1)
    has_call = np.r_[0, np.cumsum(windows.called)]
    called = has_call[begin + np.array(SIZES)[size_index]] > has_call[begin]
    kinds = np.bincount(size_index[called] * 2 + virus[contig[called]], minlength=2 * len(SIZES))
    rows = called & (kinds.reshape(-1, 2).min(axis=1) >= _MIN_PIECES)[size_index]
    begin, contig, size_index = begin[rows], contig[rows], size_index[rows]
    rows = np.concatenate(
        [np.zeros(0, np.int64)]
        + [np.arange(a, a + SIZES[s]) for a, s in zip(begin, size_index, strict=True)]
    )
    of_pieces = windows.take(
        rows, np.repeat(np.arange(len(begin)), np.array(SIZES)[size_index]), len(begin)
    )
    return Pieces(of_pieces, virus[contig], group[contig], size_index)


def fit_contig_model(
    pieces: Pieces, first_half: Bool, odds: Callable[[bool | None], Odds]
) -> ContigModel | None:
    """Fit the model to pieces, and measure it on held-out groups; None: too few pieces or groups.

    first_half: which pieces [P] are of the first half of the groups. odds(True) are the odds of
    windows fitted to the first half, odds(None) those fitted to all: what is measured on one half
    was fitted to the other, both for windows and for contigs.
    """
    sides = [first_half, ~first_half]
    if not len(pieces.virus) or any(len(set(pieces.virus[side])) < 2 for side in sides):
        return None
    model = _fit(pieces, odds(None))
    held_out = np.zeros((2, len(pieces.virus)))  # log odds by all features, and by evidence alone
    for is_first, side in zip((True, False), sides, strict=True):
        other = odds(not is_first)
        for row, names in enumerate((FEATURES, FEATURES[:1])):
            fitted = _fit(_where(pieces, ~side), other, names)
            tested = _with(other, _where(pieces, side).windows)
            held_out[row, side] = contig_log_odds(tested, fitted)
    weight, sign = pieces.weight, np.where(pieces.virus, -1, 1)
    losses = [float(np.sum(weight * np.logaddexp(0, sign * row))) for row in held_out]
    return model.model_copy(
        update={
            "log_loss": dict(zip(("all", FEATURES[0]), losses, strict=True)),
            "reached": _reached(pieces, held_out[0], weight),
        }
    )


def _where(pieces: Pieces, rows: Bool) -> Pieces:
    windows = pieces.windows
    kept = rows[windows.index]
    part = windows.take(kept, (np.cumsum(rows) - 1)[windows.index[kept]], int(rows.sum()))
    return Pieces(part, pieces.virus[rows], pieces.group[rows], pieces.size[rows])


def _with(odds: Odds, windows: WindowCalls) -> WindowCalls:
    silent = windows.reason == Reason.NO_OPEN_FRAME.code
    return replace(windows, log_odds=odds.evidence(windows.margin, silent))


def _fit(pieces: Pieces, odds: Odds, names: Sequence[str] = FEATURES) -> ContigModel:
    """Minimise the weighted log loss, with coefficients in BOUNDS and a small penalty."""
    span = np.bincount(pieces.windows.index, pieces.windows.end - pieces.windows.start)
    longest = int(span.max())
    rows = features(_with(odds, pieces.windows), longest)
    used = np.array([name in names for name in FEATURES])
    scale = np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1)
    scaled, weight = np.column_stack([np.ones(len(rows)), rows / scale * used]), pieces.weight
    sign = np.where(pieces.virus, -1.0, 1.0)

    def loss(values: Double) -> tuple[float, Double]:
        wrong = sign * (scaled @ values)
        value = np.sum(weight * np.logaddexp(0, wrong)) + _PENALTY * np.sum(values[1:] ** 2)
        slope = (weight * expit(wrong) * sign) @ scaled
        return float(value), slope + 2 * _PENALTY * np.r_[0, values[1:]]

    limits = scale[:, None] * [BOUNDS[name] for name in FEATURES]
    bounds = [(None, None), *limits.tolist()]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    counts = np.bincount(pieces.virus, minlength=2).tolist()
    return ContigModel(
        intercept=float(found[0]),
        coefficients=dict(zip(FEATURES, (found[1:] / scale * used).tolist(), strict=True)),
        longest=longest,
        pieces=dict(zip(Label, counts, strict=True)),
        log_loss={},
        reached={},
    )


def _reached(pieces: Pieces, log_odds: Double, weight: Double) -> dict[str, dict[str, Reached]]:
    """Measure each value of `calls` on pieces with held-out log odds [P], by prevalence."""

    def rates(virus: Bool) -> Reached:
        recall, false = (
            float(np.average(virus[side], weights=weight[side]))
            for side in (pieces.virus, ~pieces.virus)
        )
        return Reached(recall=recall, false_positive_rate=false)

    by_keys = contig_calls(pieces.windows, ContigRule(Calling(calls="virnucpro"), None))
    reached = {"virnucpro": dict.fromkeys(map(str, SHOWN), rates(by_keys["call"] == Call.VIRUS))}
    for name, cutoff in CUTOFFS.items():
        reached[name] = {
            str(prevalence): rates(at_prevalence(log_odds, prevalence) >= cutoff)
            for prevalence in SHOWN
        }
    return reached
