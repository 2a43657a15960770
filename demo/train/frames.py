"""Open frames of labelled sequences as arrays, cut and tokenised as VirNuc does."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sequences import SEED, read_file
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer

from virnuc_rules.chunking.open_frames import OpenFrames, open_frames
from virnuc_rules.chunking.windows import count, cut
from virnuc_rules.config.sheet import read_pairs
from virnuc_rules.models import esm2
from virnuc_rules.training.split import Part, hash_fraction, part_of
from virnuc_rules.vocabulary import Label

WINDOW = 500
DNA_PAD = 3  # [PAD]

Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """The sequences of one part of the data, concatenated."""

    bases: bytes
    start: Int  # [N] first base of each sequence
    length: Int  # [N]
    label: Int  # [N] 1 virus, 0 non-viral
    source: Int  # [N] index into `sources`
    sources: list[str]  # names of the samples in the sheet


@dataclass(frozen=True, slots=True)
class Frames:
    """R open frames of W windows."""

    dna: NDArray[np.int16]  # [R, T] tokens with [CLS] and [SEP], then [PAD]
    protein: NDArray[np.int8]  # [R, P] tokens with <cls> and <eos>, then <pad>
    window: Int  # [R] row of the window
    label: Int  # [W]
    source: NDArray[np.str_]  # [W] name of the sample in the sheet

    def __len__(self) -> int:
        return len(self.window)


def read_part(sheet: Path, part: Part, fraction: float = 1) -> Labelled:
    """Read all sequences of one part, as `virnuc-rules train` splits them.

    With a `fraction`, only those of so many of the groups, chosen by their hash.
    """
    bases, length, label, source, sources = [], [], [], [], []
    with sheet.open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    groups = [read_pairs(Path(row["groups"]), "id", "group") for row in rows]
    given = {  # to a group, also for its genes in the file without a part
        group: row["part"]
        for row, groups_of in zip(rows, groups, strict=True)
        if row["part"]
        for group in groups_of.values()
    }
    for row, groups_of in zip(rows, groups, strict=True):
        if row["sample"] not in sources:
            sources.append(row["sample"])
        for name, sequence in read_file(Path(row["path"])):
            group = groups_of[name]
            of_part = (given.get(group) or part_of(group, SEED)) == part
            if of_part and hash_fraction(group, SEED + 1) < fraction:
                bases.append(sequence)
                length.append(len(sequence))
                label.append(Label(row["label"]).code)
                source.append(len(sources) - 1)
    lengths = np.array(length, np.int64)
    return Labelled(
        b"".join(bases),
        np.cumsum(lengths) - lengths,
        lengths,
        np.array(label, np.int64),
        np.array(source, np.int64),
        sources,
    )


def cut_windows(
    data: Labelled, rng: np.random.Generator | None = None
) -> tuple[OpenFrames, Int, Int]:
    """Cut windows as VirNuc does; return their open frames, labels and sources.

    With `rng`, each sequence first loses up to one window of bases at its start, if a whole window
    is left: each call gives different windows.
    """
    skip = np.zeros(len(data.length), np.int64)
    if rng is not None:
        skip = rng.integers(0, np.clip(data.length - WINDOW, 0, WINDOW - 1) + 1)
    length = data.length - skip
    total = np.array([count(int(n), WINDOW) for n in length])
    windows = cut(length, np.zeros_like(length), total, WINDOW)
    origin = (data.start + skip)[windows.contig]
    frames = open_frames(data.bases, origin + windows.start, origin + windows.end)
    return frames, data.label[windows.contig], data.source[windows.contig]


def find_frames(
    data: Labelled, tokenizer: Tokenizer, rng: np.random.Generator | None = None
) -> Frames:
    """Find and tokenise the open frames of windows; see `cut_windows`."""
    frames, label, source = cut_windows(data, rng)
    encoded = tokenizer.encode_batch_fast([sequence.decode() for sequence in frames.nucleotide])
    proteins = [esm2.tokenize(sequence.decode()) for sequence in frames.protein]
    return Frames(
        _padded([encoding.ids for encoding in encoded], DNA_PAD).astype(np.int16),
        _padded(proteins, esm2.PAD).astype(np.int8),
        frames.window,
        label,
        np.array(data.sources)[source],
    )


def _padded(rows: list[list[int]], pad: int) -> Int:
    """Return int64 [R, length of the longest row]."""
    lengths = np.array([len(row) for row in rows])
    padded = np.full((len(rows), lengths.max()), pad)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return padded


def scores_of_windows(
    log_scores: NDArray[np.float32], window: Int, windows: int
) -> NDArray[np.float64]:
    """Return log(max virus score) - log(max non-viral score) over the open frames of each window.

    log_scores: [R, 2]; window: [R] row of the window; the result, [windows], is NaN for windows
    without an open frame.
    """
    best = np.full((windows, 2), -np.inf)
    np.maximum.at(best, window, log_scores)
    best[np.isinf(best).all(axis=1)] = np.nan
    return best[:, 1] - best[:, 0]


def summary(score: NDArray[np.float64], label: Int, source: NDArray[np.str_]) -> dict[str, float]:
    """Return the AUROC of viral windows against those of genes, of genomes, and of both.

    Windows without a score (NaN) are left out.
    """
    is_scored, is_gene = np.isfinite(score), np.char.endswith(source, "genes")
    viral = label == 1
    chosen = {"genes": viral | is_gene, "genomes": viral | ~is_gene, "both": viral | True}
    return {
        name: float(roc_auc_score(label[rows & is_scored], score[rows & is_scored]))
        for name, rows in chosen.items()
    }
