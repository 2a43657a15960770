"""Measures of a bundle on labelled windows and contigs: the numbers of `evaluation.json`.

Windows and contigs without a call are counted and excluded. AUROC and recall at a false positive
rate do not depend on the fraction of viral sequences; the other measures are given at two
prevalences, by weighting the labels.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    matthews_corrcoef,
    precision_score,
    roc_auc_score,
    roc_curve,
)

from virnuc_rules.arrays import Int
from virnuc_rules.training.calibrate import balanced_weights
from virnuc_rules.training.intervals import (
    Interval,
    auroc_interval,
    effective_groups,
    rate_interval,
)
from virnuc_rules.training.scored import Scored
from virnuc_rules.vocabulary import Label

PREVALENCES = {"1:1": 0.5, "1:19": 0.05}  # viral to non-viral
LENGTHS = (0, 300, 500, 1_000, 3_000, 5_000, 10_000)  # minimum bases of the length classes
MAX_FALSE = 0.01  # false positive rate at which recall is given
MAX_GROUPS = 1000  # that are written
_CURVE = 200  # maximum number of points of a curve
_BINS = 10  # of the reliability curve


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(_Record):
    """Numbers of windows or contigs of a label."""

    total: int
    called: int
    called_virus: int
    failed: int  # without a call since the embedding failed


class AtPrevalence(_Record):
    """Measures that depend on how common viruses are."""

    prevalence: float
    auprc: float
    precision: float
    f1: float
    mcc: float


class Subset(_Record):
    """The windows or contigs of a range of lengths, a source, or a group."""

    name: str
    counts: dict[Label, Counts]
    auroc: float | None  # None where a label has no calls


class Ranking(_Record):
    """How well the scores separate the labels, over windows or contigs with a call."""

    auroc: float
    auroc_interval: Interval | None  # 95 %; None: too few groups (see `intervals`), or 0 or 1
    recall_at_1_percent_fpr: float
    at: dict[str, AtPrevalence]  # by ratio of viral to non-viral
    roc: list[tuple[float, float]]  # false positive rate, recall


class Measures(_Record):
    """All measures of windows, or of contigs."""

    counts: dict[Label, Counts]
    effective_groups: dict[Label, float] = {}  # of those with a call, see `intervals`
    recall: float | None  # fraction of the called viral that are called virus; None: none called
    recall_interval: Interval | None = None
    recall_of_all: float | None = (
        None  # the same of all viral ones: those without a call are not found
    )
    false_positive_rate: float | None  # the same of the called non-viral
    false_positive_rate_interval: Interval | None = None
    ranking: Ranking | None  # None where a label has no calls
    by_length: list[Subset]  # of the contig
    by_source: list[Subset]
    by_group: list[Subset]  # the MAX_GROUPS groups with the most wrong calls
    groups: int  # number of all groups


class Bin(_Record):
    """Windows of similar probability: mean prediction and viral fraction, at balanced labels."""

    predicted: float
    observed: float
    windows: int


class Reliability(_Record):
    """How well probabilities agree with the labels; both labels have the same total weight."""

    calibrated: bool  # False: of raw scores, score_virus / (score_virus + score_non_viral)
    brier: float
    expected_calibration_error: float
    bins: list[Bin]


def measure(scored: Scored, sources: list[str], groups: list[str]) -> Measures:
    """Measure windows or contigs; their `sample` and `group` are indices into the names."""
    called = scored.where(scored.called)
    counts = _counts(scored, np.zeros(len(scored.virus), np.int64), 1)[0]
    size = np.searchsorted(LENGTHS, scored.length, "right") - 1
    ranges = [f"{low:,} to {high - 1:,} bp" for low, high in pairwise(LENGTHS)]
    ranges.append(f"from {LENGTHS[-1]:,} bp")
    rates = {
        label: each.called_virus / each.called if each.called else None
        for label, each in counts.items()
    }
    viral = counts[Label.VIRUS]
    sides = {label: called.where(called.virus == bool(label.code)) for label in Label}
    intervals = {label: rate_interval(side.call, side.group) for label, side in sides.items()}
    return Measures(
        counts=counts,
        effective_groups={label: effective_groups(side.group) for label, side in sides.items()},
        recall=rates[Label.VIRUS],
        recall_interval=intervals[Label.VIRUS],
        recall_of_all=viral.called_virus / viral.total if viral.total else None,
        false_positive_rate=rates[Label.NON_VIRAL],
        false_positive_rate_interval=intervals[Label.NON_VIRAL],
        ranking=_ranking(called) if None not in rates.values() else None,
        by_length=_subsets(scored, size, ranges),
        by_source=_subsets(scored, scored.sample, sources),
        by_group=_subsets(scored, scored.group, groups, MAX_GROUPS),
        groups=len(np.unique(scored.group)),
    )


def _ranking(called: Scored) -> Ranking:
    # All points: with many equal scores, a thinned curve may lack the point that is needed.
    fpr, tpr, _ = roc_curve(called.virus, called.score, drop_intermediate=False)
    return Ranking(
        auroc=roc_auc_score(called.virus, called.score),
        auroc_interval=auroc_interval(called.virus, called.score, called.group),
        recall_at_1_percent_fpr=float(tpr[fpr <= MAX_FALSE].max()),
        at={name: _at(called, prevalence) for name, prevalence in PREVALENCES.items()},
        roc=_thinned(fpr, tpr),
    )


def _counts(scored: Scored, index: Int, subsets: int) -> list[dict[Label, Counts]]:
    """Count by subset and label; `index` [N] is the subset of each window or contig."""
    counts: list[dict[Label, Counts]] = [{} for _ in range(subsets)]
    masks = {"called": scored.called, "called_virus": scored.call, "failed": scored.failed}
    for label in Label:
        of_label = scored.virus == bool(label.code)
        table = {"total": np.bincount(index[of_label], minlength=subsets).tolist()}
        for name, mask in masks.items():
            table[name] = np.bincount(index[of_label & mask], minlength=subsets).tolist()
        for subset, row in enumerate(zip(*table.values(), strict=True)):
            counts[subset][label] = Counts(**dict(zip(table, row, strict=True)))
    return counts


def _at(called: Scored, prevalence: float) -> AtPrevalence:
    weights = balanced_weights(called.virus, prevalence)
    calls: dict[str, Any] = {"y_true": called.virus, "y_pred": called.call}
    return AtPrevalence(
        prevalence=prevalence,
        auprc=average_precision_score(called.virus, called.score, sample_weight=weights),
        precision=precision_score(**calls, sample_weight=weights, zero_division=0.0),
        f1=f1_score(**calls, sample_weight=weights, zero_division=0.0),
        mcc=matthews_corrcoef(**calls, sample_weight=weights),
    )


def _subsets(
    scored: Scored, index: Int, names: list[str], maximum: int | None = None
) -> list[Subset]:
    """Return the subsets that are not empty; with `maximum`, those with the most wrong calls."""
    counts = _counts(scored, index, len(names))
    order = np.argsort(index, kind="stable")
    rows = np.split(order, np.searchsorted(index[order], np.arange(1, len(names))))
    chosen = [subset for subset in range(len(names)) if len(rows[subset])]
    if maximum is not None:
        chosen = sorted(chosen, key=lambda subset: -_wrong_calls(counts[subset]))[:maximum]
    return [
        Subset(
            name=names[subset],
            counts=counts[subset],
            auroc=_auroc(scored.where(rows[subset]), counts[subset]),
        )
        for subset in chosen
    ]


def _wrong_calls(counts: dict[Label, Counts]) -> int:
    """Return the number of calls that differ from the label."""
    viral, non_viral = counts[Label.VIRUS], counts[Label.NON_VIRAL]
    return viral.called - viral.called_virus + non_viral.called_virus


def _auroc(scored: Scored, counts: dict[Label, Counts]) -> float | None:
    if not all(each.called for each in counts.values()):
        return None
    called = scored.where(scored.called)
    return float(roc_auc_score(called.virus, called.score))


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE)).astype(int))
    return [(float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True)]


def reliability(
    scored: Scored, probability: NDArray[np.float64] | None = None
) -> Reliability | None:
    """Compare probabilities [N] of windows, by default the raw scores, with the labels.

    Both labels have the same total weight. None where a label has no window with a call.
    """
    called = scored.called
    virus = scored.virus[called]
    if virus.all() or not virus.any():
        return None
    p = expit(scored.score.astype(np.float64)) if probability is None else probability
    p, weights = p[called], balanced_weights(virus)
    index = np.minimum((p * _BINS).astype(int), _BINS - 1)
    bins, error = [], 0.0
    for inside in (index == each for each in np.unique(index)):
        predicted, observed = (
            float(np.average(values[inside], weights=weights[inside])) for values in (p, virus)
        )
        error += float(weights[inside].sum()) * abs(predicted - observed)
        bins.append(Bin(predicted=predicted, observed=observed, windows=int(inside.sum())))
    return Reliability(
        calibrated=probability is not None,
        brier=brier_score_loss(virus, p, sample_weight=weights),
        expected_calibration_error=error,
        bins=bins,
    )
