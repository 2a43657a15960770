"""Files as they come: decompressed by their first bytes, hashed and counted while they are read."""

import bz2
import hashlib
import io
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

STDIN = Path("-")
_BUFFER = 1 << 18  # bytes that are read from the disk at a time
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
# Arrow has no xz, and stumbles over an empty member of a bz2 file.
_DECODERS = {"bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}
_SKIPPABLE = b"*M\x18"  # after the first byte of what pzstd puts before a frame


class Source:
    """One file, plain or gzip, bzip2, xz or zstd (of several members too), or standard input.

    `advance` is told how many bytes of the file, as it is on disk, were read. Raises OSError.
    """

    def __init__(self, path: Path, advance: Callable[[int], object]) -> None:
        # Once only: a pipe cannot be opened again.
        file = io.FileIO(0, closefd=False) if path == STDIN else io.FileIO(path)
        self._tap = _Tap(file, advance)
        self._file = io.BufferedReader(self._tap, _BUFFER)

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield the text in blocks of at most `size` bytes, none of them empty.

        Raises OSError for a file that ends too early, is damaged, or goes on with something else.
        """
        head = self._file.peek(6)
        kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
        try:
            if kind in _DECODERS:
                yield from _members(self._file, _DECODERS[kind], size)
                return
            stream: Any = self._file
            if kind or head[1:4] == _SKIPPABLE:
                stream = pa.CompressedInputStream(pa.PythonFile(stream, "r"), kind or "zstd")
            while block := stream.read(size):
                yield block
        except (pa.ArrowException, lzma.LZMAError) as error:
            raise OSError(" ".join(str(error).split())) from None

    @property
    def sha256(self) -> str:
        """Hash what was read so far, as it is on disk, in hexadecimal."""
        return self._tap.digest.hexdigest()

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._file.close()


class _Tap(io.RawIOBase):
    """Hashes and counts what is read; fills a buffer to its end, also from a slow pipe."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], object]) -> None:
        self.file, self.advance = file, advance
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (number := self.file.readinto(view[filled:])):
            filled += number
        self.digest.update(view[:filled])
        self.advance(filled)
        return filled

    def close(self) -> None:
        self.file.close()
        super().close()


def _members(file: IO[bytes], new_decoder: Callable[[], Any], size: int) -> Iterator[bytes]:
    """Decompress members, perhaps with zeros between them.

    `bz2.BZ2File` and `lzma.LZMAFile` would leave out whatever else comes after one.
    """
    rest = file.read(_BUFFER)
    while rest:
        decoder = new_decoder()
        while not decoder.eof:
            if decoder.needs_input and not rest and not (rest := file.read(_BUFFER)):
                raise OSError("Truncated compressed stream")
            if block := decoder.decompress(rest, size):
                yield block
            rest = b""
        rest = decoder.unused_data.lstrip(b"\0")
        while not rest and (more := file.read(_BUFFER)):
            rest = more.lstrip(b"\0")


def size_on_disk(paths: list[Path]) -> int | None:
    """Return how many bytes there are to read; None where one of the files is a pipe or missing."""
    if not all(path != STDIN and path.is_file() for path in paths):
        return None
    return sum(path.stat().st_size for path in paths)
