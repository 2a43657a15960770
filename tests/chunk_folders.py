"""Writing chunk folders and reading them back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from Bio import SeqIO

from virnuc_rules.chunking.format import CHUNK_SCHEMA, Chunk, read_chunk
from virnuc_rules.chunking.manifest import Manifest, read_manifest
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.reading.fastx import Sequences

DATA = Path(__file__).parent / "data"
UPSTREAM = DATA / "upstream"
SOURCE = UPSTREAM / "input.fa"
VANILLA = DATA / "vanilla_real"


def chunk_it(
    source: Path | Sequence[Path],
    out: Path,
    window: int = 300,
    chunk_size: int = 100,
    **more: Any,
) -> Manifest:
    sources = [source] if isinstance(source, Path) else source
    settings = {key: more.pop(key) for key in list(more) if key in Chunking.model_fields}
    chunking = Chunking(window=window, chunk_size=chunk_size, **settings)
    return write_chunks(sources, out, chunking, sample="lake", **more)


def manifest_of(folder: Path) -> Manifest:
    return read_manifest(ChunkFolder(folder))


def read_all(folder: Path) -> list[Chunk]:
    """Every chunk of a folder, checked, in order."""
    return [read_chunk(folder / entry.file, entry) for entry in manifest_of(folder).chunks]


def sequences(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(id, nucleotides) and (id, protein) of all open frames, in order."""
    read = read_all(folder)
    return (
        [pair for chunk in read for pair in zip(chunk.ids, chunk.nucleotide, strict=True)],
        [pair for chunk in read for pair in zip(chunk.ids, chunk.protein, strict=True)],
    )


def fasta_pairs(path: Path) -> list[tuple[str, str]]:
    return [(record.id, str(record.seq)) for record in SeqIO.parse(path, "fasta")]


def windows_of(folder: Path) -> pa.Table:
    return pq.read_table(ChunkFolder(folder).windows, page_checksum_verification=True)


def contigs_of(folder: Path) -> pa.Table:
    return pq.read_table(ChunkFolder(folder).contigs, page_checksum_verification=True)


def frames_of(folder: Path) -> pa.Table:
    return pa.concat_tables([CHUNK_SCHEMA.empty_table(), *(c.table for c in read_all(folder))])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in records.items()))
    return path


def some_contigs(path: Path, source: Path, places: slice) -> Path:
    """Write some contigs of a file."""
    contigs = list(Sequences([source], "it").contigs())[places]
    return write_fasta(path, {c.id: c.bases(0, c.length).decode() for c in contigs})
