"""95 % intervals of AUROC and of rates, where the windows of a group are alike.

Groups (genomes) are independent, their windows are not. So the variance is that of sums over groups
(AUROC: Obuchowski, Biometrics 53, 1997; rates: Korn and Graubard, Survey Methodology 24, 1998).
Groups differ in size: groups of n_i windows count as (sum n_i)^2 / sum n_i^2 of equal size (Kish),
and their variance is known with as many degrees of freedom, less one. Below MIN_GROUPS there is no
interval: by simulation (tests/training/test_intervals.py) those above cover 89 to 98 %.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from virnuc_rules.arrays import Bool, Double, Float, Int

MIN_GROUPS = 5.0  # of equal size, of each label
_TAIL = 0.975
_Z = float(stats.norm.ppf(_TAIL))

Interval = tuple[float, float]


def effective_groups(group: Int) -> float:
    """Return how many groups of equal size the groups of windows [N] are worth; 0 without any."""
    size = np.unique(group, return_counts=True)[1].astype(np.float64)
    return float(size.sum() ** 2 / np.sum(size**2)) if len(size) else 0.0


def auroc_interval(virus: Bool, score: Float, group: Int) -> Interval | None:
    """Return the interval of the AUROC of windows [N]; None for too few groups of a label.

    On the scale of log odds, which is closer to normal. An AUROC of 0 or 1 has no interval.
    """
    viral, other = np.sort(score[virus]), np.sort(score[~virus])
    if min(effective_groups(group[side]) for side in (virus, ~virus)) < MIN_GROUPS:
        return None
    below = _rank(other, score[virus])  # fraction of the others that a viral window is above
    above = 1 - _rank(viral, score[~virus])
    area = float(below.mean())
    if not 0 < area < 1:
        return None
    parts = [_variance(below - area, group[virus]), _variance(above - area, group[~virus])]
    variance = sum(part for part, _ in parts)
    if not variance:
        return area, area
    # Satterthwaite's degrees of freedom of the sum.
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = stats.t.ppf(_TAIL, freedom) * math.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-half, half])).tolist()
    return low, high


def rate_interval(hit: Bool, group: Int) -> Interval | None:
    """Return the interval of the fraction of windows [N] that are hits; None for too few groups.

    Wilson's, for as many independent windows as have the same variance: where all windows are hits,
    or none is, as many as there are groups.
    """
    groups = effective_groups(group)
    if groups < MIN_GROUPS:
        return None
    rate = float(hit.mean())
    variance, freedom = _variance(hit - rate, group)
    alike = rate * (1 - rate) / variance if variance else groups
    windows = min(len(hit), alike * (_Z / stats.t.ppf(_TAIL, freedom)) ** 2)
    spread = _Z**2 / windows
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _rank(ordered: Float, values: Float) -> Double:
    """Return the fraction of `ordered` below each value; equal ones count as half."""
    first, last = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    rank: Double = (first + last) / (2 * len(ordered))
    return rank


def _variance(deviation: NDArray[np.floating[Any]], group: Int) -> tuple[float, float]:
    """Return the variance of a mean over windows [N] of groups, and its degrees of freedom."""
    groups = effective_groups(group)
    sums = np.bincount(np.unique(group, return_inverse=True)[1], deviation)
    variance = groups / (groups - 1) * np.sum(sums**2) / len(deviation) ** 2
    return float(variance), groups - 1
