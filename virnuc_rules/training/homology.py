"""Which labelled sequences are homologs of sequences that a classifier was trained on.

A classifier that has seen a gene of one virus recognizes the same gene of its relatives, which are
in other groups. So measures are also given for sequences that share less than a tenth of their
words of eight residues with the training data. Words are those of translated open frames.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.training.labelled import Labelled, LabelledSample
from virnuc_rules.training.split import PARTS

WORD = 8  # residues
SHARED = 0.1  # fraction of its words from which on a sequence is a homolog
_RESIDUES = b"ACDEFGHIKLMNPQRSTVWY"
_BITS = 5  # of a residue in a word
_MAX_WORDS = 1 << 24  # that are compared, 256 MB; of more, a sample by their hash
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio (Knuth, TAOCP 6.4)

Words = NDArray[np.uint64]
_NO_WORDS: Words = np.zeros(0, np.uint64)
_CODE = np.full(256, 255, np.uint8)
_CODE[np.frombuffer(_RESIDUES, np.uint8)] = range(len(_RESIDUES))


def words(proteins: list[bytes]) -> tuple[Words, Int]:
    """Return the words of proteins as integers [N], and the index of the protein of each [N].

    Words with a letter that is none of the 20 residues are left out.
    """
    code = _CODE[np.frombuffer(b"*".join([*proteins, b""]), np.uint8)]
    count = max(0, len(code) - WORD + 1)
    word = np.zeros(count, np.uint64)
    for at in range(WORD):
        word = word << np.uint64(_BITS) | code[at : at + count]
    unknown = np.concatenate([[0], np.cumsum(code == 255)])
    kept = unknown[WORD:] == unknown[: len(unknown) - WORD] if count else np.zeros(0, bool)
    protein = np.repeat(np.arange(len(proteins)), [len(protein) + 1 for protein in proteins])
    return word[kept], protein[:count][kept]


def is_homolog(word: Words, sequence: Int, sequences: int, known: Words) -> Bool:
    """Tell which sequences share at least `SHARED` of their words with the sorted `known` ones.

    word, sequence: [N], the words and the index of the sequence of each; the result: [sequences].
    """
    at = np.minimum(np.searchsorted(known, word), len(known) - 1)
    shared = known[at] == word if len(known) else np.zeros(len(word), bool)
    total = np.bincount(sequence, minlength=sequences)
    found = np.bincount(sequence[shared], minlength=sequences)
    return (total > 0) & (found >= SHARED * total)


def with_homologs(settings: LabelledSettings, labelled: Labelled, parts: set[str]) -> Labelled:
    """Mark the contigs of each sample that have homologs in the parts; not those in them.

    Raises what reading a chunk raises.
    """
    codes = [PARTS.index(part) for part in PARTS if part in parts]
    residues = (
        sum(s.manifest.open_frames * s.manifest.chunking.window for s in labelled.samples) / 3
    )
    fraction = min(1.0, _MAX_WORDS / max(1.0, residues))
    known, others = [_NO_WORDS], list[tuple[Words, Int]]()
    for sample in labelled.samples:
        is_known = np.isin(sample.part, codes)
        rest = [(_NO_WORDS, np.zeros(0, np.int64))]
        for word, contig in _words_of(settings, sample, fraction):
            known.append(np.unique(word[is_known[contig]]))
            rest.append((word[~is_known[contig]], contig[~is_known[contig]]))
        others.append((np.concatenate([w for w, _ in rest]), np.concatenate([c for _, c in rest])))
    sorted_words = np.unique(np.concatenate(known))
    samples = [
        replace(sample, homolog=is_homolog(*own, len(sample.part), sorted_words))
        for sample, own in zip(labelled.samples, others, strict=True)
    ]
    return replace(labelled, samples=samples)


def _words_of(
    settings: LabelledSettings, sample: LabelledSample, fraction: float
) -> Iterator[tuple[Words, Int]]:
    """Yield the words of each chunk, or a fraction of them by their hash, and their contigs."""
    limit = np.uint64(fraction * (2**64 - 2**11))  # the largest double below 2**64
    for task in Tasks.of(settings.run, settings.embedding).of_sample(sample.name):
        chunk = task.read()
        word, frame = words([protein.encode() for protein in chunk.protein])
        sampled = word * _FACTOR <= limit
        window = chunk.table["window_row"].to_numpy()[frame[sampled]]
        yield word[sampled], sample.window_contig[window]
