"""Calibrated probabilities: what a window's scores are worth, as measured on labelled windows.

The margin of a window is log(score_virus / score_non_viral). A temperature T makes the probability
1 / (1 + exp(-margin / T)) of it (Guo et al., arXiv 1706.04599), which is at least 0.5 exactly where
the call is virus; an isotonic calibration is a rising curve through given points. Both hold where
half of the windows are viral; another prevalence shifts the log odds (Saerens et al., Neural
Computation 14, 2002). Raw scores and calls stay what they are.
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
    """Return what makes probabilities of margins with a bundle; None: it has no calibration."""
    if card.calibration is None:
        return None
    return partial(probabilities, card.calibration, prevalence=prevalence)


def probabilities(
    curve: CalibrationCurve, margin: NDArray[np.float32], prevalence: float = 0.5
) -> Double:
    """Return the probability that each window [W] is viral; NaN where the margin is.

    prevalence: the share of windows with a call that are viral, above 0 and below 1.
    """
    if curve.temperature is not None:
        odds = margin.astype(np.float64) / curve.temperature
    else:
        odds = logit(np.interp(margin, curve.margin, curve.probability))
    shifted: Double = expit(odds + logit(prevalence))
    return shifted


def expected_fdr(probability: Double, virus: NDArray[np.bool_]) -> float | None:
    """Return the share of the windows called virus that is expected not to be; None without any.

    It is the mean of 1 - probability over them, and as good as prevalence and calibration are.
    """
    return float(1 - probability[virus].mean()) if virus.any() else None
