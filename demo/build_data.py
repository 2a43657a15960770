"""Build the demo's two mock metagenomes, `data/lake.fa.gz` and `data/gut.fa.gz`.

`data/labels.tsv` says which records are of viruses and which of cells, where that is known.

    python demo/build_data.py viruses.fa.gz jaeger_contigs.fa.gz cellular_genomes.fa.gz

The demo does not need this script: both files are in the repository. It documents how they were
made, and makes them again: the same input gives the same bytes.

The three inputs are gzipped FASTA files put together from public packages:

* viruses: genomes from Debian `gasic-examples` and from PyPI `pyrodigal-rv`, `pyrodigal-gv`,
  `sequana`, `pygenomeviz` (source distribution) and `lovis4u`;
* jaeger_contigs: the test contigs in PyPI `jaeger-bio`;
* cellular_genomes: pieces of genomes from the test data in PyPI `tiara` (named
  `..._ACCESSION_START_END`, 0-based, end exclusive), yeast from Debian `gbrowse-data`, human from
  Debian `plast-example`.

README.md, beside this file, lists for every record the file in its package and the licence.
"""

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WRAP = 80
PIECE = 15_000  # tiara's genomes are cut into records of this length, at multiples of it


class Record(NamedTuple):
    """One record of the demo: a whole record of the input, or a piece of one."""

    source: str  # id in the input file
    accession: str  # or the id that the package gives, where there is no accession
    organism: str
    start: int = 0  # in the accession, 0-based
    end: int | None = None  # exclusive; None for the whole record
    origin: int = 0  # start of the input record in the accession

    @property
    def id(self) -> str:
        """The id in the demo: pieces are ACCESSION:start-end, 1-based and inclusive."""
        return (
            self.accession if self.end is None else f"{self.accession}:{self.start + 1}-{self.end}"
        )


def contigs(*ids: str) -> tuple[Record, ...]:
    """Return records for jaeger's test contigs."""
    return tuple(Record(name, name, "unlabelled contig") for name in ids)


def flu(*accessions: str) -> tuple[Record, ...]:
    """Return records for segments of one influenza virus."""
    strain = "Influenza A virus (A/Korea/426/1968(H2N2))"
    return tuple(Record(name, name, strain) for name in accessions)


def tiara(
    source: str, accession: str, organism: str, *starts: int, length: int = PIECE
) -> tuple[Record, ...]:
    """Return pieces of a genome, each from the input record that holds its first base."""
    records = []
    for start in starts:
        origin = start - start % PIECE
        name = f"{source}_{accession}_{origin}_{origin + PIECE}"
        records.append(Record(name, accession, organism, start, start + length, origin))
    return tuple(records)


def pieces(
    source: str, accession: str, organism: str, *starts: int, length: int
) -> tuple[Record, ...]:
    """Return pieces of a sequence that is one record in the input."""
    return tuple(Record(source, accession, organism, at, at + length) for at in starts)


PGING = ("Pging_bacteria", "AE015924.1", "Porphyromonas gingivalis W83")
METHANO = ("Methanobact_archea", "HG425166.1", "Methanobacterium sp. MB1")
FIBRO = ("Fibroporia_eukarya", "NW_012133457.1", "Fibroporia radiculosa TFFH 294")
ACORUS = ("plastid_plastid", "NC_026299.1", "Acorus gramineus plastid")
ACTIAS = ("mito_mitochondria", "NC_018133.1", "Actias selene mitochondrion")
ACRIDA = ("mito_mitochondria", "NC_014887.1", "Acrida cinerea mitochondrion")
YEAST_I = ("yeast_chrI", "chrI", "Saccharomyces cerevisiae")
YEAST_II = ("yeast_chrII", "chrII", "Saccharomyces cerevisiae")
HUMAN_2 = ("human_gi_298880536_tpg_GJ063651.1_", "GJ063651.1", "Homo sapiens unplaced scaffold")
HUMAN_5 = ("human_gi_298880533_tpg_GJ063654.1_", "GJ063654.1", "Homo sapiens unplaced scaffold")
PHIX = "gi_9626372_dbj_NC_001422.1_phiX174_no_SNPs_True_Reference"
TOPAZ = "baboon_AMB_003_scaffold_97232"

SAMPLES = {
    "lake": (
        *contigs("NODE_94_length_44776_cov_27.159388", "NODE_149_length_32942_cov_23.754006"),
        *contigs("NODE_262_length_22786_cov_22.465664", "NODE_1181_length_9275_cov_26.864425"),
        *tiara(*METHANO, 300_000, 600_000, 900_000, 1_200_000, 1_500_000, 1_650_000),
        *tiara(*PGING, 150_000, 450_000, 900_000, 1_350_000, 1_650_000, 1_950_000),
        *tiara(*FIBRO, 45_000, 195_000),
        *tiara(*ACORUS, 45_000, length=10_000),
        *tiara(*ACTIAS, 0, length=8_000),
        *pieces(*YEAST_II, 100_000, 200_000, 300_000, 500_000, 600_000, 700_000, length=20_000),
        Record("DWV_gi_71480055_ref_NC_004830.2_", "NC_004830.2", "Deformed wing virus"),
        Record("OR159227.1", "OR159227.1", "Cannabis sativa mitovirus 1 isolate UdeA2"),
        *flu("NC_007378.1", "NC_007375.1", "NC_007376.1", "NC_007374.1"),
        *flu("NC_007381.1", "NC_007382.1", "NC_007377.1", "NC_007380.1"),
    ),
    "gut": (
        *contigs("NODE_123_length_36569_cov_24.228077", "NODE_231_length_24276_cov_21.832294"),
        *contigs("NODE_352_length_18932_cov_19.104201", "NODE_531_length_15071_cov_24.013386"),
        *contigs("NODE_1109_length_9622_cov_23.163061"),
        *tiara(*PGING, 0, 300_000, 600_000, 750_000, 1_050_000, 1_200_000, 1_500_000),
        *tiara(*PGING, 1_800_000, 2_100_000, 2_250_000),
        *tiara(*METHANO, 450_000, 1_050_000),
        *tiara(*ACRIDA, 5_000, length=8_000),
        *pieces(*YEAST_I, 40_000, 100_000, 160_000, length=20_000),
        *pieces(*HUMAN_2, 2_000, length=8_000),
        *pieces(*HUMAN_5, 2_000, length=8_000),
        Record(TOPAZ, TOPAZ, "Phage Topaz"),
        Record("RefSeq_NC_028943.1", "NC_028943.1", "Escherichia phage pro483"),
        Record(PHIX, "NC_001422.1", "Escherichia phage phiX174"),
        Record("ENA_K01711_K01711.1", "K01711.1", "Measles virus (strain Edmonston)"),
    ),
}


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, sequence) of the records of a gzipped FASTA file."""
    for record in gzip.decompress(path.read_bytes()).decode("ascii").split(">")[1:]:
        header, _, lines = record.partition("\n")
        yield header.split()[0], lines.replace("\n", "")


def sequence(record: Record, source: str) -> str:
    """Return the bases of a record. Raises ValueError for a piece beyond the input record."""
    if record.end is None:
        return source
    start, end = record.start - record.origin, record.end - record.origin
    if not 0 <= start < end <= len(source):
        raise ValueError(f"{record.id}: not inside {record.source} ({len(source)} bases)")
    return source[start:end]


def fasta(record: Record, source: str) -> str:
    """Format a record as FASTA, with the organism as its description."""
    bases = sequence(record, source)
    lines = [bases[at : at + WRAP] for at in range(0, len(bases), WRAP)]
    return "\n".join([f">{record.id} {record.organism}", *lines, ""])


def main() -> None:
    """Write both files and the table of labels; the gzip files hold no time and no name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs=3, metavar="FASTA_GZ")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    args = parser.parse_args()

    label_of = dict(zip(args.sources, ("virus", "", "non_viral"), strict=True))
    sources, labels = {}, {}
    for path, label in label_of.items():
        for name, bases in read_fasta(path):
            sources[name], labels[name] = bases, label
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{record.id}\t{labels[record.source]}\n"
        for records in SAMPLES.values()
        for record in records
        if labels[record.source]
    ]
    (args.out / "labels.tsv").write_text("id\tlabel\n" + "".join(rows))
    for sample, records in SAMPLES.items():
        text = "".join(fasta(record, sources[record.source]) for record in records)
        path = args.out / f"{sample}.fa.gz"
        with (
            path.open("wb") as handle,
            gzip.GzipFile("", "wb", compresslevel=9, fileobj=handle, mtime=0) as out,
        ):
            out.write(text.encode("ascii"))
        print(f"{path}: {len(records)} records, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
