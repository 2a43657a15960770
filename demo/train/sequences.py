"""The sequences that the demo bundle is trained on, with their groups, from public packages.

`sources.tsv` lists the files: kind, organism (the group of a genome), part, package, path, sha256.
"""

import csv
import gzip
import hashlib
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from Bio import SeqIO
from Bio.SeqIO.FastaIO import SimpleFastaParser
from fetch import TABLE, folder_of

from virnuc_rules.files.atomic import file_sha256
from virnuc_rules.training.split import PARTS, Part, part_of

SEED = 1  # of the split: the default of `virnuc-rules train`
MIN_GENE = 300  # bases
CELLULAR_GENES = 0.24  # fraction of the genes of bacteria and archaea that is used, about 170,000
GENES_GAP = 20  # GeneIDs that are further apart are of different groups
# The same for accession numbers: of replicons, of transcripts (XM_, NM_), of scaffolds.
GAPS = {"NC_": 2, "NZ_CM": 2, "XM_": 1000, "NM_": 1000}
SCAFFOLDS_GAP = 20
ANNOTATED = {".gb": "genbank", ".gbk": "genbank", ".gbff": "genbank", ".embl": "embl"}

Kind = Literal["genes", "virus", "bacteria", "archaea", "eukaryote", "organelle"]


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence, upper case, with its group and part."""

    id: str
    bases: bytes
    group: str = ""
    part: Part = "train"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A row of `sources.tsv`."""

    kind: Kind
    organism: str
    part: Part | None  # None: by the hash of the group
    path: Path
    sha256: str
    only: str  # records whose title matches this expression; empty: all

    def records(self) -> Iterator[Record]:
        """Read the sequences; an id that the file has again gets a number.

        Raises SystemExit where the file is not the one that is meant.
        """
        if (found := file_sha256(self.path)) != self.sha256:
            raise SystemExit(f"{self.path}: has sha256 {found}, not {self.sha256}")
        times: Counter[str] = Counter()
        for title, bases in read_titled(self.path):
            name = title.split()[0]
            times[name] += 1
            if re.search(self.only, title):
                yield Record(name if times[name] == 1 else f"{name}_{times[name]}", bases)


def read_file(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read ids and sequences, as `read_titled`."""
    return ((title.split()[0], bases) for title, bases in read_titled(path))


def read_titled(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read titles and sequences of FASTA, GenBank, EMBL, or the FASTA part of GFF."""
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    kinds = set(path.suffixes)
    with opened(path, "rt") as handle:
        if annotated := kinds & set(ANNOTATED):
            for record in SeqIO.parse(handle, ANNOTATED[annotated.pop()]):
                yield f"{record.id} {record.description}", bytes(record.seq).upper()
            return
        if ".gff" in kinds:
            while not next(handle).startswith("##FASTA"):
                pass
        for title, bases in SimpleFastaParser(handle):
            yield title, bases.upper().encode()


def read_sources(folder: Path) -> list[SourceFile]:
    """Read `sources.tsv`; the files are in a folder for each package."""
    with TABLE.open(newline="") as handle:
        return [
            SourceFile(
                row["kind"], row["organism"], next((p for p in PARTS if p == row["part"]), None),
                folder / folder_of(row["package"]) / row["path"], row["sha256"], row["only"],
            )
            for row in csv.DictReader(handle, delimiter="\t")
        ]  # fmt: skip


def runs(numbers: Iterable[int], gap: int) -> dict[int, int]:
    """Map each integer to the first of its run: neighbours in a run are at most `gap` apart."""
    ordered = sorted(set(numbers))
    first = dict.fromkeys(ordered[:1], ordered[0])
    for before, after in pairwise(ordered):
        first[after] = first[before] if after - before <= gap else after
    return first


def genes(markers: SourceFile) -> tuple[list[Record], list[Record]]:
    """Read marker genes with groups, the cellular ones (some of them) also with parts.

    Those named by a GeneID are viral, those named by an accession and a place in it cellular.
    """
    viral, cellular = [], []
    for record in markers.records():
        if len(record.bases) < MIN_GENE:
            continue
        if record.id.startswith("GeneID"):
            viral.append(replace(record, id=record.id.replace(":", "_")))
        elif record.id.startswith("gi|"):
            cellular.append(replace(record, id=record.id.replace("|", "_")))
    grouped = group_cellular(cellular)
    chosen = [record for record in grouped if _is_chosen(record)]
    return group_viral(viral), by_hash(chosen)


def _is_chosen(record: Record) -> bool:
    """Choose all transcripts, and some of the genes of bacteria and archaea, by their names."""
    digest = hashlib.sha256(record.id.encode()).digest()
    is_transcript = re.search(r"_[XN]M_", record.id) is not None
    return is_transcript or int.from_bytes(digest[:8], "big") < CELLULAR_GENES * 2**64


def group_viral(records: list[Record]) -> list[Record]:
    """Group genes by runs of GeneIDs over all records: the genes of one virus, or of a few."""
    gene_id = {record.id: int(record.id.removeprefix("GeneID_")) for record in records}
    first = runs(gene_id.values(), GENES_GAP)
    return [replace(record, group=f"GeneID_{first[gene_id[record.id]]}") for record in records]


def group_cellular(records: list[Record]) -> list[Record]:
    """Group genes by genome, as far as accessions tell.

    That is the project of a draft genome (AYXT01000024: AYXT), else a run of close accessions. It
    is stricter than a group for each accession, since the scaffolds of one genome, and the
    transcripts of one eukaryote, have different accessions.
    """
    accession = {}
    for record in records:
        match = re.match(r"gi_\d+_[a-z]+_((?:[A-Z]{2}_)?[A-Z]*)(\d+)", record.id)
        if match is None:
            raise ValueError(f"{record.id}: no accession in the id")
        accession[record.id] = match[1], int(match[2])
    numbers: dict[str, set[int]] = {}
    for prefix, number in accession.values():
        numbers.setdefault(prefix, set()).add(number)
    first = {p: runs(found, GAPS.get(p, SCAFFOLDS_GAP)) for p, found in numbers.items()}

    def group(prefix: str, number: int) -> str:
        project = prefix.rpartition("_")[2]
        return project if len(project) == 4 else f"{prefix}{first[prefix][number]}"

    return [replace(record, group=group(*accession[record.id])) for record in records]


def genomes(sources: Iterable[SourceFile]) -> Iterator[Record]:
    """Read whole genomes; the group is the organism, of organelles the accession.

    The part of viruses is that of their group, which `clusters.py` replaces by the cluster.
    """
    for source in sources:
        for record in source.records():
            name = record.id.replace("|", "_")
            if source.kind == "organelle":
                group = re.sub(r"_\d+_\d+$", "", name)
            else:
                group, name = source.organism, f"{source.organism.replace(' ', '_')}:{name}"
            yield replace(record, id=name, group=group, part=source.part or part_of(group, SEED))


def by_hash(records: list[Record]) -> list[Record]:
    """Set the part of each record by the hash of its group's name."""
    return [replace(record, part=part_of(record.group, SEED)) for record in records]
