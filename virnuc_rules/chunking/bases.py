"""The bases of a sample as they were read, in `bases.parquet`: about a quarter of a byte each.

The contigs follow each other without a gap; `contigs.parquet` has their lengths. A row is a block
of bases, and a row group of its own, so that a block can be read alone.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from virnuc_rules.chunking.format import PARQUET, REMEDY, damage_named
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError
from virnuc_rules.files.environment import open_regular

_BLOCK = 1 << 20  # bases in a row
_SCHEMA = pa.schema(
    [
        ("length", pa.int32()),  # number of bases
        ("rna", pa.bool_()),  # code 3 is U, not T
        ("packed", pa.binary()),  # codes of A C G T (or U), four in a byte, the first one highest
        ("lower", pa.binary()),  # a bit for each base, the first one highest: a lower-case letter
        ("other", pa.binary()),  # upper-case letters of the other bases; 0 where there is a code
    ]
)
_LOWER = 0x20  # this bit makes an upper-case letter lower case


def _tables(alphabet: bytes) -> tuple[bytes, bytes, NDArray[np.uint32]]:
    """Return the tables letter -> code, letter -> letter without a code, byte -> four letters."""
    code, other = bytearray(256), bytearray(range(256))
    for index, letter in enumerate(alphabet):
        code[letter], other[letter] = index, 0
    codes = np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3
    letters = np.frombuffer(alphabet, np.uint8)[codes]
    return bytes(code), bytes(other), letters.view(np.uint32)[:, 0]


_TABLES = _tables(b"ACGT"), _tables(b"ACGU")


class BasesWriter:
    """Writes the bases of a sample; closing it writes the last, smaller block."""

    def __init__(self, folder: ChunkFolder) -> None:
        # What is packed has no equal values, and nobody asks for ranges of values.
        plain = {"use_dictionary": False, "write_statistics": False}
        self._file = pq.ParquetWriter(folder.bases, _SCHEMA, **PARQUET, **plain)
        self._pending = bytearray()

    def add(self, bases: bytes) -> None:
        """Add letters (ASCII) after those added before."""
        self._pending += bases
        while len(self._pending) >= _BLOCK:
            self._write_block()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._pending:
            self._write_block()
        self._file.close()

    def _write_block(self) -> None:
        block = bytes(self._pending[:_BLOCK])
        del self._pending[:_BLOCK]
        self._file.write_table(pa.Table.from_pylist([_packed(block)], _SCHEMA))


def _packed(block: bytes) -> dict[str, object]:
    """Return the row of a block."""
    letters = np.frombuffer(block, np.uint8)
    lower = letters & _LOWER
    letters = letters - lower
    upper = letters.tobytes()
    rna = bool(np.count_nonzero(letters == ord("U")) > np.count_nonzero(letters == ord("T")))
    code, other, _ = _TABLES[rna]
    codes = np.frombuffer(upper.translate(code) + bytes(-len(block) % 4), "<u4")
    # Moves the codes, which are 8 bits apart, side by side into the highest byte.
    packed = codes * np.uint32(1 << 30 | 1 << 20 | 1 << 10 | 1) >> 24
    return {
        "length": len(block),
        "rna": rna,
        "packed": packed.astype(np.uint8).tobytes(),
        "lower": np.packbits(lower).tobytes(),
        "other": upper.translate(other),
    }


class Bases:
    """Reads the bases of a sample; memory holds one block.

    Raises ChunkError for a file that is missing, damaged, or has not `total` bases, and
    EnvironmentProblem for one that cannot be read.
    """

    def __init__(self, folder: ChunkFolder, total: int) -> None:
        self._path = folder.bases
        with damage_named(self._path):
            self._opened = open_regular(self._path)
            self._file = pq.ParquetFile(self._opened, page_checksum_verification=True)
            length = self._file.read(["length"])["length"].to_numpy().astype(np.int64)
        self._end = np.cumsum(length)  # of each block
        if length.sum() != total or len(length) != self._file.num_row_groups:
            raise ChunkError(f"{self._path}: not the {total} bases of the manifest; {REMEDY}")
        self._block, self._letters = -1, b""  # the block read last

    def read(self, start: int, end: int) -> bytes:
        """Return the letters from base `start` to `end` of the sample, 0-based and half open."""
        parts: list[bytes] = []
        while start < end:
            block = int(np.searchsorted(self._end, start, "right"))
            if block != self._block:
                self._block, self._letters = block, self._read_block(block)
            first = int(self._end[block]) - len(self._letters)
            parts.append(self._letters[start - first : end - first])
            start = int(self._end[block])
        return b"".join(parts)

    def _read_block(self, block: int) -> bytes:
        with damage_named(self._path):
            (row,) = self._file.read_row_group(block).to_pylist()
        _, _, letters = _TABLES[row["rna"]]
        length, other = row["length"], np.frombuffer(row["other"], np.uint8)
        bases = letters[np.frombuffer(row["packed"], np.uint8)].view(np.uint8)[:length]
        np.copyto(bases, other, where=other != 0)
        bases |= np.unpackbits(np.frombuffer(row["lower"], np.uint8), count=length) * _LOWER
        return bases.tobytes()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()
