"""The viral contigs and the viral regions of a sample as FASTA."""

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from virnuc_rules.chunking.bases import Bases
from virnuc_rules.config.run_folder import ChunkFolder, SampleFolder
from virnuc_rules.files.gzip import Gzip
from virnuc_rules.vocabulary import Call

_LINE = 60  # bases
_BLOCK = _LINE << 14  # bases that are written at a time
_COLUMNS = (
    "contig_index", "contig", "length", "probability", "margin", "windows", "viral_windows", "call",
)  # fmt: skip


def write_viral(folder: SampleFolder, chunks: ChunkFolder, total: int) -> None:
    """Write the contigs that the tables in `folder` call virus, and the regions, as FASTA.

    The bases are those that `chunk` kept, `total` in all contigs. Raises ChunkError where they are
    missing or damaged.
    """
    regions = pq.read_table(folder.parquet("regions"))
    of_contig = regions["contig_index"].to_numpy()
    with (
        _fasta(folder.viral_fasta) as contig_fasta,
        _fasta(folder.region_fasta) as region_fasta,
        contextlib.closing(Bases(chunks, total)) as bases,
    ):
        for contigs in _contigs(folder.parquet("contigs")):
            for row in contigs.filter(pc.equal(contigs["call"], Call.VIRUS)).to_pylist():
                _write(contig_fasta, _of_contig(row), bases, row["first"], row["length"])
            first, index = contigs["first"].to_numpy(), contigs["contig_index"].to_numpy()
            begin = int(np.searchsorted(of_contig, index[0]))
            end = int(np.searchsorted(of_contig, index[-1], "right"))
            for number, row in enumerate(regions.slice(begin, end - begin).to_pylist(), begin + 1):
                at = first[row["contig_index"] - index[0]] + row["start"]
                header = _of_region(row, number)
                _write(region_fasta, header, bases, int(at), row["end"] - row["start"])


def _fasta(path: Path) -> Gzip:
    # DNA has few repeats: without searching for them the file is as small, and written faster.
    return Gzip(path, strategy=zlib.Z_HUFFMAN_ONLY)


def _contigs(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of contigs, with `first`: where in the sample their bases begin."""
    first = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(_COLUMNS)):
            length = batch["length"].to_numpy()
            ends = first + np.cumsum(length)
            yield batch.append_column("first", pa.array(ends - length))
            first = int(ends[-1])


def _of_contig(row: dict[str, Any]) -> str:
    by = "margin" if row["probability"] is None else "probability"
    return (
        f"{row['contig']} virus {by}={row[by]:.3f} "
        f"windows={row['viral_windows']}/{row['windows']} length={row['length']}"
    )


def _of_region(row: dict[str, Any], number: int) -> str:
    """Return the header of a region: its place as of samtools, 1-based, and its name in tracks."""
    return (
        f"{row['contig']}:{row['start'] + 1}-{row['end']} viral_region_{number} "
        f"posterior={row['posterior']:.3f} evidence={row['evidence']:.2f} "
        f"windows={row['windows']} length={row['end'] - row['start']}"
    )


def _write(out: Gzip, header: str, bases: Bases, first: int, length: int) -> None:
    out.write(f">{header}\n".encode())
    for start in range(first, first + length, _BLOCK):
        block = bases.read(start, min(start + _BLOCK, first + length))
        lines = (block[at : at + _LINE] for at in range(0, len(block), _LINE))
        out.write(b"\n".join(lines) + b"\n")
