"""Compressing test data as the usual programs do."""

import bz2
import gzip
import lzma
from collections.abc import Callable

import pyarrow as pa


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(content)
    return bytes(sink.getvalue())


def xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=0)


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gz,
    "bz2": bz2.compress,
    "xz": xz,
    "zst": zstd,
}
PACKED = [name for name in PACK if name != "plain"]
