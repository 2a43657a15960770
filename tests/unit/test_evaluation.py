"""Measures of an evaluation, against brute force and against sets where they are known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef

from virnuc_rules.training.evaluation import measure, reliability
from virnuc_rules.training.scored import Scored


def scored(number: int = 400, seed: int = 0, groups: int = 20, shift: float = 1.5) -> Scored:
    draw = np.random.default_rng(seed)
    virus = draw.random(number) < 0.4
    score = draw.normal(np.where(virus, shift, 0), 1).astype(np.float32) - np.float32(shift / 2)
    score[draw.random(number) < 0.1] = np.nan
    with np.errstate(invalid="ignore"):
        call = score >= 0
    group = draw.integers(0, groups, number) * 2 + virus
    length = draw.integers(200, 80_000, number)
    return Scored(virus, score, call, virus.astype(np.int64), group, length)


NAMES = ["cells", "viruses"]
GROUPS = [f"genome {n}" for n in range(40)]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    data = scored()
    found = measure(data, NAMES, GROUPS)
    assert found is not None
    viral, others = (data.score[data.called & (data.virus == side)] for side in (True, False))
    ahead = (viral[:, None] > others).mean() + 0.5 * (viral[:, None] == others).mean()
    assert found.auroc == pytest.approx(ahead)


def test_those_without_a_call_are_counted_and_excluded() -> None:
    data = scored()
    found = measure(data, NAMES, GROUPS)
    assert found is not None
    total = sum(each.total for each in found.counts.values())
    called = sum(each.called for each in found.counts.values())
    assert (total, called) == (len(data.virus), data.called.sum())
    assert called < total
    assert found == measure(data, NAMES, GROUPS)  # the same numbers again
    only = measure(data.where(data.called), NAMES, GROUPS)
    assert only is not None
    assert (only.auroc, only.at, only.recall) == (found.auroc, found.at, found.recall)


def test_a_prevalence_is_as_if_there_were_so_many_others() -> None:
    data = scored(4000)
    found = measure(data, NAMES, GROUPS)
    assert found is not None
    data = data.where(data.called)
    viral, others = np.flatnonzero(data.virus), np.flatnonzero(~data.virus)
    rows = np.concatenate([np.repeat(viral, len(others)), np.repeat(others, 19 * len(viral))])
    assert len(rows) == len(viral) * len(others) * 20
    y, score, call = data.virus[rows[::7]], data.score[rows[::7]], data.call[rows[::7]]
    at = found.at["1:19"]
    assert at.prevalence == 0.05
    assert at.auprc == pytest.approx(average_precision_score(y, score), rel=0.02)
    assert at.f1 == pytest.approx(f1_score(y, call), rel=0.02)
    assert at.mcc == pytest.approx(matthews_corrcoef(y, call), rel=0.02)
    assert found.at["1:1"].f1 > at.f1


def test_recall_at_one_percent_false_positives() -> None:
    virus = np.array([True] * 100 + [False] * 100)
    # One of the others above 30 of the viral ones, one more above 60.
    score = np.concatenate([np.arange(100), [69.5, 39.5], np.full(98, -1.0)]).astype(np.float32)
    data = Scored(virus, score, score >= 0, virus * 1, virus * 1, np.full(200, 500))
    found = measure(data, NAMES, GROUPS[:2])
    assert found is not None
    assert found.recall_at_1_percent_fpr == pytest.approx(0.60)
    assert (found.recall, found.false_positive_rate) == (1.0, 0.02)


def test_subsets_have_every_one_once() -> None:
    data = scored()
    found = measure(data, NAMES, GROUPS)
    assert found is not None
    for subsets in (found.by_length, found.by_source, found.by_group):
        for label in ("virus", "others"):
            for field in ("total", "called", "called_virus"):
                summed = sum(getattr(subset.counts[label], field) for subset in subsets)
                assert summed == getattr(found.counts[label], field)
    assert [subset.name for subset in found.by_source] == NAMES
    assert all(subset.auroc is None for subset in found.by_source)  # of one label each
    assert any(subset.auroc is not None for subset in found.by_length)
    first = found.by_length[0]
    inside = data.length < 500
    assert first.name == "0 to 499 bp"
    assert first.counts["virus"].total + first.counts["others"].total == inside.sum()
    wrong = sum(subset.wrong for subset in found.by_group)
    assert wrong == (data.call != data.virus)[data.called].sum()


def test_the_interval_holds_the_value_and_grows_where_windows_of_a_group_are_alike() -> None:
    def width(groups: int) -> float:
        draw = np.random.default_rng(5)
        group = np.repeat(np.arange(groups), 2000 // groups)
        virus = group % 2 == 1
        level = draw.normal(0, 1, groups)[group]  # what the windows of a group share
        score = (virus * 1.0 + level + draw.normal(0, 0.1, len(group))).astype(np.float32)
        data = Scored(virus, score, score >= 0, virus * 1, group, np.full(len(group), 500))
        found = measure(data, NAMES, [str(n) for n in range(groups)])
        assert found is not None
        assert found.auroc_interval is not None
        low, high = found.auroc_interval
        assert low <= found.auroc <= high
        return high - low

    assert width(20) > 2 * width(1000)


def test_one_group_of_a_label_gives_no_interval() -> None:
    data = scored(groups=1)
    found = measure(data, NAMES, GROUPS)
    assert found is not None
    assert found.auroc_interval is None


def test_one_label_has_no_measures() -> None:
    data = scored()
    assert measure(data.where(data.virus), NAMES, GROUPS) is None
    assert measure(data.where(~data.called), NAMES, GROUPS) is None


def test_reliability_of_true_and_of_wrong_probabilities() -> None:
    draw = np.random.default_rng(0)
    number = 50_000
    virus = draw.random(number) < 0.5
    odds = draw.normal(np.where(virus, 2.0, -2.0), 2.0)
    margin = (3 * odds).astype(np.float32)  # too sure
    data = Scored(virus, margin, margin >= 0, virus * 1, virus * 1, np.full(number, 500))
    true = reliability(data, 1 / (1 + np.exp(-odds)))
    assert true.expected_calibration_error < 0.01
    assert true.brier < true.brier_raw
    assert sum(each.windows for each in true.bins) == number
    wrong = reliability(data, 1 / (1 + np.exp(-margin.astype(float))))
    assert wrong.brier == pytest.approx(wrong.brier_raw)
    assert wrong.expected_calibration_error > 0.03
