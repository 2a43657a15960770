"""Measure the demo bundle on its test part, and write the measures into its card.

    python demo/train/describe.py --data training.tsv --results results --bundle virnuc-demo

Prints a table in Markdown. Genes, whole genomes and contigs are measured separately, each also
without the sequences that have homologs in the training data (`virnuc_rules.training.homology`).
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from virnuc_rules.config.model import Config, LabelledSettings
from virnuc_rules.config.run_folder import EVALUATION
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.training.evaluation import Measures, measure
from virnuc_rules.training.homology import with_homologs
from virnuc_rules.training.intervals import Interval
from virnuc_rules.training.labelled import Labelled, read_labelled
from virnuc_rules.training.scored import Scored, Scores, score_labelled
from virnuc_rules.vocabulary import Label

MIN_CONTIG = 2_000  # bases
RECALL = 0.7  # at which false positives are given, beside those of the calls
KINDS = {  # samples of each measure, by the beginning of their names
    "windows of genes": ("viral_genes", "cellular_genes"),
    "windows of whole genomes": ("viral_genomes", "prokaryotes", "eukaryotes"),
    "windows of viral genes and of cells' genomes": ("viral_genes", "prokaryotes", "eukaryotes"),
}
CONTIGS = f"contigs of {MIN_CONTIG:,} bases and more"
DESCRIPTION = (
    "DEMO MODEL. Small networks of the architectures of DNABERT-S, ESM-2 and VirNucPro's "
    "classifier, trained from scratch in minutes on marker genes and whole genomes of viruses and "
    "cells (demo/train). They tell windows apart mostly by their composition. On sequences of "
    "genomes that they have not seen, without homologs in the training data: {reached}. "
    "This is no substitute for the real models: use it to try the workflow, not to find viruses. "
    "These numbers are not those of a bundle that is trained from it."
)


def selections(scores: Scores, labelled: Labelled) -> Iterator[tuple[str, Scored]]:
    """Yield what is measured: its name, and the windows or contigs."""
    names = np.array([sample.name for sample in labelled.samples])
    for kind, beginnings in KINDS.items():
        chosen = np.array([name.startswith(beginnings) for name in names])
        yield kind, scores.windows.where(chosen[scores.windows.sample])
    contigs = scores.contigs.where(scores.contigs.length >= MIN_CONTIG)
    yield CONTIGS, contigs
    of_bacteria = np.array([name.startswith(("prokaryotes", "viral_genomes")) for name in names])
    yield (
        "contigs of bacteria, archaea and viral genomes",
        contigs.where(of_bacteria[contigs.sample]),
    )


def row(name: str, chosen: Scored, measures: Measures) -> str:
    """Return a row of the table."""
    counts, ranking = measures.counts, measures.ranking
    auroc = "–" if ranking is None else f"{ranking.auroc:.3f}{_interval(ranking.auroc_interval)}"
    cells = [name, f"{counts[Label.VIRUS].called:,}", f"{counts[Label.NON_VIRAL].called:,}", auroc]
    cells.append(f"{measures.recall or 0:.1%}")
    cells.append(f"{measures.false_positive_rate or 0:.1%}")
    cells.append(f"{false_positives(chosen):.1%}")
    return f"| {' | '.join(cells)} |"


def false_positives(chosen: Scored) -> float:
    """Return the false positive rate at which RECALL of the viral ones are found."""
    called = chosen.where(chosen.called)
    false, recall, _ = roc_curve(called.virus, called.score, drop_intermediate=False)
    return float(false[recall >= RECALL][0])


def _interval(interval: Interval | None) -> str:
    return f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else " (no interval)"


def of_species(contigs: Scored, labelled: Labelled) -> Iterator[str]:
    """Yield for each whole genome of cells how many of its contigs are called virus."""
    is_cell = ["genomes" not in s.name and "genes" not in s.name for s in labelled.samples]
    cells = contigs.where(np.array(is_cell)[contigs.sample])
    for group in np.unique(cells.group).tolist():
        of_group = cells.where(cells.group == group)
        called = int(of_group.called.sum())
        if called >= 20:  # organelles have fewer
            viral = int(of_group.call.sum())
            yield f"| {labelled.groups[group]} | {called:,} | {viral:,} ({viral / called:.1%}) |"


def sentence(name: str, measures: Measures) -> str:
    """Return the measures as a part of the description."""
    ranking = measures.ranking
    auroc = ranking.auroc if ranking else float("nan")
    return (
        f"AUROC {auroc:.3f} for {name}, {measures.recall or 0:.0%} of the viral and "
        f"{measures.false_positive_rate or 0:.0%} of the other ones called virus"
    )


def main() -> None:
    """Measure, print, and write the card and the page of evaluation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="training.tsv")
    parser.add_argument("--results", type=Path, required=True, help="of `snakemake train`")
    parser.add_argument("--bundle", type=Path, required=True)
    args = parser.parse_args()
    config = Config.of(samples=args.data, results=args.results, bundle=args.bundle)
    settings = config.part(LabelledSettings)
    labelled = with_homologs(settings, read_labelled(settings), {"train", "validation"})
    scores = score_labelled(settings, Bundle(args.bundle), labelled, "test")
    print("| test part | viral | non-viral | AUROC (95 %) | recall | false positives "
          f"| the same at {RECALL:.0%} recall |")  # fmt: skip
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    sources, reached = [sample.name for sample in labelled.samples], []
    for name, chosen in selections(scores, labelled):
        new = chosen.where(~chosen.homolog)
        alone = measure(new, sources, labelled.groups)
        print(row(name, chosen, measure(chosen, sources, labelled.groups)))
        print(row("– without homologs", new, alone))
        reached.append(sentence(name, alone))
    print(f"\n| whole genome | {CONTIGS} | called virus |\n| --- | ---: | ---: |")
    contigs = scores.contigs.where(scores.contigs.length >= MIN_CONTIG)
    print("\n".join(of_species(contigs, labelled)), flush=True)
    description = DESCRIPTION.format(reached="; ".join(reached[:2] + reached[3:4]))
    card = rewrite_card(args.bundle, name="virnuc-demo", description=description, demo=True)
    command = ["virnuc-rules", "evaluate", "--samples", args.data, "--results", args.results]
    command += ["--bundle", args.bundle, "--part", "test", "--out", args.bundle / EVALUATION]
    subprocess.run(command, check=True)  # the page with this description
    print(card.description, file=sys.stderr)


if __name__ == "__main__":
    main()
