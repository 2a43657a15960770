"""Which open frames lie inside annotated coding sequences (CDS) of a GenBank file.

VirNucPro trains on the frames whose protein is part of an annotated protein. VirNuc compares
positions, not letters: a frame is coding if its codons are codons of one exon of a CDS. This also
holds for other genetic codes and alternative start codons.
"""

import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.SeqRecord import SeqRecord
from numpy.typing import NDArray

from virnuc_rules.arrays import Int
from virnuc_rules.errors import InputError, one_line
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.reading.streams import Source

_BLOCK = 1 << 20  # bytes
_Exons = tuple[Int, Int]  # sorted starts [E], and the maximum of the ends up to each [E]


class CodingSequences:
    """The exons of a record, by strand and by the phase of their codons in the record."""

    def __init__(self, record: SeqRecord) -> None:
        exons: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for feature in record.features:
            if feature.type == "CDS":
                if feature.location is None:
                    raise ValueError(f"{record.id}: a CDS has a location that cannot be read")
                skipped = int(feature.qualifiers.get("codon_start", ["1"])[0]) - 1
                for part in feature.location.parts:  # in the order of translation
                    start, end, strand = int(part.start), int(part.end), part.strand or 1
                    # A codon may begin in one exon and end in the next.
                    first = start + skipped if strand > 0 else end - skipped
                    if part.ref is None:  # not an exon of another record
                        exons[strand, first % 3].append((start, end))
                    skipped = (skipped - (end - start)) % 3
        self._exons = {key: _sorted(ranges) for key, ranges in exons.items()}

    def contain(self, strand: int, start: Int, end: Int) -> NDArray[np.bool_]:
        """Tell which of the frames [start, end) of a strand (1 or -1) are coding; bool [R]."""
        inside = np.zeros(len(start), bool)
        for (of_strand, phase), (starts, ends) in self._exons.items():
            if of_strand == strand:
                last = np.searchsorted(starts, start, "right") - 1
                covered = (last >= 0) & (ends[last] >= end)
                inside |= covered & ((start if strand > 0 else end) % 3 == phase)
        return inside


def _sorted(exons: list[tuple[int, int]]) -> _Exons:
    starts, ends = np.array(sorted(exons), np.int64).T
    return starts, np.maximum.accumulate(ends)


def read_genbank(path: Path) -> dict[str, CodingSequences]:
    """Return the CDS of each record of a GenBank file, plain or compressed.

    Keys are ids with version, and names without. Raises InputError where the file cannot be read
    or has no records.
    """
    records: dict[str, CodingSequences] = {}
    try:
        for record in _records(path):
            coding = CodingSequences(record)
            for name in (record.name, record.id):
                if name:
                    records[name] = coding
    except (OSError, ValueError, AssertionError) as error:  # Biopython asserts
        reason = getattr(error, "strerror", None) or one_line(error)
        problem = InputError(f"{path}: not a GenBank file ({reason})")
        raise environment_problem(error, path) or problem from None
    if not records:
        raise InputError(f"{path}: no records; give a GenBank file with features")
    return records


def _records(path: Path) -> Iterator[SeqRecord]:
    source = Source(path, lambda _: None)
    try:
        text = io.TextIOWrapper(io.BytesIO(b"".join(source.blocks(_BLOCK))), "utf-8", "replace")
        yield from SeqIO.parse(text, "genbank")
    finally:
        source.close()
