"""Viral sequences that are homologs get one group, so that whole clusters are in one part."""

from collections import Counter
from dataclasses import replace
from itertools import cycle

import numpy as np
from prophages import translated
from sequences import SEED, Record

from virnuc_rules.training.split import Part, hash_fraction, part_of
from virnuc_rules.training.words import clusters as linked

# To clusters with genomes, in the order of their hash: so few might leave a part without any.
DEALT: tuple[Part, ...] = ("test", "validation", "train", "train")


def clusters(records: list[Record]) -> dict[str, str]:
    """Map each group to the first group of its cluster.

    What is linked: `virnuc_rules.training.words.clusters`.
    """
    names = list(dict.fromkeys(record.group for record in records))
    index = {name: number for number, name in enumerate(names)}
    pairs, first = [], 0
    for word, _, contig, count, _ in translated(records):
        group = np.array([index[r.group] for r in records[first : first + count]])
        pairs.append(np.stack([group[contig].astype(np.uint64), word]))
        first += count
    group, word = np.concatenate(pairs, axis=1)
    cluster = linked(word, group.astype(np.int64), len(names))
    return {name: names[first] for name, first in zip(names, cluster.tolist(), strict=True)}


def clustered(genomes: list[Record], genes: list[Record]) -> tuple[list[Record], list[Record]]:
    """Give viral genomes and genes the group and the part of their cluster.

    The largest cluster is in the train part, the others that have genomes are dealt out, and those
    of genes alone are in the part of their hash.
    """
    cluster = clusters([*genomes, *genes])
    bases: Counter[str] = Counter()
    for record in [*genomes, *genes]:
        bases[cluster[record.group]] += len(record.bases)
    with_genomes = {cluster[record.group] for record in genomes}
    dealt = sorted(with_genomes, key=lambda name: hash_fraction(name, SEED))
    part = {name: part_of(name, SEED) for name in bases} | dict(zip(dealt, cycle(DEALT)))
    largest, size = bases.most_common(1)[0]
    part[largest] = "train"
    print(f"viral sequences: {len(cluster):,} groups -> {len(bases):,} clusters, "
          f"the largest of {size:,} bases")  # fmt: skip

    def assigned(records: list[Record]) -> list[Record]:
        names = [cluster[record.group] for record in records]
        return [
            replace(record, group=name, part=part[name])
            for record, name in zip(records, names, strict=True)
        ]

    return assigned(genomes), assigned(genes)
