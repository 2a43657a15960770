"""Write the measures of the test part into the card of the demo bundle.

Genes and genomes are evaluated separately, by `virnuc-rules evaluate` on some samples of the sheet.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from virnuc_rules.config.run_folder import EVALUATION, EvaluationFiles
from virnuc_rules.models.bundle import rewrite_card

KINDS = {  # samples of each evaluation: viral genes against non-viral sequences
    "genes": ("viral_genes", "cellular_genes"),
    "whole genomes": ("viral_genes", "genomes_test", "organelles"),
}
DESCRIPTION = (
    "DEMO MODEL. Small networks of the architectures of DNABERT-S, ESM-2 and VirNucPro's "
    "classifier, trained from scratch in minutes on viral and cellular marker genes and pieces of "
    "a few genomes (demo/train). They tell windows apart mostly by their composition. On windows "
    "of 500 bases with an open frame, of groups that they have not seen: {reached}. This is no "
    "substitute for the real models: use it to try the workflow, not to find viruses."
)


def evaluate(args: argparse.Namespace, kind: str) -> str:
    """Evaluate samples of the sheet on their test part; return a sentence with the measures."""
    with args.data.open(newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        rows = [row for row in reader if row["sample"] in KINDS[kind]]
    name = kind.replace(" ", "_")
    sheet, page = (args.results / f"{name}.{ending}" for ending in ("tsv", "html"))
    with sheet.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    measure(args, sheet, page)
    measures = json.loads(EvaluationFiles(page).json.read_text())["windows"]
    ranking, counts = measures["ranking"], measures["counts"]
    interval = "no interval: too few genomes"
    if ranking["auroc_interval"]:
        low, high = ranking["auroc_interval"]
        interval = f"95 % interval {low:.3f} to {high:.3f}"
    return (
        f"AUROC {ranking['auroc']:.3f} ({interval}) for {kind}, "
        f"{measures['recall']:.0%} of {counts['virus']['called']:,} viral windows and "
        f"{measures['false_positive_rate']:.0%} of {counts['non_viral']['called']:,} non-viral "
        "ones called virus"
    )


def measure(args: argparse.Namespace, sheet: Path, page: Path) -> None:
    """Run `virnuc-rules evaluate` on the test part of a sheet."""
    subprocess.run(
        [
            "virnuc-rules", "evaluate", "--samples", str(sheet), "--results", str(args.results),
            "--bundle", str(args.bundle), "--part", "test", "--out", str(page),
        ],
        check=True,
    )  # fmt: skip


def main() -> None:
    """Evaluate, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="training.tsv")
    parser.add_argument("--results", type=Path, required=True, help="of `snakemake train`")
    parser.add_argument("--bundle", type=Path, required=True)
    args = parser.parse_args()
    reached = "; ".join(evaluate(args, kind) for kind in KINDS)
    card = rewrite_card(
        args.bundle, name="virnuc-demo", description=DESCRIPTION.format(reached=reached)
    )
    measure(args, args.data, args.bundle / EVALUATION)  # with this description
    print(card.description, file=sys.stderr)


if __name__ == "__main__":
    main()
