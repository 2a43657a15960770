"""Which labelled sequences are homologs of sequences that a classifier was trained on.

A classifier that has seen a gene of one virus recognizes the same gene of its relatives, which are
in other groups. So measures are also given for sequences that share less than a tenth of their
words of eight residues with the training data.
"""

from dataclasses import replace

import numpy as np

from virnuc_rules.arrays import Int
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.training.labelled import Labelled
from virnuc_rules.training.split import PARTS
from virnuc_rules.training.words import NO_WORDS, Words, is_homolog, read_words, sampled_fraction


def with_homologs(settings: LabelledSettings, labelled: Labelled, parts: set[str]) -> Labelled:
    """Mark the contigs of each sample that have homologs in the parts; not those in them.

    Raises what reading a chunk raises.
    """
    codes = [PARTS.index(part) for part in PARTS if part in parts]
    fraction = sampled_fraction([sample.manifest for sample in labelled.samples])
    known, others = [NO_WORDS], list[tuple[Words, Int]]()
    for sample in labelled.samples:
        is_known = np.isin(sample.part, codes)
        rest = [(NO_WORDS, np.zeros(0, np.int64))]
        for word, window in read_words(settings, sample.name, fraction):
            contig = sample.window_contig[window]
            known.append(np.unique(word[is_known[contig]]))
            rest.append((word[~is_known[contig]], contig[~is_known[contig]]))
        others.append((np.concatenate([w for w, _ in rest]), np.concatenate([c for _, c in rest])))
    sorted_words = np.unique(np.concatenate(known))
    samples = [
        replace(sample, homolog=is_homolog(*own, len(sample.part), sorted_words))
        for sample, own in zip(labelled.samples, others, strict=True)
    ]
    return replace(labelled, samples=samples)
