"""How the contigs of a sample are called, decided from all of them, and what to expect of it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from virnuc_rules.arrays import Bool, Double, Float
from virnuc_rules.config.model import Calling, Probability
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import BundleCard
from virnuc_rules.models.prevalence import (
    EVEN,
    SHOWN,
    at_prevalence,
    estimate_prevalence,
    expected_fdr,
    fdr_cutoff,
)
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_calls import CUTOFFS, MIN_CALLED_FRACTION, ContigRule
from virnuc_rules.prediction.contig_model import contig_log_odds

_NONE = 2.0  # a probability that no contig reaches


class Level(BaseModel):
    """What to expect of the calls of windows, or of contigs, by calibrated probabilities."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prevalence: float  # viral fraction of those with a call, estimated or given
    called: int
    virus: int
    expected_fdr: float | None  # expected fraction of false ones among `virus`; None: there is none
    expected_fdr_at: dict[str, float | None]  # the same calls, if the prevalence were this


class SampleCalls(BaseModel):
    """`calls.json`: how the contigs of a sample were called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: str  # the setting; max_fdr where that decided; min_* where the bundle has no model
    cutoff: float | None  # a contig is virus from this probability on; None: not by probability
    estimated: bool  # the prevalences are, and not given
    windows: Level | None  # None: the bundle is not calibrated, or nothing has a call
    contigs: Level | None  # None: it has no model of contigs, or nothing has a call

    def rule(self, calling: Calling, probability: Probability) -> str:
        """Say in sentences how contigs were called, by the settings that they were called with."""
        if self.calls == "max_fdr":
            return (
                "A contig is called virus from the probability on at which at most "
                f"{100 * probability.max_fdr:g} % of those called virus are expected to be false "
                "(max_fdr; cutoffs in calls.json)."
            )
        if self.cutoff is not None:
            return (
                f"A contig is called virus from a probability of {self.cutoff} on ({self.calls})."
            )
        fraction = f", and at least {MIN_CALLED_FRACTION:.0%} of all its windows have a call"
        return (
            f"A contig is called virus if at least {calling.min_viral_fraction} of its called "
            f"windows are viral and their mean score is at least {calling.min_score}"
            f"{fraction if self.calls == 'min_*' else ''}. "
            f"With fewer than {calling.min_called_windows} called windows it has no call."
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule for the contigs of a sample, and the odds that it was made of."""

    rule: ContigRule
    prevalence: float  # viral fraction of windows with a call
    estimated: bool
    max_fdr: float
    windows: Float  # log odds of the windows with a call, at EVEN; empty: not calibrated
    virus: Bool  # of the same windows
    contigs: Double  # [C] log odds at EVEN, NaN: no call; empty: no model

    def outcome(self, called: Bool, is_virus: Bool) -> SampleCalls:
        """Describe the calls of all contigs [C]: which have a call, and which are called virus."""
        rule = self.rule
        name: str = rule.calling.calls
        if self.max_fdr:
            name = "max_fdr"
        elif name in CUTOFFS and rule.model is None:
            name = "min_*"
        contigs = None
        if rule.model:
            known = called & ~np.isnan(self.contigs)  # `virnucpro` may give fewer a call
            contigs = _level(self.contigs[known], is_virus[known], rule.prevalence)
        return SampleCalls(
            calls=name,
            cutoff=rule.cutoff,
            estimated=self.estimated,
            windows=_level(self.windows.astype(np.float64), self.virus, self.prevalence),
            contigs=contigs,
        )


def _level(log_odds: Double, virus: Bool, prevalence: float) -> Level | None:
    if not len(log_odds):
        return None

    def fdr(fraction: float) -> float | None:
        return expected_fdr(at_prevalence(log_odds, fraction), virus)

    return Level(
        prevalence=prevalence,
        called=len(log_odds),
        virus=int(virus.sum()),
        expected_fdr=fdr(prevalence),
        expected_fdr_at={f"{fraction:g}": fdr(fraction) for fraction in SHOWN},
    )


def decide(
    blocks: Iterable[WindowCalls],
    card: BundleCard,
    odds: Odds,
    calling: Calling,
    probability: Probability,
) -> Decision:
    """Look at all contigs of a sample: `blocks` are those of some contigs each.

    They are not looked at where the bundle is not calibrated.
    """
    model, fixed = card.contig_model, probability.fixed_prevalence
    windows, virus, contigs = [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)], [np.zeros(0)]
    for block in blocks if odds.curve else ():
        windows.append(odds.log_odds(block.margin[block.called]).astype(np.float32))
        virus.append(block.virus[block.called])
        if model:
            contigs.append(contig_log_odds(block, model))
    of_windows, of_contigs = np.concatenate(windows), np.concatenate(contigs)
    prevalence, contig_prevalence = fixed or EVEN, fixed or EVEN
    if fixed is None and odds.curve:
        prevalence = estimate_prevalence(of_windows.astype(np.float64))
        contig_prevalence = estimate_prevalence(of_contigs)
    cutoff = None
    if probability.max_fdr:
        shown = at_prevalence(of_contigs, contig_prevalence).astype(np.float32)
        found = fdr_cutoff(shown.astype(np.float64), probability.max_fdr)
        cutoff = _NONE if found is None else found
    return Decision(
        rule=ContigRule(calling, model, contig_prevalence, cutoff),
        prevalence=prevalence,
        estimated=fixed is None and odds.curve is not None,
        max_fdr=probability.max_fdr,
        windows=of_windows,
        virus=np.concatenate(virus),
        contigs=of_contigs,
    )
