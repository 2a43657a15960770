"""Viral genomes that are homologs get one group, so that whole clusters are in one part."""

from dataclasses import replace
from itertools import cycle

import numpy as np
from prophages import translated
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from sequences import SEED, Record

from virnuc_rules.training.homology import SHARED
from virnuc_rules.training.split import Part, hash_fraction

# To clusters in the order of their hash: with so few, `part_of` may give none to a part.
DEALT: tuple[Part, ...] = ("test", "validation", "train", "train")


def clustered(records: list[Record]) -> list[Record]:
    """Name the group of each genome by the first genome of its cluster, and deal out the parts.

    Two genomes are linked if they share a tenth of the words of eight residues (of their open
    frames) of the one that has fewer; a cluster is what is linked, also by way of others.
    """
    names = list(dict.fromkeys(record.group for record in records))
    pairs, first = [], 0
    for word, _, contig, count, _ in translated(records):
        group = np.array([names.index(r.group) for r in records[first : first + count]])
        pairs.append(np.stack([group[contig].astype(np.uint64), word]))
        first += count
    group, word = np.unique(np.concatenate(pairs, axis=1), axis=1)
    column = np.unique(word, return_inverse=True)[1]
    has_word = csr_array((np.ones(len(word), np.int32), (group.astype(np.int64), column)))
    shared = (has_word @ has_word.T).tocoo()
    total = has_word.sum(axis=1)
    linked = shared.data >= SHARED * np.minimum(total[shared.row], total[shared.col])
    edges = shared.row[linked], shared.col[linked]
    links = coo_array((np.ones(linked.sum()), edges), shared.shape)
    _, cluster = connected_components(links, directed=False)
    first_of: dict[int, str] = {}
    for name, number in zip(names, cluster.tolist(), strict=True):
        first_of.setdefault(number, name)
    by_name = {name: first_of[n] for name, n in zip(names, cluster.tolist(), strict=True)}
    ordered = sorted(first_of.values(), key=lambda name: hash_fraction(name, SEED))
    part = dict(zip(ordered, cycle(DEALT)))
    return [
        replace(record, group=by_name[record.group], part=part[by_name[record.group]])
        for record in records
    ]
