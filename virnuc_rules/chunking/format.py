"""The files of a chunk folder, and functions that read and check them.

manifest.json       written last: all files with counts and hashes
contigs.parquet     a row for every contig, in input order
windows.parquet     a row for every window, with its reason where it has no open frame
bases.parquet       the bases of all contigs; see `chunking.bases`
chunk_000000.parquet, ...   the open frames, in input order, `chunk_size` a file
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc_rules.arrays import Int
from virnuc_rules.chunking.manifest import ChunkEntry, Manifest
from virnuc_rules.chunking.windows import count
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError, one_line
from virnuc_rules.files.environment import environment_named, open_regular, patient, read_regular

REMEDY = "delete the sample's chunk folder and run again"
PARQUET = {"compression": "zstd", "write_page_checksum": True}
_LABEL = pa.dictionary(pa.int32(), pa.string())

CONTIG_SCHEMA = pa.schema(
    [
        ("contig_index", pa.int64()),  # 0-based, over all files: equal ids differ in it
        ("contig", pa.string()),  # id, as in the file
        ("length", pa.int64()),
        ("source", pa.int32()),  # index of the input file
        ("terminal_repeat", pa.string()),  # a TerminalRepeat; null: none
    ]
)
CHUNK_SCHEMA = pa.schema(
    [
        ("window_row", pa.int64()),  # row of the window in windows.parquet
        ("contig", _LABEL),  # id of the contig
        ("window", pa.int32()),  # 1-based number of the window in the contig
        ("frame", _LABEL),  # a Frame
        ("start", pa.int64()),  # codons in the contig: first base, 0-based
        ("end", pa.int64()),  # base after the last codon
        ("nucleotide", pa.string()),
        ("protein", pa.string()),
    ]
)
WINDOW_SCHEMA = pa.schema(
    [
        ("contig_index", pa.int64()),  # row of the contig in contigs.parquet
        ("contig", _LABEL),
        ("window", pa.int32()),
        ("start", pa.int64()),  # in the contig, 0-based
        ("end", pa.int64()),  # exclusive
        ("unambiguous", pa.int32()),  # bases that are A C G T U, upper or lower case
        ("open_frames", pa.int32()),
        ("reason", _LABEL),  # a Reason; null where there is an open frame
    ]
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """R open frames with their sequences; `ids` are upstream's names."""

    ids: list[str]
    nucleotide: list[str]
    protein: list[str]
    table: pa.Table  # the columns of CHUNK_SCHEMA


@patient
def read_chunk(path: Path, entry: ChunkEntry) -> Chunk:
    """Read a chunk file and check it against its manifest entry (rows and sha256).

    Raises ChunkError for a file that is missing, damaged, or has other content, and
    EnvironmentProblem for one that cannot be read.
    """
    with damage_named(path):
        content = pa.BufferReader(read_regular(path))
        table = pq.ParquetFile(content, page_checksum_verification=True).read()
        if table.schema != CHUNK_SCHEMA:
            raise ChunkError(f"{path}: not a chunk file of this version; {REMEDY}")
        if (table.num_rows, content_hash(table)) != (entry.open_frames, entry.sha256):
            raise ChunkError(f"{path}: the content has changed since it was written; {REMEDY}")
    nucleotide, protein = table["nucleotide"].to_pylist(), table["protein"].to_pylist()
    return Chunk(frame_ids(table).to_pylist(), nucleotide, protein, table)


def read_table(path: Path) -> Iterator[pa.Table]:
    """Yield a table of a chunk folder in parts.

    Raises ChunkError if it is missing or damaged, EnvironmentProblem if it cannot be read.
    """
    with damage_named(path), open_regular(path) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        folder = ChunkFolder(path.parent)
        schemas = {folder.contigs: CONTIG_SCHEMA, folder.windows: WINDOW_SCHEMA}
        if parquet.schema_arrow != schemas.get(path, parquet.schema_arrow):
            raise ChunkError(f"{path}: not a table of this version; {REMEDY}")
        for batch in parquet.iter_batches():
            yield pa.Table.from_batches([batch])


@patient
def read_columns(path: Path, *names: str) -> list[Int]:
    """Return columns of integers of a table as `read_table` reads it, each [all rows]."""
    parts = [[part[name].to_numpy() for name in names] for part in read_table(path)]
    none = [[np.zeros(0, np.int64)] * len(names)]
    return [np.concatenate(column) for column in zip(*none, *parts, strict=True)]


def contig_lengths(folder: ChunkFolder, manifest: Manifest) -> Int:
    """Return the length of each contig [C]. Raises ChunkError if a contig is missing."""
    indices, lengths = read_columns(folder.contigs, "contig_index", "length")
    in_order = np.array_equal(indices, np.arange(manifest.contigs))
    if not in_order or lengths.sum() != manifest.bases:
        raise ChunkError(
            f"{folder.contigs}: not the {manifest.contigs} contigs of the manifest, in order; "
            "delete the folder and run again"
        )
    return lengths


def contig_indices(folder: ChunkFolder, manifest: Manifest, lengths: Int) -> Int:
    """Return the contig index of each window [W]; an empty contig has no window.

    Raises ChunkError unless contigs of these lengths [C] have these windows, one after the other.
    """
    (indices,) = read_columns(folder.windows, "contig_index")
    expected: Int = np.repeat(np.arange(len(lengths)), count(lengths, manifest.chunking.window))
    if len(expected) != manifest.windows or not np.array_equal(indices, expected):
        raise ChunkError(
            f"{folder.windows}: not the windows of the {manifest.contigs} contigs, one "
            f"contig after the other, {manifest.windows} rows; delete the folder and run again"
        )
    return expected


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into a ChunkError, or an EnvironmentProblem."""
    try:
        with environment_named(path):
            yield
    except (FileNotFoundError, NotADirectoryError):
        raise ChunkError(f"{path}: no such file; {REMEDY}") from None
    except (OSError, IndexError, ValueError, pa.ArrowException) as error:
        raise ChunkError(f"{path}: the file is damaged ({one_line(error)}); {REMEDY}") from None


def window_ids(table: pa.Table) -> pa.ChunkedArray:
    """Return upstream's names of windows, `<contig>_chunk_<number>`, of a chunk or window table."""
    contig, window = table["contig"].cast(pa.string()), table["window"].cast(pa.string())
    return pc.binary_join_element_wise(contig, window, "_chunk_")


def frame_ids(table: pa.Table) -> pa.ChunkedArray:
    """Return upstream's names of open frames, `<contig>_chunk_<number><frame>`."""
    return pc.binary_join_element_wise(window_ids(table), table["frame"].cast(pa.string()), "")


def content_hash(table: pa.Table) -> str:
    """Hash the rows of a chunk: tab-separated lines of id, sequences and positions, in order."""
    row, start, end = (table[name].cast(pa.string()) for name in ("window_row", "start", "end"))
    end_of_line = pc.binary_join_element_wise(end, "", "\n")
    lines = pc.binary_join_element_wise(
        frame_ids(table), table["nucleotide"], table["protein"], row, start, end_of_line, "\t"
    )
    digest = hashlib.sha256()
    for rows in lines.chunks:
        digest.update(rows.buffers()[2] or b"")  # the texts, end to end
    return digest.hexdigest()
