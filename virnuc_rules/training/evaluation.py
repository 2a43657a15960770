"""What a bundle is worth on labelled windows and contigs: the numbers of `evaluation.json`.

Windows and contigs without a call are counted and excluded. AUROC and recall at a false positive
rate do not depend on how common viruses are; what does is given at two prevalences, by weighting
the labels.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    matthews_corrcoef,
    precision_score,
    roc_auc_score,
    roc_curve,
)

from virnuc_rules.contigs import Bool, Int
from virnuc_rules.controls import LABELS
from virnuc_rules.rundata import LENGTHS
from virnuc_rules.training.calibrate import balanced_weights
from virnuc_rules.training.scored import Scored

PREVALENCES = {"1:1": 0.5, "1:19": 0.05}  # viral to others
MOST_FALSE = 0.01  # false positive rate at which recall is given
RESAMPLES = 200  # of the groups, for intervals
_CURVE = 200  # points of a curve at most
_BINS = 10  # of the reliability curve


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(_Record):
    """How many there are of a label, have a call, and are called virus."""

    total: int
    called: int
    called_virus: int


class AtPrevalence(_Record):
    """Measures that depend on how common viruses are."""

    prevalence: float
    auprc: float
    precision: float
    f1: float
    mcc: float


class Subset(_Record):
    """A part of the windows or contigs: of some lengths, a source, or a group."""

    name: str
    counts: dict[str, Counts]  # by label
    auroc: float | None  # None without called ones of both labels

    @property
    def wrong(self) -> int:
        """Number of wrong calls."""
        viral, others = self.counts["virus"], self.counts["others"]
        return viral.called - viral.called_virus + others.called_virus


class Bin(_Record):
    """Windows of about one probability: what was said, and what was true, at equal labels."""

    predicted: float
    observed: float
    windows: int


class Measures(_Record):
    """How well windows, or contigs, are told apart."""

    counts: dict[str, Counts]
    auroc: float
    auroc_interval: tuple[float, float] | None  # 95 %, groups drawn again; None: too few groups
    recall: float  # of the calls
    false_positive_rate: float
    recall_at_1_percent_fpr: float
    at: dict[str, AtPrevalence]  # by viral to others
    roc: list[tuple[float, float]]  # false positive rate, recall
    by_length: list[Subset]  # of the contig
    by_source: list[Subset]
    by_group: list[Subset]


class Reliability(_Record):
    """Whether probabilities are what they say, labels weighing the same."""

    brier: float
    brier_raw: float  # of score_virus / (score_virus + score_others)
    expected_calibration_error: float
    bins: list[Bin]


def measure(scored: Scored, sources: list[str], groups: list[str]) -> Measures | None:
    """Measure windows or contigs; None where one of the labels has none with a call."""
    called = scored.where(scored.called)
    virus, score = called.virus, called.score
    if virus.all() or not virus.any():
        return None
    fpr, tpr, _ = roc_curve(virus, score)
    counts = _counts(scored)
    bounds = np.searchsorted(LENGTHS, scored.length, "right") - 1
    ranges = [f"{low:,} to {high - 1:,} bp" for low, high in pairwise(LENGTHS)]
    ranges.append(f"from {LENGTHS[-1]:,} bp")
    return Measures(
        counts=counts,
        auroc=roc_auc_score(virus, score),
        auroc_interval=_interval(called),
        recall=counts["virus"].called_virus / counts["virus"].called,
        false_positive_rate=counts["others"].called_virus / counts["others"].called,
        recall_at_1_percent_fpr=float(tpr[fpr <= MOST_FALSE].max()),
        at={name: _at(called, share) for name, share in PREVALENCES.items()},
        roc=_thinned(fpr, tpr),
        by_length=_subsets(scored, bounds, ranges),
        by_source=_subsets(scored, scored.sample, sources),
        by_group=_subsets(scored, scored.group, groups),
    )


def _counts(scored: Scored) -> dict[str, Counts]:
    return {
        label: Counts(
            total=int(mine.sum()),
            called=int((mine & scored.called).sum()),
            called_virus=int((mine & scored.call).sum()),
        )
        for label, mine in zip(LABELS, (~scored.virus, scored.virus), strict=True)
    }


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


def _interval(called: Scored) -> tuple[float, float] | None:
    """Return the 95 % interval of AUROC when groups, not windows, are drawn again.

    Windows of a genome are alike: to draw single ones again would make the interval too narrow.
    """
    group = np.unique(called.group, return_inverse=True)[1]
    number = int(group.max()) + 1
    of_label = [np.unique(group[called.virus == label]) for label in (False, True)]
    if min(len(mine) for mine in of_label) < 2:
        return None
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = [draw.choice(mine, len(mine)) for mine in of_label]
        times = [np.bincount(mine, minlength=number)[group] for mine in drawn]
        weights = np.where(called.virus, times[1], times[0]).astype(float)
        found.append(roc_auc_score(called.virus, called.score, sample_weight=weights))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _subsets(scored: Scored, index: Int, names: list[str]) -> list[Subset]:
    """Return the subsets of the same index, in the order of their names' list; empty ones not."""
    order = np.argsort(index, kind="stable")
    ends = np.searchsorted(index[order], np.arange(len(names) + 1))
    return [
        Subset(name=name, counts=_counts(part), auroc=_auroc(part))
        for number, name in enumerate(names)
        if len((part := scored.where(order[ends[number] : ends[number + 1]])).virus)
    ]


def _auroc(scored: Scored) -> float | None:
    called = scored.where(scored.called)
    if called.virus.all() or not called.virus.any():
        return None
    return float(roc_auc_score(called.virus, called.score))


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE)).astype(int))
    return [(float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True)]


def reliability(scored: Scored, probability: NDArray[np.float64]) -> Reliability:
    """Compare probabilities [N] of windows at equal labels with what is true of them."""
    called: Bool = scored.called
    virus, p = scored.virus[called], probability[called]
    weights = balanced_weights(virus)
    raw = 1 / (1 + np.exp(-scored.score[called].astype(np.float64)))
    index = np.minimum((p * _BINS).astype(int), _BINS - 1)
    bins, error = [], 0.0
    for number in range(_BINS):
        mine = index == number
        if mine.any():
            share = float(weights[mine].sum())
            predicted, observed = (
                float(np.average(values[mine], weights=weights[mine])) for values in (p, virus)
            )
            error += share * abs(predicted - observed)
            bins.append(Bin(predicted=predicted, observed=observed, windows=int(mine.sum())))
    return Reliability(
        brier=brier_score_loss(virus, p, sample_weight=weights),
        brier_raw=brier_score_loss(virus, raw, sample_weight=weights),
        expected_calibration_error=error,
        bins=bins,
    )
