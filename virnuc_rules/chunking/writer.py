"""Writing the chunk folder of a sample; `chunking.format` describes and reads it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from virnuc_rules import __version__
from virnuc_rules.arrays import Int
from virnuc_rules.chunking.bases import BasesWriter
from virnuc_rules.chunking.format import (
    CHUNK_SCHEMA,
    CONTIG_SCHEMA,
    PARQUET,
    WINDOW_SCHEMA,
    content_hash,
)
from virnuc_rules.chunking.manifest import ChunkEntry, Manifest
from virnuc_rules.chunking.open_frames import OpenFrames, open_frames
from virnuc_rules.chunking.terminal_repeats import terminal_repeat
from virnuc_rules.chunking.virnucpro_fasta import UpstreamFasta
from virnuc_rules.chunking.windows import Windows, count, cut, span
from virnuc_rules.config.model import Chunking
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.files.atomic import (
    is_partial,
    link_or_copy,
    put_folder,
    staged_folder,
    write_json,
    writing,
)
from virnuc_rules.reading.fastx import Contig, Sequences
from virnuc_rules.vocabulary import NO_REASON, Frame, Reason

_BLOCK = 1 << 20  # bases translated at a time
_WINDOW_BLOCKS = 100  # blocks whose windows are written at once

_IS_UNKNOWN = bytes(letter not in b"ACGT" for letter in range(256))
_FRAMES = pa.array(list(Frame))
_REASONS = pa.array(list(Reason))
# Not known at chunking.
_LATER = (Reason.EMBEDDING_FAILED, Reason.TOO_FEW_CALLED_WINDOWS, Reason.TOO_AMBIGUOUS)


def write_chunks(
    sources: Sequence[Path],
    out: Path,
    chunking: Chunking,
    *,
    sample: str,
    upstream_fasta: Path | None = None,
    advance: Callable[[int], object] = lambda _: None,
    finish: Callable[[ChunkFolder, Manifest], None] = lambda *_: None,
) -> Manifest:
    """Cut sequence files into windows, find their open frames, and write the chunk folder `out`.

    Everything is written beside `out` and moved there in one step when complete, so bad input
    leaves an older folder unchanged. The files that VirNucPro would write go to the folder
    `upstream_fasta`. `advance` is called with the number of bytes read, `finish` with the complete
    folder before it is moved.
    Raises InputError (see `Sequences.contigs`), EnvironmentProblem for a full disk, or where
    another process has made the folder at the same time.
    """
    keep, window = chunking.duplicate_ids == "keep", chunking.window
    sequences = Sequences(sources, sample, keep_duplicates=keep, advance=advance)
    with writing(out), staged_folder(out) as staged:
        stage = ChunkFolder(staged)
        upstream = UpstreamFasta(upstream_fasta, window)
        with _ChunkWriter(stage, chunking.chunk_size) as writer, upstream as up:
            for block in _blocks(sequences.contigs(), window):
                # U as T: VirNucPro drops codons with U, so it would find no stop in RNA.
                bases = block.bases.upper().replace(b"U", b"T")
                frames = open_frames(bases, block.start, block.end, chunking.genetic_code)
                up.write(block.bases, block.start, block.end, block.window_ids, frames)
                writer.add(block, frames, _unambiguous(bases, block.start, block.end))
        manifest = Manifest(
            version=__version__,
            sources_sha256=sequences.sha256,
            chunking=chunking,
            **writer.counts(),
        )
        write_json(stage.manifest, manifest)
        finish(stage, manifest)
        _keep_others(ChunkFolder(out), stage)
        put_folder(staged, out)
    return manifest


def _keep_others(out: ChunkFolder, stage: ChunkFolder) -> None:
    """Link what is not of `chunk` in an older folder `out` into the one that replaces it."""
    own = {path.name for path in (*out.files([]), *out.chunk_files(), out.made, out.done)}
    for path in out.path.iterdir() if out.path.is_dir() else ():
        if path.is_dir():
            shutil.copytree(path, stage.path / path.name, symlinks=True)
        elif path.name not in own and not is_partial(path):
            link_or_copy(path, stage.path / path.name)


@dataclass(frozen=True, slots=True)
class _Block:
    """Concatenated pieces of contigs, with the windows in them."""

    bases: bytes  # as in the file, upper or lower case
    overlap: int  # bases at the beginning that are also the last of the block before
    start: NDArray[np.int64]  # [W] of the window in `bases`
    end: NDArray[np.int64]
    shift: NDArray[np.int64]  # [W] a position in `bases` plus this is the position in the contig
    contigs: list[Contig]  # [C]
    begun: list[Contig]  # those whose first window is in this block
    windows: Windows  # [W] `contig` indexes `contigs`

    def window_ids(self) -> list[str]:
        rows = zip(self.windows.contig.tolist(), self.windows.number.tolist(), strict=True)
        return [f"{self.contigs[contig].id}_chunk_{number}" for contig, number in rows]


def _blocks(contigs: Iterator[Contig], window: int) -> Iterator[_Block]:
    """Group contigs, and pieces of long ones, into blocks of about `_BLOCK` bases.

    A long contig is read in pieces, so memory does not grow with its length. An empty contig is a
    piece without windows.
    """
    pieces: list[tuple[Contig, int, int, bytes, int]] = []
    nominal = overlap = right = 0
    for contig in contigs:
        total, first = count(contig.length, window), 0
        while True:
            n_windows = min(total - first, max(1, (_BLOCK - nominal) // window))
            end, (left, right) = right, span(contig.length, first, n_windows, window)
            if not pieces:  # only here may a piece not be the first of its contig
                overlap = end - left if first else 0
            pieces.append((contig, first, n_windows, contig.bases(left, right), left))
            nominal += max(1, n_windows) * window
            first += n_windows
            if nominal >= _BLOCK - window:
                yield _block(pieces, overlap, window)
                pieces, nominal = [], 0
            if first == total:
                break
    if pieces:
        yield _block(pieces, overlap, window)


def _block(pieces: list[tuple[Contig, int, int, bytes, int]], overlap: int, window: int) -> _Block:
    contigs, first, n_windows, bases, left = zip(*pieces, strict=True)
    length = np.array([contig.length for contig in contigs])
    windows = cut(length, np.array(first), np.array(n_windows), window)
    size = np.array([len(part) for part in bases])
    shift = (np.array(left) - (np.cumsum(size) - size))[windows.contig]
    return _Block(
        b"".join(bases),
        overlap,
        windows.start - shift,
        windows.end - shift,
        shift,
        list(contigs),
        [contig for contig, index in zip(contigs, first, strict=True) if index == 0],
        windows,
    )


def _unambiguous(bases: bytes, start: Int, end: Int) -> Int:
    """Count the bases A C G T of each window `bases[start[i]:end[i]]`, [W]."""
    unknown = np.flatnonzero(np.frombuffer(bases.translate(_IS_UNKNOWN), np.bool_))
    return end - start - (np.searchsorted(unknown, end) - np.searchsorted(unknown, start))


def _label(
    index: NDArray[Any], values: pa.Array, null: NDArray[np.bool_] | None = None
) -> pa.Array:
    """Make a dictionary column with the rows `values[index]`, null where `null`."""
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32), mask=null), values)


def _texts(parts: list[bytes]) -> pa.Array:
    """Make a column of ASCII texts; `pa.array` is slower."""
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(parts), pa.py_buffer(ends), pa.py_buffer(b"".join(parts))
    )


class _ChunkWriter:
    """Collects open frames and writes a chunk file for every `chunk_size` of them."""

    def __init__(self, folder: ChunkFolder, chunk_size: int) -> None:
        self.folder, self.chunk_size = folder, chunk_size
        self.entries: list[ChunkEntry] = []
        self.contigs = self.bases = self.windows = self.open_frames = 0
        self.reasons = np.zeros(len(Reason), np.int64)
        self.pending: list[pa.Table] = []
        self.waiting = 0  # rows in `pending`
        self.window_rows: list[pa.Table] = []
        self.contig_rows: list[pa.Table] = []
        self.window_table = pq.ParquetWriter(folder.windows, WINDOW_SCHEMA, **PARQUET)
        self.contig_table = pq.ParquetWriter(folder.contigs, CONTIG_SCHEMA, **PARQUET)
        self.base_table = BasesWriter(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.write_rows()
            if self.waiting:
                self.write(self.waiting)
        self.window_table.close()
        self.contig_table.close()
        self.base_table.close()

    def add(self, block: _Block, frames: OpenFrames, unambiguous: Int) -> None:
        windows = block.windows
        self.base_table.add(block.bases[block.overlap :])
        self.contigs += len(block.begun)
        self.bases += sum(contig.length for contig in block.begun)
        self.reasons += np.bincount(frames.reason, minlength=len(Reason))
        per_window = np.bincount(frames.window, minlength=len(windows))
        names = pa.array([contig.id for contig in block.contigs])
        indices = np.array([contig.index for contig in block.contigs])
        if block.begun:
            rows = [
                (each.index, each.id, each.length, each.source, terminal_repeat(each))
                for each in block.begun
            ]
            contig_columns = list(zip(*rows, strict=True))
            self.contig_rows.append(pa.Table.from_arrays(contig_columns, schema=CONTIG_SCHEMA))
        window_columns = [
            indices[windows.contig],
            _label(windows.contig, names),
            windows.number,
            windows.start,
            windows.end,
            unambiguous,
            per_window,
            _label(frames.reason, _REASONS, frames.reason == NO_REASON),
        ]
        self.window_rows.append(pa.Table.from_arrays(window_columns, schema=WINDOW_SCHEMA))
        shift = block.shift[frames.window]
        frame_columns = [
            self.windows + frames.window,
            _label(windows.contig[frames.window], names),
            windows.number[frames.window],
            _label(frames.frame, _FRAMES),
            frames.start + shift,
            frames.end + shift,
            _texts(frames.nucleotide),
            _texts(frames.protein),
        ]
        self.pending.append(pa.Table.from_arrays(frame_columns, schema=CHUNK_SCHEMA))
        self.windows += len(windows)
        self.waiting += len(frames.frame)
        if len(self.window_rows) >= _WINDOW_BLOCKS:
            self.write_rows()
        while self.waiting >= self.chunk_size:
            self.write(self.chunk_size)

    def write_rows(self) -> None:
        """Write the collected rows of the tables of windows and contigs."""
        if self.window_rows:
            self.window_table.write_table(pa.concat_tables(self.window_rows).unify_dictionaries())
        if self.contig_rows:
            self.contig_table.write_table(pa.concat_tables(self.contig_rows))
        self.window_rows, self.contig_rows = [], []

    def write(self, rows: int) -> None:
        """Write the first `rows` pending open frames as the next chunk file."""
        waiting = pa.concat_tables(self.pending)
        table = waiting.slice(0, rows).unify_dictionaries().combine_chunks()
        self.pending = [waiting.slice(rows)]
        self.waiting -= rows
        path = self.folder.chunk(len(self.entries))
        pq.write_table(
            table,
            path,
            use_dictionary=["contig", "frame"],
            write_statistics=False,
            **PARQUET,
        )
        self.entries.append(
            ChunkEntry(
                file=path.name,
                sha256=content_hash(table),
                open_frames=rows,
                nucleotides=pc.sum(pc.binary_length(table["nucleotide"])).as_py(),
                residues=pc.sum(pc.binary_length(table["protein"])).as_py(),
            )
        )
        self.open_frames += rows

    def counts(self) -> dict[str, Any]:
        """Return the counts and chunks for the manifest."""
        reasons = zip(Reason, self.reasons.tolist(), strict=True)
        return {
            "contigs": self.contigs,
            "bases": self.bases,
            "windows": self.windows,
            "open_frames": self.open_frames,
            "reasons": {reason: total for reason, total in reasons if reason not in _LATER},
            "chunks": self.entries,
        }
