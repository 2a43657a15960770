"""Viral regions of contigs: a hidden Markov model with two states over the windows of a contig.

A window is viral or not. Neighbours are mostly alike: along the contig the state changes at random,
after VIRAL_LENGTH bases on average where it is viral, else after NON_VIRAL_LENGTH. The posterior of
each window, given the log odds of all windows of its contig, follows by the forward-backward
algorithm (Rabiner, Proceedings of the IEEE 77, 1989). A region is a run of windows with a posterior
of at least 0.5. It begins and ends with a window that has a call: an open frame is as long as its
window, so these are the ends of the outermost open frames (within 2 bases).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from virnuc_rules.arrays import Bool, Double, Float, Int
from virnuc_rules.prediction.called_windows import WindowCalls

# Chosen with benchmarks/regions.py: with shorter ones there are more than 0.1 false regions a Mb at
# an AUROC of 0.97, with longer ones fewer insertions of 2 to 5 kb are found.
VIRAL_LENGTH, NON_VIRAL_LENGTH = 20_000, 200_000  # bases
_RATES = 1 / VIRAL_LENGTH, 1 / NON_VIRAL_LENGTH  # of leaving each state, a base
_VIRAL = _RATES[1] / sum(_RATES)  # fraction of bases that are viral in the long run

_Step = Callable[[Double, Int], Double]  # log odds, and bases to the next window


@dataclass(frozen=True, slots=True)
class Regions:
    """The R viral regions of contigs, in order."""

    index: Int  # [R] contig, as `WindowCalls.index`
    start: Int  # [R] first base of its first window
    end: Int  # [R] base after its last window
    windows: Int  # [R] all windows in it
    evidence: Float  # [R] fraction of these windows that have a call
    posterior: Float  # [R] mean of the windows with a call


def viral_regions(windows: WindowCalls, prevalence: float) -> Regions:
    """Find the viral regions of contigs; prevalence: the viral fraction of windows, 0 to 1."""
    posterior = posteriors(windows, prevalence)
    viral = posterior >= 0.5
    run = np.cumsum(np.r_[True, (viral[1:] != viral[:-1]) | _new_contig(windows)][: len(viral)])
    (rows,) = np.nonzero(viral & windows.called)
    _, first, calls = np.unique(run[rows], return_index=True, return_counts=True)
    begin, last = rows[first], rows[first + calls - 1]
    size = last - begin + 1
    return Regions(
        index=windows.index[begin],
        start=windows.start[begin],
        end=windows.end[last],
        windows=size,
        evidence=(calls / size).astype(np.float32),
        posterior=(np.add.reduceat(posterior[rows], first) / calls).astype(np.float32)
        if len(first)
        else np.zeros(0, np.float32),
    )


def posteriors(windows: WindowCalls, prevalence: float) -> Double:
    """Return the probability that each window [W] is in a viral region."""
    starts = np.flatnonzero(np.r_[True, _new_contig(windows)][: len(windows.index)])
    sizes = np.diff(np.r_[starts, len(windows.index)])
    order = np.argsort(-sizes, kind="stable")
    firsts, sizes = starts[order], sizes[order]
    forward, backward = (np.zeros(len(windows.index)) for _ in range(2))
    odds = _at_start(windows.end[firsts + sizes - 1], prevalence)
    for before, at in _along(firsts, sizes):
        odds = _later(odds[: len(at)], windows.start[at] - windows.start[before])
        odds = odds + windows.log_odds[at]
        forward[at] = odds
    odds = np.zeros(len(firsts))  # nothing is behind the last window
    for after, at in _along(firsts + sizes - 1, sizes, -1):
        beyond = odds[: len(at)] + np.where(after == at, 0, windows.log_odds[after])
        odds = _earlier(beyond, windows.start[after] - windows.start[at])
        backward[at] = odds
    posterior: Double = expit(forward + backward)
    return posterior


def _at_start(length: Int, prevalence: float) -> Double:
    """Return the log odds that contigs of some lengths begin with a viral base.

    One that is short beside NON_VIRAL_LENGTH begins viral as often as any window is, a longer one
    as any base of a long sequence: hardly any long contig is viral as a whole.
    """
    odds: Double = logit(_VIRAL + (prevalence - _VIRAL) * np.exp(-length / NON_VIRAL_LENGTH))
    return odds


def _new_contig(windows: WindowCalls) -> Bool:
    """Tell which windows but the first begin a contig, [W - 1]."""
    return np.not_equal(windows.index[1:], windows.index[:-1])


def _along(firsts: Int, sizes: Int, direction: int = 1) -> Iterator[tuple[Int, Int]]:
    """Yield the rows of the n-th windows of all contigs that have so many, and of those before.

    sizes: windows of each contig, descending. The first windows have themselves before them.
    """
    for n in range(int(sizes[0]) if len(sizes) else 0):
        contigs = int(np.searchsorted(-sizes, -n, "left"))
        at = firsts[:contigs] + direction * n
        yield (at - direction if n else at), at


def _later(odds: Double, distance: Int) -> Double:
    """Return the log odds of the state some bases on, from those of the state here."""
    change = -np.expm1(-sum(_RATES) * distance)  # 0 at once, 1 far away
    viral = expit(odds)
    moved: Double = logit(viral + (_VIRAL - viral) * change)
    return moved


def _earlier(odds: Double, distance: Int) -> Double:
    """Return the log ratio of what is seen some bases on, given the state here."""
    change = -np.expm1(-sum(_RATES) * distance)
    seen, unseen = expit(odds), expit(-odds)  # in proportion to the likelihoods of both states
    mean = _VIRAL * seen + (1 - _VIRAL) * unseen
    moved: Double = np.log(seen + (mean - seen) * change) - np.log(
        unseen + (mean - unseen) * change
    )
    return moved
