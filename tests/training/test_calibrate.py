"""Calibration: probabilities that are what they say, whatever the classifier's scores were."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from virnuc_rules.arrays import Bool, Float
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.calibration import Odds, log_odds
from virnuc_rules.models.card import Calibration, CalibrationCurve
from virnuc_rules.models.prevalence import EVEN, at_prevalence, expected_fdr
from virnuc_rules.training import calibrate
from virnuc_rules.training.calibrate import balanced_weights
from virnuc_rules.vocabulary import Label

NUMBER = 20_000


def probabilities(
    curve: CalibrationCurve, margin: np.ndarray, prevalence: float = EVEN
) -> np.ndarray:
    return at_prevalence(log_odds(curve, margin), prevalence)


def draw(temperature: float, seed: int = 0) -> tuple[Float, Bool, list[str]]:
    """Margins that are `temperature` times too sure of themselves, in 200 groups."""
    random = np.random.default_rng(seed)
    virus = random.random(NUMBER) < 0.5
    odds = random.normal(np.where(virus, 2.0, -2.0), 2.0)  # its log odds are itself
    groups = [f"g{n}" for n in random.integers(0, 200, NUMBER)]
    return (temperature * odds).astype(np.float32), virus, groups


def fit_calibration(
    margin: Float, virus: Bool, groups: list[str], method: str = "auto"
) -> Calibration:
    return calibrate.fit_calibration(
        margin,
        virus,
        groups,
        method,
        classifier="sha",
        data=[],
        part="all",
        no_open_frame={Label.VIRUS: 0.25, Label.NON_VIRAL: 0.5},
    )


def temperature(value: float) -> Calibration:
    return Calibration(
        method="temperature", temperature=value, classifier="", data=[], part="all", windows={},
        log_loss={},
    )  # fmt: skip


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_a_temperature_is_found_again(true: float) -> None:
    found = fit_calibration(*draw(true), "temperature")
    assert found.method == "temperature"
    assert found.temperature == pytest.approx(true, rel=0.05)
    assert (found.classifier, found.part) == ("sha", "all")
    assert found.no_open_frame == {"virus": 0.25, "non_viral": 0.5}
    assert sum(found.windows.values()) == NUMBER


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_probabilities_are_what_they_say(method: str) -> None:
    margin, virus, groups = draw(3.0)
    found = fit_calibration(margin, virus, groups, method)
    new, truth, _ = draw(3.0, seed=1)
    p = probabilities(found, new)
    for low in np.arange(0, 1, 0.2):
        mine = (p >= low) & (p < low + 0.2)
        assert truth[mine].mean() == pytest.approx(p[mine].mean(), abs=0.03)


def test_the_raw_scores_are_not_what_they_say() -> None:
    margin, virus, groups = draw(3.0)
    losses = fit_calibration(margin, virus, groups).log_loss
    assert losses["raw"] > 1.2 * losses["temperature"]


def test_auto_takes_what_does_better_on_other_groups() -> None:
    margin, virus, groups = draw(3.0)
    assert fit_calibration(margin, virus, groups).method == "temperature"
    shifted = margin + 5  # which no temperature can mend
    found = fit_calibration(shifted, virus, groups)
    assert found.method == "isotonic"
    assert found.log_loss["isotonic"] < found.log_loss["temperature"]


def test_labels_weigh_the_same_however_many_there_are() -> None:
    margin, virus, groups = draw(2.0)
    kept = np.flatnonzero(virus | (np.random.default_rng(2).random(NUMBER) < 0.1))
    few = fit_calibration(margin[kept], virus[kept], [groups[n] for n in kept], "temperature")
    assert few.temperature == pytest.approx(2.0, rel=0.1)


# Scores are float32 near 1: a margin that is not 0 is at least about 6e-8.
margins = st.floats(-80, 80, width=32).filter(lambda value: value == 0 or abs(value) > 1e-8)


@given(st.lists(margins, min_size=1), st.floats(0.05, 20))
def test_with_a_temperature_the_call_is_the_side_of_one_half(
    values: list[float], value: float
) -> None:
    margin = np.array(values, np.float32)
    p = probabilities(temperature(value), margin)
    assert ((p >= 0.5) == (margin >= 0)).all()
    assert ((p >= 0) & (p <= 1)).all()


def test_an_isotonic_curve_rises_and_is_never_sure() -> None:
    margin, virus, groups = draw(1.0)
    found = fit_calibration(margin, virus, groups, "isotonic")
    p = probabilities(found, np.linspace(-50, 50, 1001, dtype=np.float32))
    assert (np.diff(p) >= 0).all()
    assert p.min() > 0
    assert p.max() < 1


def test_a_window_without_a_call_has_no_probability() -> None:
    margin = np.array([np.nan, 1.0], np.float32)
    for calibration in (temperature(1.0), fit_calibration(*draw(1.0), "isotonic")):
        assert np.isnan(probabilities(calibration, margin)).tolist() == [True, False]


@given(st.floats(-8, 8, width=32), st.floats(0.01, 0.99))
def test_another_prevalence_is_bayes_rule(margin: float, prevalence: float) -> None:
    p = float(expit(margin))
    expected = p * prevalence / (p * prevalence + (1 - p) * (1 - prevalence))
    found = probabilities(temperature(1.0), np.array([margin], np.float32), prevalence)
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert logit(prevalence) == pytest.approx(np.log(prevalence / (1 - prevalence)))


def test_the_expected_share_of_false_calls_is_that_of_the_data() -> None:
    margin, virus, _ = draw(1.0)
    random = np.random.default_rng(3)
    kept = ~virus | (random.random(NUMBER) < 1 / 19)  # one in twenty is viral
    margin, virus = margin[kept], virus[kept]
    called = margin >= 0
    p = probabilities(temperature(1.0), margin, 0.05)
    assert expected_fdr(p, called) == pytest.approx(1 - virus[called].mean(), abs=0.03)
    assert expected_fdr(p, np.zeros(len(p), bool)) is None


def test_too_few_windows_are_an_error() -> None:
    virus = np.array([True] * 30 + [False] * 9)
    with pytest.raises(VirnucError, match="9 windows of label non_viral to calibrate with"):
        fit_calibration(np.zeros(39, np.float32), virus, ["g"] * 39)


def test_a_few_windows_without_an_error_do_not_make_it_sure() -> None:
    virus = np.array([True] * 15 + [False] * 15)
    margin = np.where(virus, 0.3, -0.3).astype(np.float32)
    groups = [str(n) for n in range(30)]
    for method in ("temperature", "isotonic"):
        p = probabilities(fit_calibration(margin, virus, groups, method), margin)
        assert 0.85 < p[0] < 0.95  # 16 of 17
        assert 0.05 < p[-1] < 0.15


def test_the_rarer_label_decides_how_sure_a_curve_may_be() -> None:
    virus = np.array([True] * 15 + [False] * 5000)
    margin = np.where(virus, 2.0, -2.0).astype(np.float32)
    found = fit_calibration(margin, virus, [str(n) for n in range(5015)], "isotonic")
    assert probabilities(found, margin).min() == pytest.approx(1 / 17)
    assert probabilities(found, margin).max() == pytest.approx(1 - 1 / 5002)


def test_one_group_is_enough_when_nothing_can_be_held_out() -> None:
    margin, virus, _ = draw(2.0)
    found = fit_calibration(margin, virus, ["g"] * NUMBER)
    assert found.log_loss == {}
    assert found.method == "temperature"


def test_weights_add_up_to_the_prevalence() -> None:
    virus = np.array([True] * 3 + [False] * 7)
    weights = balanced_weights(virus, 0.05)
    assert weights.sum() == pytest.approx(1)
    assert weights[virus].sum() == pytest.approx(0.05)


def test_the_target_of_a_label_is_that_of_its_own_number() -> None:
    """Platt's targets in words, on a grid: 15 viral windows allow less than 3,000 others do."""
    virus = np.array([True] * 15 + [False] * 3000)
    margin = np.where(virus, 1.0, -3.0).astype(np.float32)
    found = fit_calibration(margin, virus, ["g"] * 3015, "temperature").temperature
    grid = np.geomspace(0.05, 20, 20_001)
    loss = sum(
        -target * np.log(expit(odds / grid)) - (1 - target) * np.log(expit(-odds / grid))
        for odds, target in ((1.0, 16 / 17), (-3.0, 1 / 3002))
    )
    assert found == pytest.approx(grid[loss.argmin()], rel=2e-3)


@pytest.mark.parametrize(("viral", "other"), [(0.6, 0.4), (0.4, 0.4), (0.1, 0.4)])
def test_a_window_without_an_open_frame_counts_against_a_virus(viral: float, other: float) -> None:
    """At least as much as by the fractions of version 0.1, also if they are viral more often."""
    odds = Odds(None, {Label.VIRUS: viral, Label.NON_VIRAL: other})
    nan = np.full(2, np.nan, np.float32)
    found = odds.evidence(nan, np.array([True, False]))
    expected = min(math.log(viral / other), math.log(0.352 / 0.419))
    assert found.tolist() == [pytest.approx(expected), 0.0]
