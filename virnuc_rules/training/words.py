"""Words of eight residues, and which sequences, or groups of them, share a tenth of these.

Words are those of translated open frames.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.chunking.manifest import Manifest
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.embedding.tasks import Tasks

WORD = 8  # residues
SHARED = 0.1  # fraction of its words from which on a sequence is a homolog
_RESIDUES = b"ACDEFGHIKLMNPQRSTVWY"
_BITS = 5  # of a residue in a word
_MAX_WORDS = 1 << 24  # that are compared, 256 MB; of more, a sample by their hash
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio (Knuth, TAOCP 6.4)
_MAX_PAIRS = 1 << 22  # of groups with a word that both have, that are compared at once

Words = NDArray[np.uint64]
NO_WORDS: Words = np.zeros(0, np.uint64)
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


def clusters(word: Words, group: Int, groups: int) -> Int:
    """Return the cluster of each group, the lowest index of a group in it; [groups].

    word, group: [N], the words and the index of the group of each. Two groups are linked if they
    share at least `SHARED` of the words of the one that has fewer; a cluster is what is linked,
    also by way of others.
    """
    order = np.lexsort((group, word))
    word, group = word[order], group[order]
    new = np.ones(len(word), bool)
    new[1:] = (word[1:] != word[:-1]) | (group[1:] != group[:-1])
    word, group = word[new], group[new]  # each word of a group once
    total = np.bincount(group, minlength=groups)
    # Close relatives are found first, as neighbours among those that have a word: so each pair of
    # many strains need not be compared.
    same = word[1:] == word[:-1]
    near = (np.ones(int(same.sum()), np.int64), (group[:-1][same], group[1:][same]))
    edges = [_links(coo_array(near, (groups, groups)).tocsr(), 0, total)]
    label = _components(edges, groups)[group]
    column = np.cumsum(np.r_[False, ~same])[: len(word)]
    # A word links nothing more if all groups that have it are in one cluster.
    links = np.zeros(len(word), bool)
    links[column[1:][same & (label[1:] != label[:-1])]] = True
    group, column = group[links[column]], column[links[column]]
    has_word = csr_array((np.ones(len(group), np.int32), (group, column)), (groups, len(word)))
    pairs = np.cumsum(np.bincount(group, np.bincount(column)[column], groups))
    starts = np.flatnonzero(np.diff(pairs // _MAX_PAIRS, prepend=-1)).tolist()
    for start, end in pairwise([*starts, groups]):
        edges.append(_links(has_word[start:end] @ has_word[start:].T, start, total))
    return _components(edges, groups)


def _links(shared: csr_array, first: int, total: Int) -> Int:
    """Return the linked pairs [2, M] of groups, from `first` on, with their shared words."""
    counts = shared.tocoo()
    row, other = counts.row + first, counts.col + first
    linked = counts.data >= SHARED * np.minimum(total[row], total[other])
    pairs: Int = np.stack([row[linked], other[linked]])
    return pairs


def _components(edges: list[Int], groups: int) -> Int:
    """Return the lowest index of a group in the component of each; edges: [2, M] each."""
    row, other = np.concatenate(edges, axis=1)
    links = coo_array((np.ones(len(row), bool), (row, other)), (groups, groups))
    label = connected_components(links, directed=False)[1]
    lowest = np.unique(label, return_index=True)[1]
    found: Int = lowest[label]
    return found


def sampled_fraction(manifests: Sequence[Manifest]) -> float:
    """Return the fraction of the words of some samples that are compared."""
    residues = sum(each.open_frames * each.chunking.window for each in manifests) / 3
    return min(1.0, _MAX_WORDS / max(1.0, residues))


def read_words(
    settings: LabelledSettings, sample: str, fraction: float
) -> Iterator[tuple[Words, Int]]:
    """Yield the words of each chunk, or a fraction of them by their hash, and their windows.

    Raises what reading a chunk raises.
    """
    limit = np.uint64(fraction * (2**64 - 2**11))  # the largest double below 2**64
    for task in Tasks.of(settings.run, settings.embedding).of_sample(sample):
        chunk = task.read()
        word, frame = words([protein.encode() for protein in chunk.protein])
        sampled = word * FACTOR <= limit
        yield word[sampled], chunk.table["window_row"].to_numpy()[frame[sampled]]
