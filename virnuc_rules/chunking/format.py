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
from numpy.typing import NDArray

from virnuc_rules.chunking.manifest import ChunkEntry, Manifest
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError, one_line

REMEDY = "delete the sample's chunk folder and run again"
PARQUET = {"compression": "zstd", "write_page_checksum": True}
_LABEL = pa.dictionary(pa.int32(), pa.string())

CONTIG_SCHEMA = pa.schema(
    [
        ("contig_index", pa.int64()),  # 0-based, over all files: equal ids differ in it
        ("contig", pa.string()),  # id, as in the file
        ("length", pa.int64()),
        ("source", pa.int32()),  # index of the input file
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


def read_chunk(path: Path, entry: ChunkEntry) -> Chunk:
    """Read a chunk file and check it against its manifest entry (rows and sha256).

    Raises ChunkError for a file that is missing, damaged, or has other content.
    """
    with damage_named(path):
        table = pq.read_table(path, page_checksum_verification=True)
        if table.schema != CHUNK_SCHEMA:
            raise ChunkError(f"{path}: not a chunk file of this version; {REMEDY}")
        if (table.num_rows, content_hash(table)) != (entry.open_frames, entry.sha256):
            raise ChunkError(f"{path}: the content has changed since it was written; {REMEDY}")
    nucleotide, protein = table["nucleotide"].to_pylist(), table["protein"].to_pylist()
    return Chunk(frame_ids(table).to_pylist(), nucleotide, protein, table)


def read_table(path: Path) -> Iterator[pa.Table]:
    """Yield a table of a chunk folder in parts. Raises ChunkError if it is missing or damaged."""
    with damage_named(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches():
            yield pa.Table.from_batches([batch])


def contig_indices(folder: ChunkFolder, manifest: Manifest) -> NDArray[np.int64]:
    """Return the contig index of each window [W]. Raises ChunkError unless they are 0, 0, 1, ..."""
    parts = [part["contig_index"].to_numpy() for part in read_table(folder.windows)]
    indices: NDArray[np.int64] = np.concatenate([*parts, [manifest.contigs]])
    step = np.diff(indices, prepend=-1)
    if len(indices) != manifest.windows + 1 or np.any((step != 0) & (step != 1)) or step[-1] != 1:
        raise ChunkError(
            f"{folder.windows}: not the windows of the {manifest.contigs} contigs, one "
            f"contig after the other, {manifest.windows} rows; delete the folder and run again"
        )
    return indices[:-1]


def contig_lengths(folder: ChunkFolder, manifest: Manifest) -> NDArray[np.int64]:
    """Return the length of each contig [C]. Raises ChunkError if a contig is missing."""
    parts = list(read_table(folder.contigs))
    indices = np.concatenate([part["contig_index"].to_numpy() for part in parts])
    if not np.array_equal(indices, np.arange(manifest.contigs)):
        raise ChunkError(
            f"{folder.contigs}: not the {manifest.contigs} contigs of the manifest, in order; "
            "delete the folder and run again"
        )
    lengths: NDArray[np.int64] = np.concatenate([part["length"].to_numpy() for part in parts])
    return lengths


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn the errors of Arrow for a damaged file into a ChunkError."""
    try:
        yield
    except FileNotFoundError:
        raise ChunkError(f"{path}: no such file; {REMEDY}") from None
    except (OSError, IndexError, pa.ArrowException) as error:
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
