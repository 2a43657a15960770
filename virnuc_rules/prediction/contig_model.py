"""What all windows of a contig say together: features of contigs, and their log odds of virus.

Bases that two windows share count once, half in each. A window without an open frame counts too:
by its evidence, and as one that is neither open nor viral. No coefficient but that of the length is
negative: a larger value of any other feature never lowers the probability (`training.contig_fit`).
"""

import numpy as np

from virnuc_rules.arrays import Double
from virnuc_rules.errors import ModelError
from virnuc_rules.models.card import ContigModel
from virnuc_rules.prediction.called_windows import WindowCalls, exclusive, longest_run
from virnuc_rules.vocabulary import Reason

FEATURES = (
    "evidence",  # mean of the log odds of the windows, weighted by bases
    "evidence_by_length",  # the same times log_length: more windows are surer
    "log_open_fraction",  # log10 of the bases in windows with an open frame, of all and UNIT more
    "viral_fraction",  # bases in viral windows, of all and UNIT more
    "longest_run",  # bases of the longest run of viral windows, the same
    "log_length",  # log10(bases / UNIT), not below 0
)
# Lowest and highest coefficients. Labelled data may not show what is right: as most are genes, few
# contigs have next to no open frame, and the lengths of viral and of other ones differ.
BOUNDS = dict.fromkeys(FEATURES, (0.0, np.inf))
BOUNDS["log_open_fraction"] = (1.0, np.inf)  # a tenth of the open frames: the odds divided by e
BOUNDS["log_length"] = (-np.inf, 0.0)  # nothing is a virus because it is long
# Bases, about a window. The fractions of a contig of one window, which has a call, say nothing:
# so many bases more make them alike to those of longer ones.
UNIT = 500
LEAST = 0.001  # of the fraction of which the logarithm is taken


def features(windows: WindowCalls, longest: int) -> Double:
    """Return the features of contigs, [C, 6]; NaN for those without a called window.

    Windows that could not be embedded, and those excluded when calling, do not count. longest:
    bases; a longer contig counts as one of this length.
    """
    index, contigs = windows.index, windows.contigs
    start, end = exclusive(windows)
    known = windows.called | (windows.reason == Reason.NO_OPEN_FRAME.code)
    bases = np.where(known, end - start, 0)

    def sums(values: Double) -> Double:
        return np.bincount(index, values, contigs).astype(np.float64)

    total = sums(bases)
    with np.errstate(invalid="ignore", divide="ignore"):
        evidence = sums(bases * windows.log_odds) / total
        bases_counted = np.minimum(total, longest)
        size = np.maximum(np.log10(bases_counted / UNIT), 0)
        share = bases_counted / (bases_counted + UNIT) / total
        fractions = [
            sums(bases * windows.called), sums(bases * windows.virus), longest_run(windows, bases)
        ]  # fmt: skip
    shares = np.column_stack(fractions) * share[:, None]
    shares[:, 0] = np.log10(np.maximum(shares[:, 0], LEAST))
    rows = np.column_stack([evidence, evidence * size, shares, size])
    rows[np.bincount(index[windows.called], minlength=contigs) == 0] = np.nan
    return rows


def contig_log_odds(windows: WindowCalls, model: ContigModel) -> Double:
    """Return the log odds of virus of contigs, [C], where half of them are viral; NaN: no call.

    Raises ModelError for a model of other features.
    """
    if set(model.coefficients) != set(FEATURES):
        raise ModelError("the bundle's model of contigs has other features; calibrate it again")
    coefficients = np.array([model.coefficients[name] for name in FEATURES])
    odds: Double = model.intercept + features(windows, model.longest) @ coefficients
    return odds
