"""Expected and true false calls of held-out windows and contigs, mixed at several viral fractions.

    python benchmarks/calls.py --samples labelled.tsv --results results --bundle bundle --part test

The labelled samples are embedded already (`snakemake evaluate`). Viral contigs, or others, are left
out at random until 50, 20, 5 or 1 % of all windows (contigs) with a call are viral; the viral
fraction is then estimated from the mixture, and the false calls that are expected are compared with
the labels. Rows: the calls of windows (VirNucPro's rule), and of contigs by each cutoff; means of
20 mixtures. `--without GROUP` leaves a group out, to see how much is due to it.
"""

import argparse
from pathlib import Path

import numpy as np

from virnuc_rules.arrays import Bool, Double
from virnuc_rules.config.model import Config, LabelledSettings
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.calibration import log_odds
from virnuc_rules.models.prevalence import SHOWN, at_prevalence, estimate_prevalence, expected_fdr
from virnuc_rules.prediction.contig_calls import CUTOFFS
from virnuc_rules.prediction.contig_model import contig_log_odds
from virnuc_rules.training.labelled import read_labelled
from virnuc_rules.training.scored import score_labelled
from virnuc_rules.training.split import PARTS

MIXTURES = 20


def row(name: str, odds: Double, virus: Bool, cutoff: float | None, fraction: float) -> str:
    """Mix, estimate and compare; a cutoff of None calls where the odds are even."""
    known = ~np.isnan(odds)
    odds, virus = odds[known], virus[known]
    draw = np.random.default_rng(1)
    found = []
    for _ in range(MIXTURES):
        chance = np.full(len(virus), 1.0)
        wanted = fraction / (1 - fraction) * np.sum(~virus) / virus.sum()
        chance[virus], chance[~virus] = min(1, wanted), min(1, 1 / wanted)
        kept = draw.random(len(virus)) < chance
        prevalence = estimate_prevalence(odds[kept])
        p = at_prevalence(odds[kept], prevalence)
        called = odds[kept] >= 0 if cutoff is None else p >= cutoff
        expected = expected_fdr(p, called)
        if expected is not None:
            true = 1 - virus[kept][called].mean()
            recall = called[virus[kept]].mean()
            found.append([prevalence, recall, expected, true, called.sum()])
    if not found:
        return f"{name:24}{fraction:8.0%}  nothing is called"
    estimated, recall, expected, true, calls = np.mean(found, axis=0)
    return (
        f"{name:24}{fraction:8.0%}{estimated:11.1%}{recall:9.1%}{calls:9.0f}"
        f"{expected:10.1%}{true:8.1%}{100 * (expected - true):+9.1f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--samples", "--results", "--bundle"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--part", default="test", choices=[*PARTS, "all"])
    parser.add_argument("--min-length", type=int, default=0, help="bases of contigs")
    parser.add_argument("--without", action="append", default=[], help="group that is left out")
    args = parser.parse_args()
    settings = Config.of(samples=args.samples, results=args.results, bundle=args.bundle)
    bundle = Bundle(args.bundle)
    labelled = read_labelled(settings.part(LabelledSettings))
    scores = score_labelled(settings.part(LabelledSettings), bundle, labelled, args.part)
    left_out = [labelled.groups.index(group) for group in args.without]
    if bundle.card.calibration is None:
        raise SystemExit(f"{args.bundle}: not calibrated")
    print(f"{'':24}{'viral':>8}{'estimated':>11}{'recall':>9}{'calls':>9}{'expected':>10}"
          f"{'true':>8}{'points':>9}")  # fmt: skip
    kept = scores.windows.where(~np.isin(scores.windows.group, left_out))
    windows = log_odds(bundle.card.calibration, kept.score)
    for fraction in SHOWN:
        print(row("windows", windows, kept.virus, None, fraction))
    model = bundle.card.contig_model
    if model is None:
        print("the bundle has no model of contigs")
        return
    print(f"log loss of contigs on held-out groups: {model.log_loss}")
    odds, virus = [], []
    for sample, called in zip(labelled.samples, scores.called, strict=True):
        chosen = (sample.length >= args.min_length) & ~np.isin(sample.group, left_out)
        if args.part != "all":
            chosen &= sample.part == PARTS.index(args.part)
        odds.append(contig_log_odds(called, model)[chosen])
        virus.append(np.full(int(chosen.sum()), bool(sample.label)))
    for calls, cutoff in CUTOFFS.items():
        for fraction in SHOWN:
            name = f"contigs, {calls}"
            print(row(name, np.concatenate(odds), np.concatenate(virus), cutoff, fraction))


if __name__ == "__main__":
    main()
