"""Reproducible gzip files."""

import zlib
from pathlib import Path
from typing import Self

import pyarrow as pa


class Gzip:
    """Writes a gzip file without name and time: the same content gives the same bytes."""

    def __init__(self, path: Path, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> None:
        self._file = path.open("wb")
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, strategy)

    def write(self, data: bytes | pa.Buffer) -> None:
        """Compress and write."""
        self._file.write(self._deflate.compress(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.write(self._deflate.flush())
