"""Train DNABERT's network on fractions of the groups of the train part, as `train.py` does.

    python demo/train/learning_curve.py --data DIR/training.tsv

Prints the AUROC on the whole validation part for each fraction, of windows of viral genes and
genomes against those of cellular genes, and of cells' genomes. `train.py` prints that of all
groups.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from frames import find_frames, read_part
from networks import TrainedDnabert, build_tokenizer
from train import CUTS, SEED, THREADS, feature_scale, fit, measure

from virnuc_rules.models.device import reuse_memory

FRACTIONS = (0.125, 0.25, 0.5)


def main() -> None:
    """Print a row of a table for each fraction."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="training.tsv")
    data = parser.parse_args().data
    reuse_memory()
    torch.set_num_threads(THREADS)
    tokenizer = build_tokenizer()
    validation = find_frames(read_part(data, "validation"), tokenizer)
    rows = ["| groups | sequences | bases | genes | genomes |", f"| ---: {'| ---: ' * 4}|"]
    for fraction in FRACTIONS:
        torch.manual_seed(SEED)
        part = read_part(data, "train", fraction)
        cuts = [find_frames(part, tokenizer, np.random.default_rng(cut)) for cut in range(CUTS)]
        model = TrainedDnabert(*feature_scale(cuts[0]))
        fit(model, "dnabert", cuts, validation)
        auroc = measure(model, "dnabert", validation)
        cells = [f"{fraction:.1%}", f"{len(part.length):,}", f"{len(part.bases):,}"]
        cells += [f"{auroc[kind]:.3f}" for kind in ("genes", "genomes")]
        rows.append(f"| {' | '.join(cells)} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
