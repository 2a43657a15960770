"""Reading plain and compressed files; hashes and counts the bytes on the way."""

import bz2
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from virnuc_rules.errors import one_line
from virnuc_rules.files.environment import environment_problem

STDIN = Path("-")
_BUFFER = 1 << 18  # bytes read from the disk at a time
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
_SKIPPABLE = b"*M\x18"  # bytes 1 to 3 of the frame that pzstd writes first


class _Gunzip:
    """A member of a gzip file, with the methods of the decompressors of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, size: int) -> bytes:
        block = self._zlib.decompress(self._zlib.unconsumed_tail + data, size)
        # What zlib has taken but not given yet comes with the next call.
        self.needs_input = not self._zlib.unconsumed_tail and len(block) < size
        return block


# Arrow has no xz, fails at an empty member of a bz2 file, and at zeros after a gzip file.
_DECODERS = {"gzip": _Gunzip, "bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}


class Source:
    """A plain, gzip, bzip2, xz or zstd file (also of several members), or standard input.

    `advance` is called with the number of bytes read from the disk. Raises OSError.
    """

    def __init__(self, path: Path, advance: Callable[[int], object]) -> None:
        # Opened only once: a pipe cannot be opened again.
        file = io.FileIO(0, closefd=False) if path == STDIN else io.FileIO(path)
        self._tap = _Tap(file, advance)
        self._file = io.BufferedReader(self._tap, _BUFFER)

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield the text in blocks of at most `size` bytes, none of them empty.

        Raises OSError for a compressed file that is truncated, damaged, or followed by other bytes.
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
        except (pa.ArrowException, lzma.LZMAError, zlib.error) as error:
            raise environment_problem(error) or OSError(one_line(error)) from None

    @property
    def sha256(self) -> str:
        """Return the hash of the bytes read from the disk so far, in hexadecimal."""
        return self._tap.digest.hexdigest()

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._file.close()


class _Tap(io.RawIOBase):
    """Hashes and counts the bytes read; fills the whole buffer, also from a slow pipe."""

    def __init__(self, file: io.FileIO, advance: Callable[[int], object]) -> None:
        self.file, self.advance = file, advance
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (size := self.file.readinto(view[filled:])):
            filled += size
        self.digest.update(view[:filled])
        self.advance(filled)
        return filled

    def close(self) -> None:
        self.file.close()
        super().close()


def _members(file: IO[bytes], new_decoder: Callable[[], Any], size: int) -> Iterator[bytes]:
    """Decompress the members of a file; there may be zeros between them.

    `bz2.BZ2File` and `lzma.LZMAFile` would ignore other bytes after a member.
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


def size_on_disk(paths: Sequence[Path]) -> int | None:
    """Return the size of all files in bytes; None if one of them is a pipe or missing."""
    if not all(path != STDIN and path.is_file() for path in paths):
        return None
    return sum(path.stat().st_size for path in paths)
