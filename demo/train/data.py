"""Prepare the labelled sequences that the demo bundle is trained on.

    python demo/train/data.py --source SOURCES --out DIR

Reads viral_genes.fa.gz, cellular_genes.fa.gz and cellular_genomes.fa.gz (README.md, beside this
file, says where they come from). Writes them, cleaned, to DIR with tables of their groups, and
`training.tsv`, the sheet for `virnuc-rules train` and for `train.py`.

Left out is every sequence that shares a 31-mer, on either strand, with a sequence of the demo; of
training and validation, also those that share one with the test part; of training, also those that
share one with the validation part. Genes are left out as a whole, of genomes only the shared bases.
"""

import argparse
import gzip
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.training.split import Part, part_of
from virnuc_rules.vocabulary import Label

SEED = 1  # of the split: the default of `virnuc-rules train`
K = 31
MIN_PIECE = 300  # bases of a piece of a genome
GENES_GAP = 20  # GeneIDs that are further apart are of different groups
SCAFFOLDS_GAP, TRANSCRIPTS_GAP = 50, 1000  # the same for accession numbers
DEMO = Path(__file__).resolve().parents[1] / "data"
# Five large genomes are too few to be split by hash: the test part needs a prokaryote and a
# eukaryote, the validation part a prokaryote. Mitochondria and plastids are split by hash.
ORGANISMS: dict[str, Part] = {
    "Fibroporia": "train",
    "human": "train",
    "Pging": "validation",
    "Methanobact": "test",
    "yeast": "test",
}

Keys = NDArray[np.uint64]
_CODE = np.full(256, 4, np.uint8)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = range(4)
_AMBIGUOUS = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True)
class Record:
    """One sequence, upper case, with its group and part."""

    id: str
    bases: bytes
    group: str = ""
    part: Part = "train"


def read(path: Path) -> list[Record]:
    """Read a FASTA file."""
    contigs = Sequences([path], path.name).contigs()
    return [Record(contig.id, contig.bases(0, contig.length).upper()) for contig in contigs]


def runs(ids: Iterable[int], gap: int) -> dict[int, int]:
    """Map each integer to the first of its run: neighbours in a run are at most `gap` apart."""
    ordered = sorted(set(ids))
    first = dict.fromkeys(ordered[:1], ordered[0])
    for before, after in pairwise(ordered):
        first[after] = first[before] if after - before <= gap else after
    return first


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
    first = {}
    for prefix in {prefix for prefix, _ in accession.values()}:
        gap = TRANSCRIPTS_GAP if prefix in ("XM_", "NM_") else SCAFFOLDS_GAP
        first[prefix] = runs((n for p, n in accession.values() if p == prefix), gap)

    def group(prefix: str, digits: int) -> str:
        project = prefix.rpartition("_")[2]
        return project if len(project) == 4 else f"{prefix}{first[prefix][digits]}"

    return [replace(record, group=group(*accession[record.id])) for record in records]


def group_genomes(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Group genomes by organism; return the large ones, with their part, and the organelles."""
    large, organelles = [], []
    for record in records:
        source = record.id.partition("_")[0]
        if source in ORGANISMS:
            large.append(replace(record, group=source, part=ORGANISMS[source]))
        else:
            accession = re.sub(r"_\d+_\d+$", "", record.id)
            organelles.append(replace(record, group=accession))
    return large, by_hash(organelles)


def by_hash(records: list[Record]) -> list[Record]:
    """Set the part of each record by the hash of its group's name."""
    return [replace(record, part=part_of(record.group, SEED)) for record in records]


def kmers(bases: bytes) -> Keys:
    """Return the K-mer at each base as an integer, the smaller of both strands; uint64 [n - K + 1].

    All bits are set where a base is not A, C, G or T.
    """
    code = _CODE[np.frombuffer(bases, np.uint8)]
    if len(code) < K:
        return np.empty(0, np.uint64)
    unknown = np.concatenate([[0], np.cumsum(code == 4)])
    forward = _packed(code & 3)
    reverse = _packed((3 - (code & 3))[::-1])[::-1]
    return np.where(unknown[K:] == unknown[:-K], np.minimum(forward, reverse), _AMBIGUOUS)


def _packed(code: NDArray[np.uint8]) -> Keys:
    """Return each K bases in two bits a base, built from words of 1, 2, 4, ... bases."""
    power, length, packed, done = code.astype(np.uint64), 1, np.zeros(len(code), np.uint64), 0
    while done < K:
        if K & length:
            packed = packed[: len(power) - done] << np.uint64(2 * length) | power[done:]
            done += length
        power = power[:-length] << np.uint64(2 * length) | power[length:]
        length *= 2
    return packed


def known(records: Iterable[Record]) -> Keys:
    """Return the sorted K-mers of records."""
    keys = np.unique(kmers(b"N".join(record.bases for record in records)))
    return keys[keys != _AMBIGUOUS]


def shared(record: Record, keys: Keys) -> NDArray[np.bool_]:
    """Return for each base of a record whether a K-mer in `keys` covers it; bool [n]."""
    own = kmers(record.bases)
    index = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
    change = np.zeros(len(record.bases) + 1, np.int64)
    begin = np.flatnonzero(keys[index] == own)
    np.add.at(change, begin, 1)
    np.add.at(change, begin + K, -1)
    return np.cumsum(change)[:-1] > 0


def without(records: list[Record], keys: Keys, name: str, *, cut: bool) -> list[Record]:
    """Leave out records that share a K-mer with `keys`, or only the shared bases if `cut`."""
    kept: list[Record] = []
    for record in records:
        covered = shared(record, keys)
        if not covered.any():
            kept.append(record)
        elif cut:
            kept.extend(_pieces(record, covered))
    before, after = (sum(len(record.bases) for record in some) for some in (records, kept))
    print(
        f"  {name}: {len(records):,} -> {len(kept):,} records, {before:,} -> {after:,} bases",
        flush=True,
    )
    return kept


def _pieces(record: Record, covered: NDArray[np.bool_]) -> Iterator[Record]:
    """Yield the pieces that are not covered; their id has start-end, 1-based and inclusive."""
    edges = np.flatnonzero(np.diff(covered, prepend=True, append=True))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - start >= MIN_PIECE:
            yield replace(
                record, id=f"{record.id}:{start + 1}-{end}", bases=record.bases[start:end]
            )


def separate(sources: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Leave out sequences of the demo, and sequences that two parts share."""

    def leave_out(keys: Keys, parts: tuple[Part, ...]) -> None:
        for name, records in sources.items():
            inside = [record for record in records if record.part in parts]
            outside = [record for record in records if record.part not in parts]
            cut = not name.endswith("genes")
            sources[name] = outside + without(inside, keys, f"{name}, {'+'.join(parts)}", cut=cut)

    def part(name: Part) -> Keys:
        return known(r for records in sources.values() for r in records if r.part == name)

    print("shared with the demo:")
    demo = [record for path in sorted(DEMO.glob("*.fa.gz")) for record in read(path)]
    leave_out(known(demo), ("train", "validation", "test"))
    print("shared with the test part:")
    leave_out(part("test"), ("train", "validation"))
    print("shared with the validation part:")
    leave_out(part("validation"), ("train",))
    return sources


def write(records: list[Record], folder: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.fa.gz and its table of groups; the same records give the same bytes."""
    fasta, groups = folder / f"{name}.fa.gz", folder / f"{name}.groups.tsv"
    text = "".join(f">{record.id}\n{record.bases.decode()}\n" for record in records)
    fasta.write_bytes(gzip.compress(text.encode(), 6, mtime=0))
    lines = [f"{record.id}\t{record.group}\n" for record in records]
    groups.write_text("id\tgroup\n" + "".join(lines))
    return fasta, groups


def main() -> None:
    """Group, split, separate, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    begin = time.monotonic()
    genomes, organelles = group_genomes(read(args.source / "cellular_genomes.fa.gz"))
    sources = separate(
        {
            "viral_genes": by_hash(group_viral(read(args.source / "viral_genes.fa.gz"))),
            "cellular_genes": by_hash(group_cellular(read(args.source / "cellular_genes.fa.gz"))),
            "genomes": genomes,
            "organelles": organelles,
        }
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rows = ["sample\tpath\tlabel\tgroups\tpart\n"]
    for name, records in sources.items():
        for part in ("train", "validation", "test") if name == "genomes" else ("",):
            written = [record for record in records if part in ("", record.part)]
            sample = f"{name}_{part}" if part else name
            fasta, groups = write(written, args.out, sample)
            label = Label.VIRUS if name.startswith("viral") else Label.NON_VIRAL
            rows.append(f"{sample}\t{fasta}\t{label}\t{groups}\t{part}\n")
        for part, count in sorted(Counter(record.part for record in records).items()):
            in_part = [record for record in records if record.part == part]
            bases, groups = sum(len(r.bases) for r in in_part), len({r.group for r in in_part})
            print(f"{name}, {part}: {count:,} records, {bases:,} bases, {groups:,} groups")
    (args.out / "training.tsv").write_text("".join(rows))
    print(f"{args.out / 'training.tsv'} written in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
