"""Measures of an evaluation, against brute force and against sets where they are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_curve,
    precision_score,
)

from virnuc_rules.training.calibrate import balanced_weights
from virnuc_rules.training.evaluation import Ranking, _wrong_calls, measure, reliability
from virnuc_rules.training.page import _precision_recall
from virnuc_rules.training.scored import Scored


def make(*columns: Any) -> Scored:
    """Of virus, score, call, sample, group and length; nothing failed or is too short."""
    virus, score, call, *others = columns
    none = np.zeros(len(virus), bool)
    return Scored(virus, score, call, none, *others, none, none)


def ranked(data: Scored) -> Ranking:
    found = measure(data, NAMES, GROUPS).ranking
    assert found is not None
    return found


def scored(number: int = 400, seed: int = 0, groups: int = 20, shift: float = 1.5) -> Scored:
    draw = np.random.default_rng(seed)
    virus = draw.random(number) < 0.4
    score = draw.normal(np.where(virus, shift, 0), 1).astype(np.float32) - np.float32(shift / 2)
    score[draw.random(number) < 0.1] = np.nan
    with np.errstate(invalid="ignore"):
        call = score >= 0
    group = draw.integers(0, groups, number) * 2 + virus
    length = draw.integers(200, 80_000, number)
    return make(virus, score, call, virus.astype(np.int64), group, length)


NAMES = ["cells", "viruses"]
GROUPS = [f"genome {n}" for n in range(40)]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    data = scored()
    found = ranked(data)
    viral, non_viral = (data.score[data.called & (data.virus == side)] for side in (True, False))
    ahead = (viral[:, None] > non_viral).mean() + 0.5 * (viral[:, None] == non_viral).mean()
    assert found.auroc == pytest.approx(ahead)


def test_the_drawn_precision_is_that_of_scikit_learn() -> None:
    """At both viral fractions; it is drawn from the points of the ROC, here all of them."""
    data = scored(150)
    axes = Figure().subplots()
    _precision_recall(axes, {"windows": measure(data, NAMES, GROUPS)})
    data = data.where(data.called)
    assert len(axes.lines) == 2
    for line, prevalence in zip(axes.lines, (0.5, 0.05), strict=True):
        weights = balanced_weights(data.virus, prevalence)
        precision, recall, _ = precision_recall_curve(
            data.virus, data.score, sample_weight=weights, drop_intermediate=False
        )
        assert f"{100 * prevalence:g} % viral" in str(line.get_label())
        assert np.array(line.get_xydata())[::-1] == pytest.approx(
            np.stack([recall, precision], axis=1)[:-1]
        )


def test_those_without_a_call_are_counted_and_excluded() -> None:
    data = scored()
    found = measure(data, NAMES, GROUPS)
    total = sum(each.total for each in found.counts.values())
    called = sum(each.called for each in found.counts.values())
    assert (total, called) == (len(data.virus), data.called.sum())
    assert called < total
    assert found == measure(data, NAMES, GROUPS)  # the same numbers again
    only = measure(data.where(data.called), NAMES, GROUPS)
    assert (only.ranking, only.recall) == (found.ranking, found.recall)


def test_a_prevalence_is_as_if_there_were_so_many_non_viral_ones() -> None:
    data = scored(200)
    found = ranked(data)
    data = data.where(data.called)
    viral, non_viral = np.flatnonzero(data.virus), np.flatnonzero(~data.virus)
    rows = np.concatenate([np.repeat(viral, len(non_viral)), np.repeat(non_viral, 19 * len(viral))])
    assert len(rows) == len(viral) * len(non_viral) * 20
    y, score, call = data.virus[rows], data.score[rows], data.call[rows]
    at = found.at["1:19"]
    assert at.prevalence == 0.05
    assert at.auprc == pytest.approx(average_precision_score(y, score))
    assert at.precision == pytest.approx(precision_score(y, call))
    assert at.f1 == pytest.approx(f1_score(y, call))
    assert at.mcc == pytest.approx(matthews_corrcoef(y, call))
    assert found.at["1:1"].f1 > at.f1


def test_recall_at_one_percent_false_positives() -> None:
    virus = np.array([True] * 100 + [False] * 100)
    # One of the non-viral ones above 30 of the viral ones, one more above 60.
    score = np.concatenate([np.arange(100), [69.5, 39.5], np.full(98, -1.0)]).astype(np.float32)
    data = make(virus, score, score >= 0, virus * 1, virus * 1, np.full(200, 500))
    found = measure(data, NAMES, GROUPS[:2])
    assert found.ranking is not None
    assert found.ranking.recall_at_1_percent_fpr == pytest.approx(0.60)
    assert (found.recall, found.false_positive_rate) == (1.0, 0.02)


def test_subsets_have_every_one_once() -> None:
    data = scored()
    found = measure(data, NAMES, GROUPS)
    for subsets in (found.by_length, found.by_source, found.by_group):
        for label in ("virus", "non_viral"):
            for field in ("total", "called", "called_virus"):
                summed = sum(getattr(subset.counts[label], field) for subset in subsets)
                assert summed == getattr(found.counts[label], field)
    assert [subset.name for subset in found.by_source] == NAMES
    assert all(subset.auroc is None for subset in found.by_source)  # of one label each
    assert any(subset.auroc is not None for subset in found.by_length)
    first = found.by_length[0]
    inside = data.length < 500
    assert first.name == "300 to 499 bp"
    assert first.counts["virus"].total + first.counts["non_viral"].total == inside.sum()
    wrong = [_wrong_calls(subset.counts) for subset in found.by_group]
    assert sum(wrong) == (data.call != data.virus)[data.called].sum()
    assert wrong == sorted(wrong, reverse=True)
    assert found.groups == len(found.by_group) == len(np.unique(data.group))


def test_of_many_groups_the_worst_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    data = scored()
    every = measure(data, NAMES, GROUPS)
    monkeypatch.setattr("virnuc_rules.training.evaluation.MAX_GROUPS", 3)
    few = measure(data, NAMES, GROUPS)
    assert few.by_group == every.by_group[:3]
    assert few.groups == every.groups > 3


def test_those_that_could_not_be_embedded_are_counted_apart() -> None:
    data = scored()
    failed = np.isnan(data.score) & (np.arange(len(data.virus)) % 2 == 0)
    data = replace(data, failed=failed)
    counts = measure(data, NAMES, GROUPS).counts
    assert sum(each.failed for each in counts.values()) == failed.sum() > 0


def test_the_interval_holds_the_value_and_grows_where_windows_of_a_group_are_alike() -> None:
    def width(groups: int) -> float:
        draw = np.random.default_rng(5)
        group = np.repeat(np.arange(groups), 2000 // groups)
        virus = group % 2 == 1
        level = draw.normal(0, 1, groups)[group]  # what the windows of a group share
        score = (virus * 1.0 + level + draw.normal(0, 0.1, len(group))).astype(np.float32)
        data = make(virus, score, score >= 0, virus * 1, group, np.full(len(group), 500))
        found = measure(data, NAMES, [str(n) for n in range(groups)]).ranking
        assert found is not None
        assert found.auroc_interval is not None
        low, high = found.auroc_interval
        assert low <= found.auroc <= high
        return high - low

    assert width(20) > 2 * width(1000)


def test_few_groups_of_a_label_give_no_interval() -> None:
    """S6: two groups a label."""
    for groups in (1, 2):
        found = measure(scored(groups=groups), NAMES, GROUPS)
        assert found.ranking and found.ranking.auroc_interval is None
        assert found.recall_interval is found.false_positive_rate_interval is None
        assert found.effective_groups == {
            label: pytest.approx(groups, rel=0.05) for label in ("non_viral", "virus")
        }


def test_rates_have_intervals_and_recall_is_also_of_all_viral_ones() -> None:
    data = scored()
    found = measure(data, NAMES, GROUPS)
    for rate, interval in (
        (found.recall, found.recall_interval),
        (found.false_positive_rate, found.false_positive_rate_interval),
    ):
        assert rate and interval and interval[0] < rate < interval[1]
    assert found.recall_of_all == pytest.approx((data.call & data.virus).sum() / data.virus.sum())
    assert found.recall and found.recall_of_all < found.recall


def test_one_label_has_its_rate_but_no_ranking() -> None:
    data = scored()
    only = measure(data.where(~data.virus), NAMES, GROUPS)
    assert only.ranking is only.recall is None
    assert only.false_positive_rate == measure(data, NAMES, GROUPS).false_positive_rate
    none = measure(data.where(~data.called), NAMES, GROUPS)
    assert none.ranking is none.recall is none.false_positive_rate is None
    assert none.counts["virus"].total > 0
    assert reliability(data.where(data.virus)) is None


def test_recall_at_one_percent_of_equal_scores() -> None:
    """Many of one score: a thinned ROC curve leaves the point out that is wanted."""
    virus = np.array([True] * 4 + [False] * 400)
    score = np.array([3, 2, 1, 0, 3, 2, 1, 0] + [-1] * 396, np.float32)
    data = make(virus, score, score >= 0, virus * 1, virus * 1, np.full(404, 500))
    assert ranked(data).recall_at_1_percent_fpr == 1.0
    score[4:8] = 2.5  # four of them, 1 %, above all viral ones but one
    score[8:40] = 2.4
    data = make(virus, score, score >= 0, virus * 1, virus * 1, np.full(404, 500))
    assert ranked(data).recall_at_1_percent_fpr == 0.25


def test_reliability_of_true_and_of_wrong_probabilities() -> None:
    draw = np.random.default_rng(0)
    number = 50_000
    virus = draw.random(number) < 0.5
    odds = draw.normal(np.where(virus, 2.0, -2.0), 2.0)
    margin = (3 * odds).astype(np.float32)  # too sure
    data = make(virus, margin, margin >= 0, virus * 1, virus * 1, np.full(number, 500))
    true = reliability(data, 1 / (1 + np.exp(-odds)))
    raw = reliability(data)
    assert true is not None
    assert raw is not None
    assert (true.calibrated, raw.calibrated) == (True, False)
    assert true.expected_calibration_error < 0.01
    assert true.brier < raw.brier
    assert sum(each.windows for each in true.bins) == number
    assert raw.expected_calibration_error > 0.03


def test_the_calibration_error_by_hand() -> None:
    """Bins count by their weight, and labels weigh the same: 4 viral windows as 8 others."""
    virus = np.array([True] * 4 + [False] * 8)
    p = np.array([0.95, 0.95, 0.95, 0.25] + [0.95] + [0.25] * 7)
    score = (p - 0.5).astype(np.float32)
    found = reliability(make(virus, score, p >= 0.5, virus * 1, virus * 1, np.full(12, 500)), p)
    assert found is not None
    low, high = found.bins
    assert (low.windows, high.windows) == (8, 4)
    assert (low.predicted, high.predicted) == pytest.approx((0.25, 0.95))
    assert (low.observed, high.observed) == pytest.approx((2 / 9, 6 / 7))  # 2/16 of 9/16, ...
    error = 9 / 16 * (0.25 - 2 / 9) + 7 / 16 * (0.95 - 6 / 7)
    assert found.expected_calibration_error == pytest.approx(error)
