"""Marker genes of the species whose genomes are used: they belong to the group of the genome.

Marker genes carry no names of species. A gene is of the species of a genome if a fifth of its words
of 31 bases are in it: as many as two sequences with 95 % of equal bases share (0.95**31 = 0.20),
the usual boundary of a species (Konstantinidis & Tiedje, PNAS 102, 2005). Then all genes of its
group, which are of one genome as far as accessions tell, are.
"""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from kmers import Keys, kmers, sampled
from sequences import Record

SHARED = 0.2
MIN_WORDS = 10  # sampled words of a gene that is compared


def with_species(genes: list[Record], genomes: list[Record]) -> list[Record]:
    """Give genes of a genome's species the group and the part of the genome; print how many."""
    part = {record.group: record.part for record in genomes}
    organisms = list(part)
    words, organism = _words(genomes, organisms)
    shared: dict[str, Counter[str]] = defaultdict(Counter)
    for gene in genes:
        own = np.unique(sampled(kmers(gene.bases)))
        at = np.minimum(np.searchsorted(words, own), len(words) - 1)
        counts = np.bincount(organism[at[words[at] == own]], minlength=len(organisms))
        best = int(np.argmax(counts))
        if len(own) >= MIN_WORDS and counts[best] >= SHARED * len(own):
            shared[gene.group][organisms[best]] += int(counts[best])
    species = {group: counts.most_common(1)[0][0] for group, counts in shared.items()}
    found = Counter(species[gene.group] for gene in genes if gene.group in species)
    print(f"of the species of a genome: {found.total():,} cellular genes of {len(species)} groups:")
    print("  " + ", ".join(f"{name} {number:,}" for name, number in sorted(found.items())))
    return [
        replace(gene, group=species[gene.group], part=part[species[gene.group]])
        if gene.group in species
        else gene
        for gene in genes
    ]


def _words(genomes: list[Record], organisms: list[str]) -> tuple[Keys, np.ndarray]:
    """Return sampled words of genomes, sorted, and the index of an organism with each."""
    of_each = [sampled(kmers(record.bases)) for record in genomes]
    index = np.repeat([organisms.index(record.group) for record in genomes], [*map(len, of_each)])
    words, first = np.unique(np.concatenate(of_each), return_index=True)
    return words, index[first]
