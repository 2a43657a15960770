"""Calibrated probabilities of windows, fitted to labelled windows.

The margin of a window is log(score_virus / score_non_viral). With a temperature T the probability
is 1 / (1 + exp(-margin / T)) (Guo et al., arXiv 1706.04599), which is at least 0.5 exactly where
the call is virus; an isotonic calibration is a rising curve through given points. Both assume that
half of the windows are viral; another prevalence shifts the log odds (Saerens et al., Neural
Computation 14, 2002). Raw scores and calls do not change.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from virnuc_rules.arrays import Double
from virnuc_rules.models.card import BundleCard, CalibrationCurve


def calibrated(
    card: BundleCard, prevalence: float
) -> Callable[[NDArray[np.float32]], Double] | None:
    """Return the function from margins to probabilities of a bundle; None without calibration."""
    if card.calibration is None:
        return None
    return partial(probabilities, card.calibration, prevalence=prevalence)


def probabilities(
    curve: CalibrationCurve, margin: NDArray[np.float32], prevalence: float = 0.5
) -> Double:
    """Return the probability that each window [W] is viral; NaN where the margin is NaN.

    prevalence: the fraction of windows with a call that are viral, above 0 and below 1.
    """
    if curve.temperature is not None:
        odds = margin.astype(np.float64) / curve.temperature
    else:
        odds = logit(np.interp(margin, curve.margin, curve.probability))
    shifted: Double = expit(odds + logit(prevalence))
    return shifted


def expected_fdr(probability: Double, virus: NDArray[np.bool_]) -> float | None:
    """Return the expected fraction of false calls among the windows called virus; None without any.

    It is the mean of 1 - probability over them, and depends on prevalence and calibration.
    """
    return float(1 - probability[virus].mean()) if virus.any() else None
