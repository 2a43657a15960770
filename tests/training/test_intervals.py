"""Intervals cover what they say: by simulation, also with few and unequal groups."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from virnuc_rules.training.intervals import (
    MIN_GROUPS,
    auroc_interval,
    effective_groups,
    rate_interval,
)

TIMES = 600
LOW, HIGH = 0.88, 0.985  # 90 to 97 %, and two standard errors of a fraction of TIMES


def groups_of(draw: np.random.Generator, groups: int, unequal: float) -> np.ndarray:
    size = np.maximum(1, draw.lognormal(3, unequal, groups).astype(int))
    return np.repeat(np.arange(groups), size)


def windows_of(
    draw: np.random.Generator, groups: int, unequal: float, alike: float, mean: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores with what the windows of a group share, and the groups."""
    while effective_groups(group := groups_of(draw, groups, unequal)) < MIN_GROUPS:
        pass
    return mean + alike * draw.normal(size=groups)[group] + draw.normal(size=len(group)), group


@pytest.mark.parametrize("mean", [1.5, 3.0])
@pytest.mark.parametrize("alike", [0.3, 1.0])
@pytest.mark.parametrize(("groups", "unequal"), [(6, 0.0), (12, 1.0), (40, 1.0)])
def test_auroc(groups: int, unequal: float, alike: float, mean: float) -> None:
    draw = np.random.default_rng(1)
    spread = np.sqrt(2 * (1 + alike**2))
    truth = (draw.normal(size=1_000_000) * spread < mean).mean()
    covered = 0
    for _ in range(TIMES):
        viral, of_viral = windows_of(draw, groups, unequal, alike, mean)
        other, of_other = windows_of(draw, groups, unequal, alike, 0)
        virus = np.arange(len(viral) + len(other)) < len(viral)
        group = np.concatenate([of_viral, of_other + groups])
        interval = auroc_interval(virus, np.concatenate([viral, other]), group)
        covered += interval is not None and interval[0] <= truth <= interval[1]
    print(groups, unequal, alike, covered / TIMES)
    assert LOW < covered / TIMES < HIGH


@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize(("groups", "unequal"), [(6, 0.0), (12, 1.0), (40, 1.0)])
def test_rates(groups: int, unequal: float, alike: float, rate: float) -> None:
    draw = np.random.default_rng(2)
    threshold = np.quantile(draw.normal(size=1_000_000) * np.sqrt(1 + alike**2), rate)
    covered = 0
    for _ in range(TIMES):
        score, group = windows_of(draw, groups, unequal, alike, 0)
        interval = rate_interval(score < threshold, group)
        covered += interval is not None and interval[0] <= rate <= interval[1]
    print(groups, unequal, alike, covered / TIMES)
    assert LOW < covered / TIMES < HIGH


def test_groups_of_unequal_size_count_less() -> None:
    assert effective_groups(np.repeat([3, 5, 9], 7)) == pytest.approx(3)
    assert effective_groups(np.repeat([0, 1], [1000, 1])) == pytest.approx(1, abs=0.01)
    assert effective_groups(np.zeros(0, int)) == 0


def test_no_interval_for_few_groups() -> None:
    virus, score = np.arange(40) < 20, np.arange(40, dtype=np.float32)[::-1] % 7
    assert auroc_interval(virus, score, np.arange(40) // 5) is None  # 4 of each label
    assert auroc_interval(virus, score, np.arange(40) // 4) is not None
    assert auroc_interval(~virus, score, np.where(virus, 0, np.arange(40))) is None
    assert rate_interval(virus, np.arange(40) // 10) is None


def test_the_area_is_that_of_the_interval_and_of_sklearn() -> None:
    draw = np.random.default_rng(3)
    virus = draw.random(300) < 0.5
    score = np.round(draw.normal(virus * 1.0), 1).astype(np.float32)  # many are equal
    interval = auroc_interval(virus, score, np.arange(300))
    assert interval is not None
    assert interval[0] < roc_auc_score(virus, score) < interval[1]


def test_rates_of_0_and_1() -> None:
    """Wilson's interval of as many windows as there are groups."""
    group = np.repeat(np.arange(50), 100)
    none, every = (rate_interval(np.full(5000, hit), group) for hit in (False, True))
    assert none is not None and every is not None
    assert none[0] == 0 and 0.06 < none[1] < 0.09
    assert (1 - every[1], 1 - every[0]) == pytest.approx(none)
    assert auroc_interval(group < 25, (group < 25) * 1.0, group) is None
