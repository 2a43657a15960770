"""Prepare the labelled sequences that the demo bundle is trained on.

    python demo/train/data.py --source SOURCES --out DIR

SOURCES is the folder that `fetch.py` fills. Writes to DIR a FASTA file and a table of groups for
each kind of sequences, and `training.tsv`, the sheet for `virnuc-rules train` and for `train.py`.

Left out are, in this order: what in cells is like viruses (`prophages.py`); of each genome all but
GENOME bases, in pieces; every sequence that shares a 31-mer, on either strand, with a sequence of
the demo; of training and validation, also those that share one with the test part or with any base
of its genomes of cells; of training, the same with the validation part. Genes are left out as a
whole, of genomes only the shared bases.
"""

import argparse
import gzip
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
from clusters import clustered
from kmers import Known
from numpy.typing import NDArray
from prophages import like_viruses, viral_words, without_prophages
from sequences import SEED, Record, SourceFile, genes, genomes, read_sources
from species import with_species

from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.training.split import Part, part_of
from virnuc_rules.vocabulary import Label

DEMO = Path(__file__).resolve().parents[1] / "data"
MIN_PIECE = 300  # bases of a piece of a genome
GENOME = {"train": 2_000_000, "validation": 2_000_000, "test": 3_000_000}  # bases of one, at most
# Genomes are cut to pieces like contigs: of these lengths, one after the other.
LENGTHS: dict[Part, tuple[int, ...]] = {
    "train": (25_000,), "validation": (25_000,), "test": (2_000, 4_000, 9_000, 15_000),
}  # fmt: skip
CELLS = ("prokaryotes", "eukaryotes", "organelles")
SAMPLE = {  # of each kind of genome
    "virus": "viral_genomes", "bacteria": "prokaryotes", "archaea": "prokaryotes",
    "eukaryote": "eukaryotes", "organelle": "organelles",
}  # fmt: skip
Samples = dict[str, list[Record]]


def read_all(sources: list[SourceFile]) -> tuple[Samples, list[Record]]:
    """Read all sequences, without what in cells is like viruses.

    Also return the whole genomes of cells that are not for training.
    """
    (markers,) = (source for source in sources if source.kind == "genes")
    viral, cellular = genes(markers)
    samples: Samples = {"viral_genes": viral, "cellular_genes": cellular, "viral_genomes": []}
    for name in CELLS:
        samples[name] = []
    for source in sources:
        if source is not markers:
            samples[SAMPLE[source.kind]] += genomes([source])
    whole = samples["prokaryotes"] + samples["eukaryotes"]
    cellular = with_species(cellular, [r for r in whole if not r.group.startswith("plasmids")])
    samples["viral_genomes"], samples["viral_genes"] = clustered(samples["viral_genomes"], viral)
    words = viral_words([*viral, *samples["viral_genomes"]])
    print("like viruses:")
    like = like_viruses(cellular, words)
    kept = [record for record, is_like in zip(cellular, like, strict=True) if not is_like]
    samples["cellular_genes"] = told("cellular_genes", cellular, kept)
    bacteria = samples["prokaryotes"]
    samples["prokaryotes"] = told("prokaryotes", bacteria, [*without_prophages(bacteria, words)])
    for name in SAMPLE.values():
        samples[name] = [*cut(samples[name])] if name != "organelles" else samples[name]
    return samples, [record for record in whole if record.part != "train"]


def told(name: str, before: list[Record], after: list[Record]) -> list[Record]:
    """Print how much of some records is left; return it."""
    counts = (
        f"{len(some):,} records, {sum(len(r.bases) for r in some):,} bases"
        for some in (before, after)
    )
    print(f"  {name}: {' -> '.join(counts)}", flush=True)
    return after


def cut(records: list[Record]) -> Iterator[Record]:
    """Cut genomes to pieces; of a large genome, yield evenly spaced ones of GENOME bases in all."""
    by_group: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_group[record.group].append(record)
    for whole in by_group.values():
        part = whole[0].part
        lengths, pieces = cycle(LENGTHS[part]), list[Record]()
        for record in whole:
            end = 0
            while end < len(record.bases):
                start, end = end, end + next(lengths)
                piece = record.bases[start:end]
                name = f"{record.id}:{start + 1}-{start + len(piece)}"
                pieces.append(replace(record, id=name, bases=piece))
        every = max(1.0, sum(len(p.bases) for p in pieces) / GENOME[part])
        for index in np.unique((np.arange(len(pieces) / every) * every).astype(int)).tolist():
            if len(pieces[index].bases) >= MIN_PIECE:
                yield pieces[index]


def without(records: list[Record], known: Known, name: str, *, cut: bool) -> list[Record]:
    """Leave out records that share a known K-mer, or only the shared bases if `cut`."""
    kept: list[Record] = []
    for record in records:
        covered = known.cover(record.bases)
        if not covered.any():
            kept.append(record)
        elif cut:
            kept.extend(_pieces(record, covered))
    return told(name, records, kept)


def _pieces(record: Record, covered: NDArray[np.bool_]) -> Iterator[Record]:
    """Yield the pieces that are not covered; their id has start-end, 1-based and inclusive."""
    edges = np.flatnonzero(np.diff(covered, prepend=True, append=True))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - start >= MIN_PIECE:
            yield replace(
                record, id=f"{record.id}:{start + 1}-{end}", bases=record.bases[start:end]
            )


def separate(samples: Samples, whole: list[Record]) -> None:
    """Leave out sequences of the demo, and what another part has, or a whole genome of it."""

    def leave_out(known: Known, parts: tuple[Part, ...]) -> None:
        for name, records in samples.items():
            inside = [record for record in records if record.part in parts]
            outside = [record for record in records if record.part not in parts]
            cut = not name.endswith("genes")
            samples[name] = outside + without(inside, known, f"{name}, {'+'.join(parts)}", cut=cut)

    def part(name: Part) -> Known:
        used = (record for records in samples.values() for record in records)
        return Known.of(record.bases for record in [*used, *whole] if record.part == name)

    print("shared with the demo:")
    demo = [Sequences([path], path.name).contigs() for path in sorted(DEMO.glob("*.fa.gz"))]
    bases = (contig.bases(0, contig.length).upper() for contigs in demo for contig in contigs)
    leave_out(Known.of(bases), ("train", "validation", "test"))
    print("shared with the test part:")
    leave_out(part("test"), ("train", "validation"))
    print("shared with the validation part:")
    leave_out(part("validation"), ("train",))


def write(records: list[Record], folder: Path, name: str) -> tuple[Path, Path]:
    """Write `name`.fa.gz and its table of groups; the same records give the same bytes.

    Raises SystemExit for an id that two records have: `virnuc-rules train` would refuse it.
    """
    if repeated := [id_ for id_, n in Counter(record.id for record in records).items() if n > 1]:
        raise SystemExit(f"{name}: {len(repeated)} ids that two records have, as {repeated[0]}")
    fasta, groups = folder / f"{name}.fa.gz", folder / f"{name}.groups.tsv"
    text = "".join(f">{record.id}\n{record.bases.decode()}\n" for record in records)
    fasta.write_bytes(gzip.compress(text.encode(), 6, mtime=0))
    lines = [f"{record.id}\t{record.group}\n" for record in records]
    groups.write_text("id\tgroup\n" + "".join(lines))
    return fasta, groups


def write_all(samples: Samples, folder: Path) -> Path:
    """Write all samples and the sheet; genomes in a file for each part."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["sample\tpath\tlabel\tgroups\tpart\n"]
    # In the file of genes no part is written: it is that of the genomes of the group, or its hash.
    given = {
        record.group: record.part
        for name, records in samples.items()
        if not name.endswith("genes")
        for record in records
    }
    for name, records in samples.items():
        for record in records:
            if record.part != given.get(record.group, part_of(record.group, SEED)):
                raise SystemExit(f"{name}: {record.id} would not be in the {record.part} part")
        by_part = {part: [r for r in records if r.part == part] for part in LENGTHS}
        label = Label.VIRUS if name.startswith("viral") else Label.NON_VIRAL
        files = {"": records} if name.endswith("genes") else by_part
        for part, written in files.items():
            if written:
                sample = f"{name}_{part}" if part else name
                fasta, groups = write(written, folder, sample)
                rows.append(f"{sample}\t{fasta}\t{label}\t{groups}\t{part}\n")
        for part, some in by_part.items():
            groups = Counter(record.group for record in some)
            bases = sum(len(record.bases) for record in some)
            print(f"{name}, {part}: {len(some):,} records, {bases:,} bases, {len(groups):,} groups")
    sheet = folder / "training.tsv"
    sheet.write_text("".join(rows))
    return sheet


def main() -> None:
    """Read, leave out, split, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the packages")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    begin = time.monotonic()
    samples, whole = read_all(read_sources(args.source))
    separate(samples, whole)
    sheet = write_all(samples, args.out)
    print(f"{sheet} written in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
