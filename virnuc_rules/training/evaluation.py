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

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.report.data import LENGTHS
from virnuc_rules.training.calibrate import balanced_weights
from virnuc_rules.training.scored import Scored
from virnuc_rules.vocabulary import Label

PREVALENCES = {"1:1": 0.5, "1:19": 0.05}  # viral to non-viral
MOST_FALSE = 0.01  # false positive rate at which recall is given
MOST_GROUPS = 1000  # that are written down
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
    failed: int  # without a call since they could not be embedded


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
    counts: dict[Label, Counts]  # by label
    auroc: float | None  # None without called ones of both labels


class Ranking(_Record):
    """How well the labels are told apart, over those with a call."""

    auroc: float
    auroc_interval: tuple[float, float] | None  # 95 %, groups drawn again; None: too few groups
    recall_at_1_percent_fpr: float
    at: dict[str, AtPrevalence]  # by viral to non-viral
    roc: list[tuple[float, float]]  # false positive rate, recall


class Measures(_Record):
    """What is known of windows, or contigs."""

    counts: dict[Label, Counts]
    recall: float | None  # of the calls; None where none of the viral ones has a call
    false_positive_rate: float | None  # share of the non-viral ones with a call called virus
    ranking: Ranking | None  # None where one of the labels has none with a call
    by_length: list[Subset]  # of the contig
    by_source: list[Subset]
    by_group: list[Subset]  # those with the most wrong calls, MOST_GROUPS of them
    groups: int  # all


class Bin(_Record):
    """Windows of about one probability: what was said, and what was true, at equal labels."""

    predicted: float
    observed: float
    windows: int


class Reliability(_Record):
    """Whether probabilities are what they say, labels weighing the same."""

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
    return Measures(
        counts=counts,
        recall=rates[Label.VIRUS],
        false_positive_rate=rates[Label.NON_VIRAL],
        ranking=_ranking(called) if None not in rates.values() else None,
        by_length=_subsets(scored, size, ranges),
        by_source=_subsets(scored, scored.sample, sources),
        by_group=_subsets(scored, scored.group, groups, MOST_GROUPS),
        groups=len(np.unique(scored.group)),
    )


def _ranking(called: Scored) -> Ranking:
    # All points: where many scores are equal, a thinned curve jumps over the one that is wanted.
    fpr, tpr, _ = roc_curve(called.virus, called.score, drop_intermediate=False)
    return Ranking(
        auroc=roc_auc_score(called.virus, called.score),
        auroc_interval=_interval(called),
        recall_at_1_percent_fpr=float(tpr[fpr <= MOST_FALSE].max()),
        at={name: _at(called, share) for name, share in PREVALENCES.items()},
        roc=_thinned(fpr, tpr),
    )


def _counts(scored: Scored, index: Int, number: int) -> list[dict[Label, Counts]]:
    """Count those of each index below `number`, by label."""
    kinds = (np.ones(len(index), bool), scored.called, scored.call, scored.failed)
    table = np.array(
        [
            [np.bincount(index[(scored.virus == label) & kind], minlength=number) for kind in kinds]
            for label in (False, True)
        ]
    ).transpose(2, 0, 1)  # [number, label, kind]
    names = ("total", "called", "called_virus", "failed")
    return [
        {
            label: Counts(**dict(zip(names, row, strict=True)))
            for label, row in zip(Label, rows, strict=True)
        }
        for rows in table.tolist()
    ]


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


def _subsets(scored: Scored, index: Int, names: list[str], most: int | None = None) -> list[Subset]:
    """Return the subsets of the same index that are not empty; with `most`, the worst of them."""
    counts = _counts(scored, index, len(names))
    chosen = [n for n in range(len(names)) if any(each.total for each in counts[n].values())]
    if most is not None:
        chosen = sorted(chosen, key=lambda number: -_wrong_calls(counts[number]))[:most]
    order = np.argsort(index, kind="stable")
    ends = np.searchsorted(index[order], np.arange(len(names) + 1))
    return [
        Subset(
            name=names[number],
            counts=counts[number],
            auroc=_auroc(scored, order[ends[number] : ends[number + 1]], counts[number]),
        )
        for number in chosen
    ]


def _wrong_calls(counts: dict[Label, Counts]) -> int:
    """Return how many calls differ from the label."""
    viral, non_viral = counts[Label.VIRUS], counts[Label.NON_VIRAL]
    return viral.called - viral.called_virus + non_viral.called_virus


def _auroc(scored: Scored, rows: Int, counts: dict[Label, Counts]) -> float | None:
    if not all(each.called for each in counts.values()):
        return None
    part = scored.where(rows)
    called = part.where(part.called)
    return float(roc_auc_score(called.virus, called.score))


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _CURVE)).astype(int))
    return [(float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True)]


def reliability(
    scored: Scored, probability: NDArray[np.float64] | None = None
) -> Reliability | None:
    """Compare probabilities [N] of windows at equal labels with what is true of them.

    Without any, those that raw scores are if they are taken at their word. None where one of the
    labels has no window with a call.
    """
    called: Bool = scored.called
    virus = scored.virus[called]
    if virus.all() or not virus.any():
        return None
    p = expit(scored.score.astype(np.float64)) if probability is None else probability
    p, weights = p[called], balanced_weights(virus)
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
        calibrated=probability is not None,
        brier=brier_score_loss(virus, p, sample_weight=weights),
        expected_calibration_error=error,
        bins=bins,
    )
