"""Labelled sequences that a classifier can be trained on: coding, of two compositions.

One in six has no open frame.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

STOPS = ("TAA", "TAG", "TGA")
SHARE_OF_AT = {"virus": 0.62, "non_viral": 0.40}
LINE = 60


def coding(draw: np.random.Generator, bases: int, at: float) -> str:
    """Codons at random, none of them a stop."""
    share = [at / 2, (1 - at) / 2, (1 - at) / 2, at / 2]
    codons: list[str] = []
    while len(codons) < bases // 3:
        letters = "".join(draw.choice(list("ACGT"), 3, p=share))
        if letters not in STOPS:
            codons.append(letters)
    return "".join(codons)


CLOSED = "TTAA" * 150  # a stop in each of the six frames, again and again


def records(label: str, contigs: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    draw = np.random.default_rng([seed, len(label)])
    for number in range(contigs):
        bases = int(draw.integers(400, 2500))
        sequence = coding(draw, bases, SHARE_OF_AT[label] + draw.normal(0, 0.03))
        yield f"{label}_{number}", CLOSED if number % 6 == 5 else sequence


def write_fasta(path: Path, label: str, contigs: int, seed: int = 0) -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in records(label, contigs, seed)))
    return path


def write_sheet(folder: Path, contigs: int = 60, seed: int = 0) -> Path:
    """Two samples, one of each label; three contigs a group."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["sample\tpath\tlabel\tgroups\n"]
    for label in SHARE_OF_AT:
        fasta = write_fasta(folder / f"{label}.fa", label, contigs, seed)
        groups = folder / f"{label}.groups.tsv"
        lines = (f"{label}_{n}\t{label}_genome_{n // 3}\n" for n in range(contigs))
        groups.write_text("id\tgroup\n" + "".join(lines))
        rows.append(f"{label}\t{fasta}\t{label}\t{groups}\n")
    sheet = folder / "labelled.tsv"
    sheet.write_text("".join(rows))
    return sheet
