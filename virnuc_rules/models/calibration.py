"""Calibrated probabilities of windows, fitted to labelled windows.

The margin of a window is log(score_virus / score_non_viral). With a temperature T the probability
is 1 / (1 + exp(-margin / T)) (Guo et al., arXiv 1706.04599), which is at least 0.5 exactly where
the call is virus; an isotonic calibration is a rising curve through given points. Both assume that
half of the windows are viral; another prevalence shifts the log odds (Saerens et al., Neural
Computation 14, 2002). Raw scores and calls do not change.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from virnuc_rules.arrays import Bool, Double
from virnuc_rules.models.card import Calibration, CalibrationCurve
from virnuc_rules.vocabulary import Label

# That of the shipped bundle is 1.87: a classifier is too sure of what it was not fitted to.
ASSUMED_TEMPERATURE = 2.0  # of a bundle without calibration, for regions only
_ASSUMED = CalibrationCurve(method="temperature", temperature=ASSUMED_TEMPERATURE)
# Fractions of windows of 500 bp without an open frame, where the calibration does not have them:
# 6,176 of 17,538 and 6,325 of 15,106 in the test part of the shipped bundle's data.
_NO_OPEN_FRAME = {Label.VIRUS: 0.352, Label.NON_VIRAL: 0.419}


@dataclass(frozen=True, slots=True)
class Odds:
    """What the windows of a sample say by the calibration of a bundle."""

    calibration: Calibration | None
    prevalence: float = 0.5  # viral fraction of windows with a call, above 0 and below 1

    def probability(self, margin: NDArray[np.float32]) -> Double:
        """Return the probability that each window [W] is viral; NaN: no call, or no calibration."""
        if self.calibration is None:
            return np.full(len(margin), np.nan)
        return probabilities(self.calibration, margin, self.prevalence)

    def evidence(self, margin: NDArray[np.float32], no_open_frame: Bool) -> Double:
        """Return log(P(window | viral) / P(window | not)) of each window [W]; 0: it says nothing.

        That of a window without an open frame is how often these are in both classes.
        """
        without = (self.calibration and self.calibration.no_open_frame) or _NO_OPEN_FRAME
        viral, other = without[Label.VIRUS], without[Label.NON_VIRAL]
        odds = logit(probabilities(self.calibration or _ASSUMED, margin))
        called = np.nan_to_num(odds) + np.log((1 - viral) / (1 - other))
        silent: Double = np.where(no_open_frame, np.log(viral / other), 0.0)
        return np.where(np.isnan(margin), silent, called)


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
