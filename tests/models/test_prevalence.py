"""Viral fractions and false calls of samples whose odds are right by construction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from virnuc_rules.models.prevalence import (
    SHOWN,
    at_prevalence,
    estimate_prevalence,
    expected_fdr,
    fdr_cutoff,
)

NUMBER = 400_000
SPREAD = 2.66  # of the two classes: AUROC 0.97


def sample(prevalence: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Log odds whose likelihood ratios are right, and which are viral."""
    draw = np.random.default_rng(seed)
    virus = draw.random(NUMBER) < prevalence
    odds = SPREAD * draw.normal(np.where(virus, SPREAD / 2, -SPREAD / 2))
    return odds, virus


@pytest.mark.parametrize("prevalence", SHOWN)
def test_the_viral_fraction_and_false_calls_are_found(prevalence: float) -> None:
    odds, virus = sample(prevalence)
    found = estimate_prevalence(odds)
    assert found == pytest.approx(virus.mean(), abs=0.01)
    probability = at_prevalence(odds, found)
    for called in (odds >= 0, probability >= 0.5, probability >= 0.2):
        observed = 1 - virus[called].mean()
        assert expected_fdr(probability, called) == pytest.approx(observed, abs=0.03)


@pytest.mark.parametrize("prevalence", SHOWN)
@pytest.mark.parametrize("max_fdr", [0.01, 0.05, 0.2])
def test_a_maximum_of_false_calls_is_kept(prevalence: float, max_fdr: float) -> None:
    odds, virus = sample(prevalence, seed=2)
    probability = at_prevalence(odds, estimate_prevalence(odds))
    cutoff = fdr_cutoff(probability, max_fdr)
    assert cutoff is not None
    called = probability >= cutoff
    assert called.sum() > 10
    spread = 3 * np.sqrt(max_fdr / called.sum())  # of the count of false ones
    assert 1 - virus[called].mean() == pytest.approx(max_fdr, abs=0.01 + spread)


@given(st.lists(st.one_of(st.floats(-300, 300), st.just(float("nan"))), max_size=30))
def test_it_is_the_fixed_point_of_expectation_and_maximization(odds: list[float]) -> None:
    """With Laplace's rule: the mean probability, one viral and one other added, is the fraction."""
    array = np.array(odds)
    found = estimate_prevalence(array)
    assert 0 < found < 1
    p = expit(np.round(array[~np.isnan(array)], 3) + logit(found))
    assert (p.sum() + 1) / (len(p) + 2) == pytest.approx(found, abs=1e-6)


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.9))
def test_no_lower_cutoff_keeps_the_maximum(probability: list[float], max_fdr: float) -> None:
    array = np.array(probability)
    cutoff = fdr_cutoff(np.r_[array, np.nan], max_fdr)
    kept = [c for c in probability if np.mean(1 - array[array >= c]) <= max_fdr + 1e-12]
    assert cutoff == (min(kept) if kept else None)


def test_without_a_call_nothing_is_known() -> None:
    assert estimate_prevalence(np.array([np.nan, np.nan])) == pytest.approx(0.5)
    assert fdr_cutoff(np.array([np.nan]), 0.5) is None
    assert expected_fdr(np.array([0.5]), np.array([False])) is None
