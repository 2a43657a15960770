"""How common viruses are in a sample, and how many of its calls are expected to be false.

Calibrated log odds hold where half of all are viral. Another prevalence p shifts them by logit(p),
and the p with the highest likelihood is the fixed point of the algorithm of Saerens, Latinne and
Decaestecker (Neural Computation 14, 2002). All of this assumes that viral windows (or contigs) look
like the viral ones of the calibration's data, and the others like its others.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from virnuc_rules.arrays import Bool, Double

EVEN = 0.5  # the prevalence that log odds are fitted for
SHOWN = (0.5, 0.2, 0.05, 0.01)  # prevalences at which expected false calls are shown
_DIGITS = 3  # of log odds: equal ones are counted, so that many windows take no time


def estimate_prevalence(log_odds: Double) -> float:
    """Return the viral fraction of windows or contigs [N]; NaN: no call, does not count.

    With one more of both kinds (Laplace's rule), so that it is never 0 or 1; 0.5 for none.
    """
    known = log_odds[~np.isnan(log_odds)]
    values, counts = np.unique(np.round(known, _DIGITS), return_counts=True)

    def slope(prevalence: float) -> float:
        # Each term is (L - 1) / (p L + 1 - p), with the likelihood ratio L; it cannot overflow.
        viral = expit(values + logit(prevalence))
        terms = viral / prevalence - (1 - viral) / (1 - prevalence)
        return float(1 / prevalence - 1 / (1 - prevalence) + np.sum(counts * terms))

    least = 1 / (len(known) + 3)
    return float(brentq(slope, least / 2, 1 - least / 2))


def at_prevalence(log_odds: Double, prevalence: float) -> Double:
    """Return the probabilities [N] of being viral, of log odds that hold at EVEN."""
    shifted: Double = expit(log_odds + logit(prevalence))
    return shifted


def expected_fdr(probability: Double, virus: Bool) -> float | None:
    """Return the expected fraction of false calls among those called virus; None without any.

    It is the mean of 1 - probability over them, and depends on prevalence and calibration.
    """
    return float(1 - probability[virus].mean()) if virus.any() else None


def fdr_cutoff(probability: Double, max_fdr: float) -> float | None:
    """Return the lowest probability from which on at most `max_fdr` of the calls are false.

    None: there is none, even the most probable alone is too uncertain. NaN does not count.
    """
    ordered = np.sort(probability[~np.isnan(probability)])[::-1]
    false = np.cumsum(1 - ordered) / np.arange(1, len(ordered) + 1)
    last_of_equals = np.r_[ordered[1:] < ordered[:-1], True][: len(ordered)]
    (allowed,) = np.nonzero((false <= max_fdr) & last_of_equals)
    return float(ordered[allowed[-1]]) if len(allowed) else None
