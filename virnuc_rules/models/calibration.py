"""Calibrated probabilities of windows, fitted to labelled windows.

The margin of a window is log(score_virus / score_non_viral). With a temperature T the probability
is 1 / (1 + exp(-margin / T)) (Guo et al., arXiv 1706.04599), which is at least 0.5 exactly where
the call is virus; an isotonic calibration is a rising curve through given points. Both assume that
half of the windows are viral; for another prevalence see `models.prevalence`. Raw scores and calls
do not change.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import logit

from virnuc_rules.arrays import Bool, Double, Float
from virnuc_rules.models.card import Calibration, CalibrationCurve
from virnuc_rules.vocabulary import Label

# That of version 0.1's demo bundle was 1.87: a classifier is too sure of what it was not fitted to.
ASSUMED_TEMPERATURE = 2.0  # of a bundle without calibration, for regions only
_ASSUMED = CalibrationCurve(method="temperature", temperature=ASSUMED_TEMPERATURE)
# Fractions of windows of 500 bp without an open frame, where the calibration does not have them:
# 6,176 of 17,538 and 6,325 of 15,106 in the test part of the data of version 0.1's demo bundle.
_NO_OPEN_FRAME = {Label.VIRUS: 0.352, Label.NON_VIRAL: 0.419}
# Such a window counts at least so much against a virus, whatever the labelled windows say: many in
# a row are of cells (introns, between genes), which a fraction of single windows does not show.
_SILENT = float(np.log(_NO_OPEN_FRAME[Label.VIRUS] / _NO_OPEN_FRAME[Label.NON_VIRAL]))


@dataclass(frozen=True, slots=True)
class Odds:
    """What windows say by the calibration of a bundle; half of all windows are taken for viral."""

    curve: CalibrationCurve | None  # None: not calibrated
    no_open_frame: dict[Label, float]  # fraction of the windows of each label; empty: not known

    @classmethod
    def of(cls, calibration: Calibration | None) -> Self:
        """Return the odds of a bundle."""
        return cls(calibration, calibration.no_open_frame if calibration else {})

    def log_odds(self, margin: Float) -> Double:
        """Return the calibrated log odds of each window [W]; NaN: no call, or not calibrated."""
        if self.curve is None:
            return np.full(len(margin), np.nan)
        return log_odds(self.curve, margin)

    def evidence(self, margin: Float, no_open_frame: Bool) -> Double:
        """Return log(P(window | viral) / P(window | not)) of each window [W]; 0: it says nothing.

        That of a window without an open frame is how often these are in both classes, or `_SILENT`.
        """
        without = self.no_open_frame or _NO_OPEN_FRAME
        viral, other = without[Label.VIRUS], without[Label.NON_VIRAL]
        odds = log_odds(self.curve or _ASSUMED, margin)
        called = np.nan_to_num(odds) + np.log((1 - viral) / (1 - other))
        silent: Double = np.where(no_open_frame, min(np.log(viral / other), _SILENT), 0.0)
        return np.where(np.isnan(margin), silent, called)


def log_odds(curve: CalibrationCurve, margin: Float) -> Double:
    """Return the log odds of virus of each window [W], where half of all windows are viral.

    NaN where the margin is NaN.
    """
    if curve.temperature is not None:
        return margin.astype(np.float64) / curve.temperature
    odds: Double = logit(np.interp(margin, curve.margin, curve.probability))
    return odds
