"""The viral contigs of a sample as FASTA."""

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
_COLUMNS = ("contig", "length", "windows", "viral_windows", "viral_fraction", "score_viral", "call")


def write_viral(folder: SampleFolder, chunks: ChunkFolder, total: int) -> None:
    """Write the contigs that the table of contigs in `folder` calls virus, as FASTA.

    The bases are those that `chunk` kept, `total` in all contigs. Raises ChunkError where they are
    missing or damaged.
    """
    # DNA has few repeats: without searching for them the file is as small, and written faster.
    out = Gzip(folder.viral_fasta, strategy=zlib.Z_HUFFMAN_ONLY)
    with out, contextlib.closing(Bases(chunks, total)) as bases:
        for row in _viral(folder.parquet("contigs")):
            _write(out, bases, row)


def _viral(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of viral contigs, with `first`: where in the sample their bases begin."""
    first = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(_COLUMNS)):
            length = batch["length"].to_numpy()
            ends = first + np.cumsum(length)
            batch = batch.append_column("first", pa.array(ends - length))
            yield from batch.filter(pc.equal(batch["call"], Call.VIRUS)).to_pylist()
            first = int(ends[-1])


def _write(out: Gzip, bases: Bases, row: dict[str, Any]) -> None:
    first, length = row["first"], row["length"]
    out.write(
        f">{row['contig']} virus score={row['score_viral']:.3f} "
        f"fraction={row['viral_fraction']:.2f} windows={row['viral_windows']}/{row['windows']} "
        f"length={length}\n".encode()
    )
    for start in range(first, first + length, _BLOCK):
        block = bases.read(start, min(start + _BLOCK, first + length))
        lines = (block[at : at + _LINE] for at in range(0, len(block), _LINE))
        out.write(b"\n".join(lines) + b"\n")
