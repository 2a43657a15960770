"""VirNuc beside another classifier and beside plain composition, on the same held-out sequences.

    python benchmarks/peers.py --sheet DIR/training.tsv --bundle BUNDLE \\
        --jaeger /work/venv-jaeger/bin/jaeger [--most-windows 10000] [--out DIR]

Of the test part of a sheet of labelled sequences (config/README.md) it takes
- windows: those of exactly the bundle's window that have an open frame, each a record of its own;
- contigs: records of at least 2,048 bp with such a window.
Each tool does all windows, then all contigs, one tool after the other, on the same cores:
- VirNuc: `virnuc-rules chunk`, `serve`, `evaluate` in processes of their own;
- jaeger: `jaeger predict` with the model that its package ships; on windows with --fsize of theirs;
- composition: scikit-learn on 4-mers and codons, fitted here to the train part of the same sheet.
The first two run on one sequence of each label before: that is what starting and loading takes.
Prints one table in Markdown; peers.md says how to read it. Needs jaeger-bio[cpu] in an environment
of its own; without --jaeger its rows are left out.
"""

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from virnuc_rules.chunking.open_frames import open_frames
from virnuc_rules.chunking.windows import count, cut
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.training.evaluation import Measures, measure
from virnuc_rules.training.page import Evaluation
from virnuc_rules.training.scored import Scored
from virnuc_rules.training.sheet import read_sheet
from virnuc_rules.training.split import Part, part_of
from virnuc_rules.vocabulary import Label

SHORTEST = 2048  # bases of a contig: jaeger's model was made for pieces of 2 kb
SEED = 1  # of the split (`seed` of the workflow), and of what is drawn
STARTS = 2  # runs on next to nothing; the faster one counts, for the first may wait for the disk
CELLULAR = "bacteria", "eukarya", "archaea"  # the classes of jaeger beside phage

Floats = NDArray[np.float64]
_CODE = np.full(256, 4, np.uint8)
_CODE[np.frombuffer(b"ACGT", np.uint8)] = range(4)
_DIGITS = np.arange(256)[:, None] // (64, 16, 4, 1) % 4
_OTHER_STRAND = (3 - _DIGITS[:, ::-1]) @ (64, 16, 4, 1)  # of each 4-mer, as a number
_CANONICAL = np.flatnonzero(np.arange(256) <= _OTHER_STRAND)


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence, upper case, and what the sheet says of it."""

    id: str
    source: str  # sample of the sheet
    label: int  # code of a Label
    group: str
    bases: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """Sequences that every tool gets: files `virus.fa` and `non_viral.fa`, and their records."""

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
    """What a tool made of a task."""

    tool: str
    seconds: float
    start: float | None  # seconds of the same on one sequence of each label; None: in this process
    measures: Measures
    remark: str = ""


# ----- sequences -----


def read_records(sheet: Path, part: Part) -> Iterator[Record]:
    """Yield the records of one part, as `virnuc-rules train` splits them."""
    for sample, files in read_sheet(sheet).items():
        for path, known in files.items():
            if known.part not in (None, part):
                continue
            for contig in Sequences([Path(path)], sample).contigs():
                group = known.group_of(contig.id)
                if (known.part or part_of(group, SEED)) == part:
                    bases = contig.bases(0, contig.length).upper().replace(b"U", b"T")
                    yield Record(contig.id, sample, known.label, group, bases)


def cut_open(record: Record, window: int) -> list[Record]:
    """Return the windows of a record that have an open frame; the last one may be short."""
    number = np.array([count(len(record.bases), window)])
    windows = cut(np.array([len(record.bases)]), np.zeros_like(number), number, window)
    found = open_frames(record.bases, windows.start, windows.end)
    return [
        Record(f"{record.id}_{row}", record.source, record.label, record.group, record.bases[a:b])
        for row in np.unique(found.window).tolist()
        for a, b in [(int(windows.start[row]), int(windows.end[row]))]
    ]


def draw(windows: list[Record], most: int) -> list[Record]:
    """Draw at most half of `most` of each label, in their order."""
    random = np.random.default_rng(SEED)
    kept: list[Record] = []
    for label in range(len(Label)):
        mine = [record for record in windows if record.label == label]
        drawn = random.permutation(len(mine))[: most // 2]
        kept.extend(mine[row] for row in np.sort(drawn).tolist())
    return kept


def write_task(name: str, folder: Path, records: list[Record], window: int) -> Task:
    """Write a FASTA file and a table of groups for each label, and the sheet of both.

    Ids are numbers: what tools do with long or odd ones is not the question here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["sample\tpath\tlabel\tgroups\n"]
    for index, label in enumerate(Label):
        mine = [(n, record) for n, record in enumerate(records) if record.label == index]
        fasta, groups = folder / f"{label}.fa", folder / f"{label}.groups.tsv"
        fasta.write_text("".join(f">s{n}\n{record.bases.decode()}\n" for n, record in mine))
        groups.write_text("id\tgroup\n" + "".join(f"s{n}\t{record.group}\n" for n, record in mine))
        rows.append(f"{label}\t{fasta}\t{label}\t{groups}\n")
    (folder / "samples.tsv").write_text("".join(rows))
    return Task(name, folder, records, window)


def make_tasks(folder: Path, sheet: Path, window: int, options: argparse.Namespace) -> list[Task]:
    """Write the windows and the contigs of the test part."""
    windows: list[Record] = []
    contigs: list[Record] = []
    for record in read_records(sheet, "test"):
        found = cut_open(record, window)
        windows.extend(piece for piece in found if len(piece.bases) == window)
        if found and len(record.bases) >= SHORTEST:
            contigs.append(record)
    print(f"test part: {len(windows):,} windows, {len(contigs):,} contigs", flush=True)
    return [
        write_task("windows", folder / "windows", draw(windows, options.most_windows), window),
        write_task("contigs", folder / "contigs", draw(contigs, options.most_contigs), window),
    ]


def describe(task: Task) -> str:
    """Say what a task is made of, by source."""
    parts = []
    for source in dict.fromkeys(record.source for record in task.records):
        mine = [record for record in task.records if record.source == source]
        groups, middle = len({r.group for r in mine}), np.median([len(r.bases) for r in mine])
        parts.append(f"{source} {len(mine):,} (median {middle:,.0f} bp, {groups:,} groups)")
    return f"{task.name}: {task.kilobases:,.0f} kb: " + ", ".join(parts)


def to_measures(task: Task, score: Floats, call: NDArray[np.bool_]) -> Measures:
    """Measure scores (NaN: none) and calls of a task's records, with the code of `evaluate`."""
    groups = sorted({record.group for record in task.records})
    number = {group: n for n, group in enumerate(groups)}
    label = np.array([record.label for record in task.records])
    scored = Scored(
        virus=label == Label.VIRUS.code,
        score=score.astype(np.float32),
        call=call & ~np.isnan(score),
        failed=np.zeros(len(label), bool),
        sample=label,
        group=np.array([number[record.group] for record in task.records]),
        length=np.array([len(record.bases) for record in task.records]),
    )
    found = measure(scored, list(Label), groups)
    if found.ranking is None:
        raise SystemExit(f"{task.name}: one of the labels has no sequence with a score")
    return found


# ----- tools -----


def run(log: Path, *command: str | Path, **environment: str) -> float:
    """Run a command, its output to a file; return its seconds."""
    begin = time.perf_counter()
    with log.open("a") as output:
        done = subprocess.run(
            list(map(str, command)),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    seconds = time.perf_counter() - begin
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{' '.join(map(str, command))}\n{last}\nfailed; see {log}")
    return seconds


def run_virnuc(task: Task, bundle: Path, threads: int) -> tuple[float, Evaluation]:
    """Chunk, serve and evaluate; return the seconds of all processes, and `evaluation.json`."""
    program = Path(sys.executable).with_name("virnuc-rules")
    results, log = task.folder / "virnuc", task.folder / "virnuc.log"
    shared = (
        *("--samples", task.folder / "samples.tsv", "--results", results, "--bundle", bundle),
        *("--threads", str(threads)),
    )
    page = results / "evaluation.html"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    steps = {"chunk": 0.0}
    for label in Label:
        out = ("--out", results / "chunks" / label, "--sample", label)
        fasta, window = task.folder / f"{label}.fa", str(task.window)
        steps["chunk"] += run(log, program, "chunk", *out, "--window", window, fasta)
    steps["serve"] = run(log, program, "serve", *shared, "--device", "cpu")
    steps["evaluate"] = run(log, program, "evaluate", *shared, "--part", "all", "--out", page)
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items())
    print(f"  VirNuc, {task.name}: {parts}", flush=True)
    evaluation = Evaluation.model_validate_json(page.with_suffix(".json").read_bytes())
    return sum(steps.values()), evaluation


def virnuc(task: Task, bundle: Path, threads: int) -> Outcome:
    """Run VirNuc on a task."""
    first = task.first()
    start = min(run_virnuc(first, bundle, threads)[0] for _ in range(STARTS))
    seconds, evaluation = run_virnuc(task, bundle, threads)
    found = evaluation.windows if task.name == "windows" else evaluation.contigs
    if found.ranking is None:
        raise SystemExit(f"VirNuc, {task.name}: one of the labels has no call")
    return Outcome("VirNuc", seconds, start, found)


def run_jaeger(task: Task, jaeger: Path, threads: int) -> tuple[float, Path]:
    """Run jaeger on the sequences of both labels; return its seconds, and the folder of its tables.

    Everything is its default but for windows, which it would leave out as too short.
    """
    fasta, out = task.folder / "both.fa", task.folder / "jaeger"
    fasta.write_text("".join((task.folder / f"{label}.fa").read_text() for label in Label))
    shutil.rmtree(out, ignore_errors=True)
    size = str(task.window)
    short = ("--fsize", size, "--stride", size) if task.name.endswith("windows") else ()
    seconds = run(
        task.folder / "jaeger.log",
        *(jaeger, "predict", "-i", fasta, "-o", out, "--cpu", "--workers", str(threads)),
        *("--getalllabels", *short),
        TF_NUM_INTRAOP_THREADS=str(threads),
    )
    print(f"  jaeger, {task.name}: {seconds:.1f} s", flush=True)
    (table,) = out.glob("*/both_jaeger.tsv")
    return seconds, table.parent


def jaeger_scores(task: Task, tables: Path) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return margin, phage score and call of each record.

    Its scores are logits of four classes, means over the fragments of a contig. The margin is the
    log odds of phage, as VirNuc's is of virus. Called is what is in its table of phages.
    """
    margin, phage = np.full((2, len(task.records)), np.nan)
    call = np.zeros(len(task.records), bool)
    for file in ("both_jaeger.tsv", "both_phages_jaeger.tsv"):
        with (tables / file).open(newline="") as handle:
            for row in csv.DictReader(handle, delimiter="\t"):
                number = int(row["contig_id"].removeprefix("s"))
                phage[number] = float(row["phage_score"])
                others = [
                    float(row[f"{kind}_score"]) for kind in ("bacteria", "eukarya", "archaea")
                ]
                margin[number] = phage[number] - np.logaddexp.reduce(others)
                call[number] = "phages" in file
    return margin, phage, call


def jaeger(task: Task, program: Path, threads: int) -> Outcome:
    """Run jaeger on a task."""
    first = task.first()
    start = min(run_jaeger(first, program, threads)[0] for _ in range(STARTS))
    seconds, tables = run_jaeger(task, program, threads)
    margin, phage, call = jaeger_scores(task, tables)
    found, label = ~np.isnan(phage), np.array([record.label for record in task.records])
    plain = roc_auc_score(label[found], phage[found])
    name = f"jaeger, --fsize {task.window}" if task.name == "windows" else "jaeger"
    measures = to_measures(task, margin, call)
    return Outcome(name, seconds, start, measures, f"; AUROC of its phage_score alone {plain:.3f}")


# ----- composition -----


def features(windows: list[Record], window: int) -> Floats:
    """Return shares of 4-mers, both strands as one, and of the codons of open frames, [N, 200]."""
    buffer = b"".join(record.bases.ljust(window, b"N") for record in windows)
    code = _CODE[np.frombuffer(buffer, np.uint8)].reshape(len(windows), window)
    start = np.arange(len(windows)) * window
    end = start + np.array([len(record.bases) for record in windows])
    frames = open_frames(buffer, start, end)
    words = _counts(code, 256, 1)
    words = (words + words[:, _OTHER_STRAND])[:, _CANONICAL]
    codons = np.zeros((len(windows), 64))
    rows = zip(frames.window.tolist(), frames.nucleotide, frames.protein, strict=True)
    for row, nucleotide, protein in rows:
        bases = _CODE[np.frombuffer(nucleotide[: 3 * len(protein)], np.uint8)]
        codons[row] += _counts(bases[None], 64, 3)[0]
    return np.hstack([part / part.sum(axis=1, keepdims=True).clip(1) for part in (words, codons)])


def _counts(code: NDArray[np.uint8], number: int, step: int) -> Floats:
    """Count the words of log4(number) bases from every `step`-th on, [N, number]."""
    length = number.bit_length() // 2
    width = code.shape[1] - length + 1
    digits = [code[:, place : place + width : step].astype(np.int64) for place in range(length)]
    known = np.all([digit < 4 for digit in digits], axis=0)
    words = sum(digit * 4**place for place, digit in enumerate(reversed(digits)))
    row = np.arange(len(code))[:, None] * number
    found = np.bincount((row + words)[known], minlength=len(code) * number)
    return found.reshape(len(code), number).astype(float)


def fit_composition(windows: list[Record], window: int) -> dict[str, Any]:
    """Fit two plain models to windows of the train part."""
    label = np.array([record.label for record in windows])
    x = features(windows, window)
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "boosted trees": HistGradientBoostingClassifier(
            max_iter=200, early_stopping=False, random_state=SEED
        ),
    }
    counts = Counter(list(Label)[value] for value in label.tolist())
    of = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    for name, model in models.items():
        begin = time.perf_counter()
        model.fit(x, label)
        print(f"  {name}: fitted to {of} in {time.perf_counter() - begin:.1f} s", flush=True)
    return models


def composition(task: Task, name: str, model: Any) -> Outcome:
    """Score a task's windows; a contig's score is the mean of its windows', its call their vote."""
    begin = time.perf_counter()
    cuts = [cut_open(record, task.window) for record in task.records]
    contig = np.repeat(np.arange(len(cuts)), [len(found) for found in cuts])
    windows = [piece for found in cuts for piece in found]
    probability = model.predict_proba(features(windows, task.window))[:, Label.VIRUS.code]
    number = np.bincount(contig, minlength=len(cuts))
    score = np.bincount(contig, probability, len(cuts)) / number
    votes = np.bincount(contig, probability >= 0.5, len(cuts)) / number
    seconds = time.perf_counter() - begin
    print(f"  {name}, {task.name}: {seconds:.1f} s", flush=True)
    return Outcome(f"composition, {name}", seconds, None, to_measures(task, score, votes >= 0.5))


# ----- the table -----


def table(outcomes: dict[str, list[Outcome]], tasks: list[Task]) -> Iterator[str]:
    """Yield the lines of the table: speed, then accuracy."""
    yield (
        "| sequences | tool | wall (s) | start (s) | seq/s | kb/s | seq/s, started "
        "| kb/s, started | AUROC (95 %) | recall | false positives | recall at 1 % |"
    )
    yield "| --- | --- |" + " ---: |" * 10
    for task in tasks:
        what = f"{len(task.records):,} {task.name}, {task.kilobases:,.0f} kb"
        for outcome in outcomes[task.name]:
            yield f"| {what} | {outcome.tool} | " + " | ".join(cells(task, outcome)) + " |"


def cells(task: Task, outcome: Outcome) -> list[str]:
    amounts, found, start = (len(task.records), task.kilobases), outcome.measures, outcome.start
    rest = outcome.seconds - start if start is not None else 0.0
    known = rest > 0.1 * outcome.seconds  # else it is the difference of two noisy times
    ranking = found.ranking
    assert ranking is not None  # checked where it was measured
    interval = ranking.auroc_interval
    return [
        f"{outcome.seconds:.2f}" if outcome.seconds < 10 else f"{outcome.seconds:.1f}",
        "in process" if start is None else f"{start:.1f}",
        *(rate(amount / outcome.seconds) for amount in amounts),
        *(rate(amount / rest) if known else "" for amount in amounts),
        f"{ranking.auroc:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""),
        *(f"{x:.1%}" for x in (found.recall or 0.0, found.false_positive_rate or 0.0)),
        f"{ranking.recall_at_1_percent_fpr:.1%}",
    ]


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def notes(task: Task, outcome: Outcome) -> str:
    """Say how many of each source are called virus, of those with a score."""
    source = {record.group: record.source for record in task.records}
    called: Counter[str] = Counter()
    of: Counter[str] = Counter()
    for subset in outcome.measures.by_group:
        for counts in subset.counts.values():
            called[source[subset.name]] += counts.called_virus
            of[source[subset.name]] += counts.called
    parts = ", ".join(f"{name} {called[name]:,} of {of[name]:,}" for name in of if of[name])
    return f"- {task.name}, {outcome.tool}: {parts}{outcome.remark}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sheet", type=Path, required=True, help="of labelled sequences")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--jaeger", type=Path, help="program; without it, no jaeger")
    parser.add_argument("--most-windows", type=int, default=10_000)
    parser.add_argument("--most-contigs", type=int, default=2_000)
    parser.add_argument("--train-windows", type=int, default=60_000, help="for composition")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep files in DIR/peers, which is replaced")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.out or Path(temporary)).resolve() / "peers"
        shutil.rmtree(folder, ignore_errors=True)
        compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    bundle = Bundle(options.bundle)
    warn(bundle)
    tasks = make_tasks(folder, options.sheet, bundle.card.window, options)
    print("\n".join(map(describe, tasks)), flush=True)
    outcomes: dict[str, list[Outcome]] = {}
    for task in tasks:
        outcomes[task.name] = [virnuc(task, options.bundle.resolve(), options.threads)]
        if options.jaeger:
            outcomes[task.name].append(jaeger(task, options.jaeger, options.threads))
    train = [
        piece
        for record in read_records(options.sheet, "train")
        for piece in cut_open(record, bundle.card.window)
        if len(piece.bases) == bundle.card.window
    ]
    models = fit_composition(draw(train, options.train_windows), bundle.card.window)
    for task in tasks:
        outcomes[task.name] += [composition(task, *item) for item in models.items()]
    text = [*table(outcomes, tasks), "", "Called virus:"]
    text += [notes(task, outcome) for task in tasks for outcome in outcomes[task.name]]
    print("\n" + "\n".join(text))
    print(f"\n{about(options, bundle)}; all of it in {time.perf_counter() - begin:.0f} s")


def warn(bundle: Bundle) -> None:
    """Say where the test part is no test of this bundle."""
    training = bundle.card.training
    if training is None:
        print("Careful: the bundle does not say what it was trained on, if on anything")
    elif training.seed != SEED:
        print(f"Careful: the bundle was trained with seed {training.seed}, not {SEED}: it has seen")
        print("groups of this test part")


def about(options: argparse.Namespace, bundle: Bundle) -> str:
    """Say on what, with what and when."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    packages = [f"{name} {version(name)}" for name in ("virnuc_rules", "torch", "scikit-learn")]
    if options.jaeger:
        ask = "from importlib.metadata import version as v; print(v('jaeger-bio'), v('tensorflow'))"
        command = [options.jaeger.with_name("python"), "-c", ask]
        found = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
        packages.append("jaeger-bio {}, tensorflow {}".format(*found.split()))
    return (
        f"{time.strftime('%Y-%m-%d')}; {cpu}, {options.threads} cores; {', '.join(packages)}; "
        f"bundle {bundle.card.name} ({bundle.card.fingerprint[:12]}); seed {SEED}"
    )


if __name__ == "__main__":
    main()
