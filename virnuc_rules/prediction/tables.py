"""What people read: the tables of a sample, and the two files of the original program.

Every column is described in docs/outputs.md.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from virnuc_rules.arrays import Float, Int
from virnuc_rules.chunking.format import frame_ids, window_ids
from virnuc_rules.config.model import Calling
from virnuc_rules.config.run_folder import ChunkFolder, SampleFolder
from virnuc_rules.errors import ChunkError
from virnuc_rules.files.atomic import sync_directory, sync_files
from virnuc_rules.files.tsv import lines, text
from virnuc_rules.prediction.contig_calls import (
    Regions,
    WindowCalls,
    contig_calls,
    viral_regions,
)
from virnuc_rules.prediction.tracks import Tracks
from virnuc_rules.vocabulary import NO_REASON, UPSTREAM_NON_VIRAL, Call, Frame, Reason

if TYPE_CHECKING:
    from virnuc_rules.prediction.scored_chunks import ScoredChunk
    from virnuc_rules.prediction.window_calls import Consensus

_CONTIG = [("contig_index", pa.int64()), ("contig", pa.string())]
_PLACE = [("start", pa.int64()), ("end", pa.int64())]
_SCORES = [("score_non_viral", pa.float32()), ("score_virus", pa.float32())]
_CALL = [("call", pa.string()), ("reason", pa.string())]
SCHEMAS = {
    "orfs": pa.schema(
        [
            *_CONTIG,
            ("window", pa.int32()),
            ("frame", pa.string()),
            *_PLACE,
            ("strand", pa.string()),
            *_SCORES,
            ("label", pa.string()),
        ]
    ),
    "windows": pa.schema(
        [
            *_CONTIG,
            ("window", pa.int32()),
            *_PLACE,
            ("open_frames", pa.int32()),
            ("best_frame", pa.string()),
            *_SCORES,
            ("probability", pa.float32()),
            *_CALL,
        ]
    ),
    "contigs": pa.schema(
        [
            *_CONTIG,
            ("length", pa.int64()),
            ("windows", pa.int64()),
            ("called_windows", pa.int64()),
            ("viral_windows", pa.int64()),
            ("viral_fraction", pa.float32()),
            ("viral_fraction_all", pa.float32()),
            ("score_mean", pa.float32()),
            ("score_median", pa.float32()),
            ("score_max", pa.float32()),
            ("score_viral", pa.float32()),
            ("longest_run", pa.int64()),
            *_CALL,
        ]
    ),
    "regions": pa.schema(
        [
            *_CONTIG,
            *_PLACE,
            ("windows", pa.int64()),
            ("score_mean", pa.float32()),
            ("score_max", pa.float32()),
        ]
    ),
}
_ROWS = 1 << 15  # that are written together: one row group of a Parquet file


class _Table:
    """A table as TSV and as Parquet, the same rows and columns.

    Rows are written in blocks of one size, so that the files do not depend on how they come.
    """

    def __init__(self, folder: SampleFolder, name: str) -> None:
        self.schema = SCHEMAS[name]
        self.tsv = folder.tsv(name).open("wb")
        self.tsv.write(("\t".join(self.schema.names) + "\n").encode())
        self.parquet = pq.ParquetWriter(
            folder.parquet(name), self.schema, compression="zstd", write_page_checksum=True
        )
        self.waiting: list[pa.Table] = []
        self.rows = 0  # that are waiting

    def add(self, columns: dict[str, Any]) -> None:
        """Add rows: arrays by the names of the columns; NaN is null."""
        arrays = [
            column.cast(field.type)
            if isinstance(column := columns[field.name], pa.Array | pa.ChunkedArray)
            else pa.array(column, field.type, from_pandas=True)
            for field in self.schema
        ]
        self.waiting.append(pa.Table.from_arrays(arrays, schema=self.schema))
        self.rows += self.waiting[-1].num_rows
        while self.rows >= _ROWS:
            self.flush()

    def flush(self) -> None:
        together = pa.concat_tables(self.waiting)
        block = together.slice(0, _ROWS)
        self.waiting = [together.slice(_ROWS)]
        self.rows = self.waiting[0].num_rows
        columns = [column.combine_chunks() for column in block.columns]
        self.parquet.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.write(dict(zip(self.schema.names, map(text, columns), strict=True)))

    def write(self, texts: dict[str, pa.Array]) -> None:
        self.tsv.write(lines(*texts.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.tsv, self.parquet:
            if kind is None and self.rows:
                self.flush()


class _Orfs(_Table):
    """The table of open frames, and upstream's file of those with scores beside it."""

    def __init__(self, folder: SampleFolder) -> None:
        super().__init__(folder, "orfs")
        self.upstream = folder.upstream.open("wb")
        self.upstream.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")

    def write(self, texts: dict[str, pa.Array]) -> None:
        super().write(texts)
        ids = frame_ids(texts)
        label = pc.if_else(pc.equal(texts["label"], Call.VIRUS), Call.VIRUS, UPSTREAM_NON_VIRAL)
        columns = [ids, label, texts["score_non_viral"], texts["score_virus"]]
        scored = pc.is_valid(texts["score_virus"])
        self.upstream.write(lines(*(column.filter(scored) for column in columns)))

    def __exit__(self, *error: Any) -> None:
        with self.upstream:
            super().__exit__(*error)


class SampleTables:
    """Writes the tables and tracks of a sample into a new folder."""

    def __init__(
        self,
        folder: SampleFolder,
        rule: Calling,
        lengths: Int,
        chunks: ChunkFolder,
        calibrated: Callable[[Float], NDArray[np.float64]] | None = None,
    ) -> None:
        self.folder, self.rule = folder, rule
        self.calibrated = calibrated  # probabilities of margins [W]; None: they have none
        self.lengths = lengths  # of the contigs, [C]
        self.chunks = chunks  # folder, for messages
        self.contigs = self.viral = 0  # contigs so far, and those called virus
        self._is_virus: list[pa.Table] = []
        with contextlib.ExitStack() as stack:
            self.orfs = stack.enter_context(_Orfs(folder))
            rest = (stack.enter_context(_Table(folder, name)) for name in list(SCHEMAS)[1:])
            self.windows, self.contig_table, self.regions = rest
            self.tracks = stack.enter_context(Tracks(folder))
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._files:
            if error[0] is None:
                write_highest_score(self.folder.upstream_windows, self._is_virus)

    def add_frames(self, chunk: "ScoredChunk", contig_index: Int) -> None:
        """Write the open frames of a chunk, of contigs with these numbers, [R]."""
        table, scores = chunk.table, chunk.scores
        forward = pc.starts_with(table["frame"].cast(pa.string()), "F")
        nothing = pa.nulls(table.num_rows)
        non_viral, virus = (nothing, nothing) if scores is None else scores.T
        label = pa.array([Call.NO_CALL] * table.num_rows)
        if scores is not None:
            label = pa.array(np.where(virus > non_viral, Call.VIRUS, Call.NON_VIRAL))
        self.orfs.add(
            {
                **_columns(table, "contig", "window", "frame", "start", "end"),
                "contig_index": contig_index,
                "strand": pc.if_else(forward, "+", "-"),
                "score_non_viral": non_viral,
                "score_virus": virus,
                "label": label,
            }
        )

    def add_windows(self, table: pa.Table, consensus: "Consensus") -> None:
        """Write the windows of whole contigs, and what follows from them for the contigs.

        Raises ChunkError where the open frames are not those of the windows.
        """
        called, virus = consensus.called, consensus.virus
        windows = WindowCalls(
            contig=table["contig_index"].to_numpy(),
            start=table["start"].to_numpy(),
            end=table["end"].to_numpy(),
            score=consensus.score2,
            reason=self._reasons(table, consensus),
            virus=virus,
        )
        no_call = ~called
        call = np.where(called, np.where(virus, Call.VIRUS, Call.NON_VIRAL), Call.NO_CALL)
        frame, reasons = pa.array(np.where(called, consensus.best, 0)), pa.array(list(Reason))
        self.windows.add(
            {
                **_columns(table, "contig_index", "contig", "window"),
                **_columns(table, "start", "end", "open_frames"),
                "best_frame": _where(called, pa.array(list(Frame)).take(frame)),
                "score_non_viral": pa.array(consensus.score1, mask=no_call),
                "score_virus": pa.array(consensus.score2, mask=no_call),
                "probability": self._probability(consensus),
                "call": pa.array(call),
                "reason": _where(no_call, reasons.take(pa.array(windows.reason))),
            }
        )
        ids = window_ids(table).combine_chunks().filter(pa.array(called)).cast(pa.large_string())
        self._is_virus.append(pa.table({"id": ids, "is_virus": virus[called]}))
        self._add_contigs(table, windows)

    def _probability(self, consensus: "Consensus") -> pa.Array:
        if self.calibrated is None:
            return pa.nulls(len(consensus.called), pa.float32())
        found = self.calibrated(consensus.margin).astype(np.float32)
        return pa.array(found, from_pandas=True)

    def _reasons(self, table: pa.Table, consensus: "Consensus") -> NDArray[np.int8]:
        """Return why each window has no call, as codes; NO_REASON where it has one."""
        index = pc.index_in(table["reason"].cast(pa.string()), value_set=pa.array(list(Reason)))
        frames, has_reason = table["open_frames"].to_numpy(), index.is_valid().to_numpy()
        if np.any(frames != consensus.frames) or np.any((frames == 0) != has_reason):
            raise ChunkError(
                f"{self.chunks.windows}: does not belong to the open frames in the chunks; "
                "delete the folder and run again"
            )
        reason: NDArray[np.int8] = index.fill_null(NO_REASON).to_numpy().astype(np.int8)
        reason[consensus.failed] = Reason.EMBEDDING_FAILED.code
        return reason

    def _add_contigs(self, table: pa.Table, windows: WindowCalls) -> None:
        regions = viral_regions(windows)
        calls = contig_calls(windows, regions, self.rule)
        first = np.flatnonzero(np.diff(windows.contig, prepend=-1))
        contig = table["contig"].take(pa.array(first)).cast(pa.string()).combine_chunks()
        number = windows.contig[first]
        self.contig_table.add(
            {"contig_index": number, "contig": contig, "length": self.lengths[number], **calls}
        )
        self.contigs += len(number)
        self.viral += int((calls["call"] == Call.VIRUS).sum())
        self._add_regions(contig, number, regions)
        self.tracks.add(contig, windows, regions)

    def _add_regions(self, contig: pa.Array, number: Int, regions: Regions) -> None:
        index = pa.array(regions.index)
        self.regions.add(
            {
                "contig_index": number[regions.index],
                "contig": contig.take(index),
                "start": regions.start,
                "end": regions.end,
                "windows": regions.windows,
                "score_mean": regions.score_mean,
                "score_max": regions.score_max,
            }
        )


def _columns(table: pa.Table, *names: str) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in names}


def _where(valid: NDArray[np.bool_], array: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(valid), array, pa.scalar(None, pa.string()))


def write_highest_score(path: Path, parts: list[pa.Table]) -> None:
    """Write upstream's table of windows: id, and whether it is viral, sorted by id.

    Called .csv, separated by tabs.
    """
    with path.open("wb") as handle:
        handle.write(b"Modified_ID\tIs_Virus\n")
        if not parts:
            return
        rows = pa.concat_tables(parts).sort_by([("id", "ascending"), ("is_virus", "ascending")])
        for batch in rows.to_batches(max_chunksize=_ROWS):
            handle.write(lines(batch["id"], pc.if_else(batch["is_virus"], "True", "False")))


def move_into_place(stage: SampleFolder, out: SampleFolder) -> None:
    """Move finished files to `out`, on disk before the first is moved; those not made again go."""
    made = [path for path in stage.files() if path.exists()]
    sync_files(made)
    if not stage.viral_fasta.exists():
        out.viral_fasta.unlink(missing_ok=True)
    targets = [out.path / path.relative_to(stage.path) for path in made]
    for path, target in zip(made, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    for folder in {target.parent for target in targets}:
        sync_directory(folder)
