"""What people read: the tables of a sample, and the two files of the original program."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from virnuc_rules.chunkfiles import window_ids
from virnuc_rules.files import remove_dead_partials, replacing

if TYPE_CHECKING:
    from virnuc_rules.predict import Consensus

LABELS = ("others", "virus")  # the classes of score1 and score2
FILES = (
    "predictions.tsv",
    "windows.tsv",
    "prediction_results.txt",
    "prediction_results_highestscore.csv",
)
PREDICTIONS = (
    "contig",
    "window",  # 1-based number of the window in the contig
    "frame",  # F1 F2 F3 R1 R2 R3
    "start",  # first base of the codons in the contig, 0-based
    "end",  # base after the last codon
    "strand",
    "score_others",
    "score_virus",  # softmax; both empty where the chunk could not be embedded
    "label",  # the higher score; no_call where there is none
)
WINDOWS = (
    "contig",
    "window",
    "start",  # 0-based
    "end",  # exclusive
    "open_frames",
    "score",  # best score_virus of the open frames; empty without a call
    "call",  # virus, others, no_call
    "reason",  # why there is no call
)


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The R open frames of a chunk with their scores, float32 [R, 2]; None if embedding failed."""

    ids: list[str]
    table: pa.Table
    scores: NDArray[np.float32] | None

    @property
    def window_row(self) -> NDArray[np.int64]:
        """Rows of the windows in the window table, [R]."""
        return self.table["window_row"].to_numpy()  # type: ignore[no-any-return]


class SampleTables:
    """Writes the four files of a sample; they appear together when the context ends well.

    predictions.tsv: a row per open frame. windows.tsv: a row per window. prediction_results.txt
    and prediction_results_highestscore.csv: as VirNucPro writes them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for name in FILES:
                remove_dead_partials(self.folder / name)
            opened = [stack.enter_context(replacing(self.folder / name)) for name in FILES]
            self._files = stack.pop_all()
        self.predictions, self.windows, self.upstream, self.upstream_windows = opened
        self.predictions.write("\t".join(PREDICTIONS) + "\n")
        self.windows.write("\t".join(WINDOWS) + "\n")
        self.upstream.write("Sequence_ID\tPrediction\tscore1\tscore2\n")
        self._is_virus: list[tuple[str, bool]] = []
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.upstream_windows.write(highest_score(self._is_virus))
        self._files.__exit__(*error)

    def add_frames(self, chunk: ScoredChunk) -> None:
        """Write the open frames of a chunk."""
        names = ("contig", "window", "frame", "start", "end")
        columns = [chunk.table[name].to_pylist() for name in names]
        strand = ["+" if frame.startswith("F") else "-" for frame in columns[2]]
        if chunk.scores is None:
            empty = [""] * len(chunk.ids)
            score1, score2, label = empty, empty, ["no_call"] * len(chunk.ids)
        else:
            score1, score2 = (column.astype(str).tolist() for column in chunk.scores.T)
            label = [LABELS[index] for index in chunk.scores.argmax(axis=1)]
            rows = zip(chunk.ids, label, score1, score2, strict=True)
            self.upstream.writelines("\t".join(row) + "\n" for row in rows)
        table = zip(*columns, strand, score1, score2, label, strict=True)
        self.predictions.writelines("\t".join(map(str, row)) + "\n" for row in table)

    def add_windows(self, first: int, table: pa.Table, consensus: "Consensus") -> None:
        """Write the windows of a part of the window table that begins at row `first`."""
        part = consensus.part(slice(first, first + table.num_rows))
        called, virus = part.called, part.virus
        call = np.where(called, np.where(virus, "virus", "others"), "no_call").tolist()
        score = np.where(called, part.score2.astype(str), "").tolist()
        reason = [
            "embedding_failed" if failed else why or ""
            for failed, why in zip(part.failed, table["reason"].to_pylist(), strict=True)
        ]
        names = ("contig", "window", "start", "end", "open_frames")
        columns = [table[name].to_pylist() for name in names]
        lines = zip(*columns, score, call, reason, strict=True)
        self.windows.writelines("\t".join(map(str, line)) + "\n" for line in lines)
        ids = np.array(window_ids(table).to_pylist(), object)[called]
        self._is_virus += zip(ids.tolist(), virus[called].tolist(), strict=True)


def highest_score(is_virus: list[tuple[str, bool]]) -> str:
    """Return upstream's `prediction_results_highestscore.csv` (tab-separated, sorted by id)."""
    rows = "".join(f"{name}\t{virus}\n" for name, virus in sorted(is_virus))
    return "Modified_ID\tIs_Virus\n" + rows
