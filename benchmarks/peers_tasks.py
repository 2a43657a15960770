"""What the peers are compared on: the test part of a sheet as tasks, and how they are measured."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.chunking.open_frames import open_frames
from virnuc_rules.chunking.windows import count, cut
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.training.evaluation import Measures, measure
from virnuc_rules.training.scored import Scored
from virnuc_rules.training.sheet import read_labelled_sheet
from virnuc_rules.training.split import Part, part_of
from virnuc_rules.vocabulary import Label

SEED = 1  # of the split (`seed` of the workflow), and of what is drawn
# Bases of the length classes of contigs; from 2,048 on: jaeger's model was made for pieces of 2 kb.
_CLASSES = ((2048, 3999), (4000, 7999), (8000, 15_000))

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence, upper case, with the columns of the sheet that describe it."""

    id: str
    source: str  # sample of the sheet
    label: int  # code of a Label
    group: str
    bases: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """The input of every tool: the files `virus.fa` and `non_viral.fa`, and their records."""

    name: str
    folder: Path
    records: list[Record]
    window: int

    @property
    def kilobases(self) -> float:
        return sum(len(record.bases) for record in self.records) / 1000

    def first(self) -> "Task":
        """The first sequence of each label: on these a tool does little more than start."""
        some = [next(r for r in self.records if r.label == label) for label in range(len(Label))]
        return write_task(f"first {self.name}", self.folder / "first", some, self.window)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a tool on a task."""

    tool: str
    seconds: float
    start: float | None  # seconds of the same on one sequence of each label; None: not a process
    measures: Measures
    remark: str = ""


def read_records(sheet: Path, part: Part) -> Iterator[Record]:
    """Yield the records of one part, as `virnuc-rules train` splits them."""
    samples = read_labelled_sheet(sheet)
    given = {  # to a group, also for its records in files without a part
        file.group_of(contig.id): file.part
        for sample, files in samples.items()
        for path, file in files.items()
        if file.part
        for contig in Sequences([Path(path)], sample).contigs()
    }
    for sample, files in samples.items():
        for path, file in files.items():
            if file.part not in (None, part):
                continue
            for contig in Sequences([Path(path)], sample).contigs():
                group = file.group_of(contig.id)
                if (given.get(group) or part_of(group, SEED)) == part:
                    bases = contig.bases(0, contig.length).upper().replace(b"U", b"T")
                    yield Record(contig.id, sample, file.label, group, bases)


def cut_open(record: Record, window: int) -> list[Record]:
    """Return the windows of a record that have an open frame; the last one may be short."""
    total = np.array([count(len(record.bases), window)])
    windows = cut(np.array([len(record.bases)]), np.zeros_like(total), total, window)
    frames = open_frames(record.bases, windows.start, windows.end)
    return [
        Record(f"{record.id}_{row}", record.source, record.label, record.group, record.bases[a:b])
        for row in np.unique(frames.window).tolist()
        for a, b in [(int(windows.start[row]), int(windows.end[row]))]
    ]


def draw(windows: list[Record], maximum: int) -> list[Record]:
    """Draw at most half of `maximum` windows of each label; they keep their order."""
    random = np.random.default_rng(SEED)
    kept: list[Record] = []
    for label in range(len(Label)):
        labelled = [record for record in windows if record.label == label]
        drawn = random.permutation(len(labelled))[: maximum // 2]
        kept.extend(labelled[row] for row in np.sort(drawn).tolist())
    return kept


def write_task(name: str, folder: Path, records: list[Record], window: int) -> Task:
    """Write a FASTA file and a table of groups for each label, and the sheet of both.

    Ids are `s` and the index of the record: how tools treat unusual ids is not compared here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["sample\tpath\tlabel\tgroups\n"]
    for index, label in enumerate(Label):
        labelled = [(n, record) for n, record in enumerate(records) if record.label == index]
        fasta, groups = folder / f"{label}.fa", folder / f"{label}.groups.tsv"
        fasta.write_text("".join(f">s{n}\n{record.bases.decode()}\n" for n, record in labelled))
        names = "".join(f"s{n}\t{record.group}\n" for n, record in labelled)
        groups.write_text(f"id\tgroup\n{names}")
        rows.append(f"{label}\t{fasta}\t{label}\t{groups}\n")
    (folder / "samples.tsv").write_text("".join(rows))
    return Task(name, folder, records, window)


def make_tasks(folder: Path, sheet: Path, window: int, options: argparse.Namespace) -> list[Task]:
    """Write the windows of the test part, and the contigs of each length class."""
    windows: list[Record] = []
    contigs: list[Record] = []
    for record in read_records(sheet, "test"):
        with_frames = cut_open(record, window)
        windows.extend(piece for piece in with_frames if len(piece.bases) == window)
        if with_frames:
            contigs.append(record)
    print(f"test part: {len(windows):,} windows, {len(contigs):,} contigs", flush=True)
    tasks = [write_task("windows", folder / "windows", draw(windows, options.max_windows), window)]
    for low, high in _CLASSES:
        of_class = draw([r for r in contigs if low <= len(r.bases) <= high], options.max_contigs)
        name = f"contigs of {low:,} to {high:,} bp"
        tasks.append(write_task(name, folder / f"contigs_{low}", of_class, window))
    return tasks


def describe(task: Task) -> str:
    """Return a line that describes the records of a task by source."""
    parts = []
    for source in dict.fromkeys(record.source for record in task.records):
        records = [record for record in task.records if record.source == source]
        groups, median = len({r.group for r in records}), np.median([len(r.bases) for r in records])
        parts.append(f"{source} {len(records):,} (median {median:,.0f} bp, {groups:,} groups)")
    return f"{task.name}: {task.kilobases:,.0f} kb: " + ", ".join(parts)


def to_measures(task: Task, score: Floats, call: NDArray[np.bool_]) -> Measures:
    """Measure scores (NaN: none) and calls of a task's records, with the code of `evaluate`."""
    groups = sorted({record.group for record in task.records})
    index = {group: n for n, group in enumerate(groups)}
    label = np.array([record.label for record in task.records])
    scored = Scored(
        virus=label == Label.VIRUS.code,
        score=score.astype(np.float32),
        call=call & ~np.isnan(score),
        failed=np.zeros(len(label), bool),
        sample=label,
        group=np.array([index[record.group] for record in task.records]),
        length=np.array([len(record.bases) for record in task.records]),
        floor=np.zeros(len(label), bool),
        homolog=np.zeros(len(label), bool),
    )
    measures = measure(scored, list(Label), groups)
    if measures.ranking is None:
        raise SystemExit(f"{task.name}: one of the labels has no sequence with a score")
    return measures
