"""The result tables of a sample, and the two files that VirNucPro writes.

Every column is described in docs/outputs.md.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Int
from virnuc_rules.chunking.format import frame_ids, window_ids
from virnuc_rules.config.run_folder import SampleFolder
from virnuc_rules.files.atomic import move_files, remove_partials, sync_files, write_json
from virnuc_rules.files.tsv import lines
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.prevalence import at_prevalence
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_calls import contig_calls
from virnuc_rules.prediction.decision import Decision, SampleCalls
from virnuc_rules.prediction.regions import viral_regions
from virnuc_rules.prediction.table import BLOCK_ROWS, Table
from virnuc_rules.prediction.tracks import Tracks
from virnuc_rules.vocabulary import UPSTREAM_NON_VIRAL, Call, Frame, Reason

if TYPE_CHECKING:
    from virnuc_rules.prediction.scored_chunks import ScoredChunk
    from virnuc_rules.prediction.window_calls import Consensus

_TYPES = {  # the other columns are float32
    pa.string(): "contig frame strand label best_frame terminal_repeat call reason",
    pa.int32(): "window open_frames",
    pa.int64(): "contig_index start end length windows called_windows viral_windows longest_run",
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names.split()}
_COLUMNS = {
    "orfs": "contig_index contig window frame start end strand score_non_viral score_virus label",
    "windows": "contig_index contig window start end open_frames best_frame "
    "score_non_viral score_virus margin probability call reason",
    "contigs": "contig_index contig length probability margin windows called_windows viral_windows "
    "viral_fraction viral_fraction_all score_mean score_median score_max score_viral longest_run "
    "terminal_repeat call reason",
    "regions": "contig_index contig start end windows evidence posterior",
}
SCHEMAS = {
    table: pa.schema([(name, _TYPE_OF.get(name, pa.float32())) for name in names.split()])
    for table, names in _COLUMNS.items()
}


class _Orfs(Table):
    """The table of open frames, and upstream's file of the open frames that have scores."""

    def __init__(self, folder: SampleFolder) -> None:
        super().__init__(folder.tsv("orfs"), folder.parquet("orfs"), SCHEMAS["orfs"])
        self.upstream = None
        if folder.like_virnucpro:
            self.upstream = self.enter_context(folder.upstream.open("wb"))
            self.upstream.write(b"Sequence_ID\tPrediction\tscore1\tscore2\n")

    def write_text(self, texts: dict[str, pa.Array]) -> None:
        super().write_text(texts)
        if self.upstream is None:
            return
        ids = frame_ids(texts)
        label = pc.if_else(pc.equal(texts["label"], Call.VIRUS), Call.VIRUS, UPSTREAM_NON_VIRAL)
        columns = [ids, label, texts["score_non_viral"], texts["score_virus"]]
        scored = pc.is_valid(texts["score_virus"])
        self.upstream.write(lines(*(column.filter(scored) for column in columns)))


def _table(folder: SampleFolder, name: str) -> Table:
    return Table(folder.tsv(name), folder.parquet(name), SCHEMAS[name])


class SampleTables(contextlib.ExitStack):
    """Writes the tables and tracks of a sample into a new folder.

    Leaving the context closes the files; `finish` completes them first.
    """

    def __init__(self, folder: SampleFolder) -> None:
        super().__init__()
        self.folder = folder
        self.called_windows = self.viral_windows = self.viral_contigs = 0  # so far
        self._contigs: list[Bool] = []  # [2, C]: whether they have a call, and are called virus
        self._is_virus: list[pa.Table] = []
        self.orfs = self.enter_context(_Orfs(folder))
        self.windows = self.enter_context(_table(folder, "windows"))
        self.contigs = self.enter_context(_table(folder, "contigs"))
        self.regions = self.enter_context(_table(folder, "regions"))
        self.tracks = self.enter_context(Tracks(folder))

    def finish(self, decision: Decision) -> SampleCalls:
        """Write the remaining rows, upstream's table of windows, and how contigs were called."""
        for table in (self.orfs, self.windows, self.contigs, self.regions):
            table.finish()
        if self.folder.like_virnucpro:
            write_highest_score(self.folder.upstream_windows, self._is_virus)
        calls = decision.outcome(*np.hstack([np.zeros((2, 0), np.bool_), *self._contigs]))
        write_json(self.folder.calls, calls)
        return calls

    def add_frames(self, chunk: "ScoredChunk", contig_index: Int) -> None:
        """Write the open frames of a chunk; `contig_index` [R] is the contig of each."""
        table = chunk.table
        forward = pc.starts_with(table["frame"].cast(pa.string()), "F")
        non_viral = virus = pa.nulls(table.num_rows)
        label = np.full(table.num_rows, Call.NO_CALL)
        if chunk.scores is not None:
            non_viral, virus = chunk.scores.T
            label = np.where(virus > non_viral, Call.VIRUS, Call.NON_VIRAL)
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

    def add_contigs(
        self,
        contigs: pa.Table,
        table: pa.Table,
        consensus: "Consensus",
        windows: WindowCalls,
        decision: Decision,
        odds: Odds,
    ) -> None:
        """Write contigs, all their windows, viral regions and tracks.

        contigs, table: rows of the contig and the window table of the chunk folder; windows: what
        `called_windows` makes of them and their consensus.
        """
        called, virus = windows.called, windows.virus
        no_call = ~called
        self.called_windows += int(called.sum())
        self.viral_windows += int(virus.sum())
        call = np.where(called, np.where(virus, Call.VIRUS, Call.NON_VIRAL), Call.NO_CALL)
        frame = pa.array(np.where(called, consensus.best, 0))
        probability = at_prevalence(odds.log_odds(windows.margin), decision.prevalence)
        self.windows.add(
            {
                **_columns(
                    table, "contig_index", "contig", "window", "start", "end", "open_frames"
                ),
                "best_frame": _where(called, pa.array(list(Frame)).take(frame)),
                "score_non_viral": pa.array(consensus.score1, mask=no_call),
                "score_virus": pa.array(consensus.score2, mask=no_call),
                "margin": windows.margin,
                "probability": probability.astype(np.float32),
                "call": pa.array(call),
                "reason": _where(no_call, pa.array(list(Reason)).take(pa.array(windows.reason))),
            }
        )
        upstream = consensus.called
        ids = window_ids(table).combine_chunks().filter(pa.array(upstream)).cast(pa.large_string())
        self._is_virus.append(pa.table({"id": ids, "is_virus": consensus.virus[upstream]}))
        shown = probability if odds.curve else windows.margin
        self._add_contigs(contigs, windows, shown, decision)

    def _add_contigs(
        self, table: pa.Table, windows: WindowCalls, shown: NDArray[Any], decision: Decision
    ) -> None:
        regions = viral_regions(windows, decision.prevalence)
        calls = contig_calls(windows, decision.rule)
        names = _columns(table, "contig_index", "contig", "length", "terminal_repeat")
        self.contigs.add({**names, **calls})
        is_virus = calls["call"] == Call.VIRUS
        self._contigs.append(np.stack([calls["call"] != Call.NO_CALL, is_virus]))
        self.viral_contigs += int(is_virus.sum())
        own = table.take(pa.array(regions.index))
        names = _columns(own, "contig_index", "contig")
        self.regions.add({**dataclasses.asdict(regions), **names})
        self.tracks.add(table["contig"].combine_chunks(), windows, shown, regions)


def _columns(table: pa.Table, *names: str) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in names}


def _where(valid: NDArray[np.bool_], array: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(valid), array, pa.scalar(None, pa.string()))


def write_highest_score(path: Path, parts: list[pa.Table]) -> None:
    """Write upstream's table of windows: id, whether it is viral; sorted, tab-separated."""
    with path.open("wb") as handle:
        handle.write(b"Modified_ID\tIs_Virus\n")
        if not parts:
            return
        rows = pa.concat_tables(parts).sort_by([("id", "ascending"), ("is_virus", "ascending")])
        for batch in rows.to_batches(max_chunksize=BLOCK_ROWS):
            handle.write(lines(batch["id"], pc.if_else(batch["is_virus"], "True", "False")))


def move_into_place(stage: SampleFolder, out: SampleFolder) -> None:
    """Flush all staged files to the disk, then move them to `out`, `made.json` as the last.

    An older `made.json` goes first. Other processes that make the same tables find their staged
    files gone, so that all are of one process. Older files that the new tables lack are removed.
    """
    files = stage.files()
    sync_files(files)
    out.made.unlink(missing_ok=True)
    remove_partials(out.path.resolve(), own=stage.path)
    moved = [*files, stage.made] if stage.made.exists() else files
    targets = {path: out.path / path.relative_to(stage.path) for path in moved}
    for path in {*SampleFolder(out.path, out.sample).files()} - {*targets.values()}:
        path.unlink(missing_ok=True)
    move_files(targets)
