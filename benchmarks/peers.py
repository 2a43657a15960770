"""VirNuc beside another classifier and beside plain composition, on the same held-out sequences.

    python benchmarks/peers.py --sheet DIR/training.tsv --bundle BUNDLE \\
        [--jaeger ENVIRONMENT/bin/jaeger] [--max-windows 10000] [--out DIR]

Of the test part of a sheet of labelled sequences (config/README.md) it takes
- windows: those of exactly the bundle's window that have an open frame, each a record of its own;
- contigs of three length classes: records with such a window.
Each tool does all windows, then all contigs, one tool after the other, on the same cores:
- VirNuc: `virnuc-rules chunk`, `serve`, `evaluate` in processes of their own;
- jaeger: `jaeger predict` with the model of its package; for windows with their size as --fsize;
- composition: scikit-learn on 4-mers and codons, fitted here to the train part of the same sheet.
The first two also run on one sequence of each label: that measures starting and loading.
Prints one table in Markdown; docs/peers.md has it, and says how to read it. Needs jaeger-bio[cpu]
in an environment of its own; without --jaeger its rows are left out.
"""

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from peers_composition import composition, fit_composition
from peers_tasks import SEED, Outcome, Task, cut_open, describe, draw, make_tasks, read_records
from peers_tools import jaeger, virnuc

from virnuc_rules.models.bundle import Bundle
from virnuc_rules.training.intervals import Interval

RESULT, NEXT = "## Result\n", "## Columns"  # headings of the page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sheet", type=Path, required=True, help="of labelled sequences")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--jaeger", type=Path, help="program; without it, no jaeger")
    parser.add_argument("--max-windows", type=int, default=10_000)
    parser.add_argument("--max-contigs", type=int, default=1_000, help="of a length class")
    parser.add_argument("--train-windows", type=int, default=60_000, help="for composition")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, help="Markdown whose section Result is replaced")
    parser.add_argument("--out", type=Path, help="keep the files in OUT/peers, which is replaced")
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
    text = [*table(outcomes, tasks), "", "Called virus:", ""]
    text += [notes(task, outcome) for task in tasks for outcome in outcomes[task.name]]
    text += ["", f"{about(options, bundle)}; all of it in {time.perf_counter() - begin:.0f} s"]
    print("\n" + "\n".join(text))
    if options.page:
        before, rest = options.page.read_text().split(RESULT)
        after = rest[rest.index(NEXT) :]
        options.page.write_text("\n".join([before + RESULT, *text, "", after]))


def warn(bundle: Bundle) -> None:
    """Print a warning where the bundle may have been trained on the test part."""
    training = bundle.card.training
    if training is None:
        print("warning: the bundle has no record of what it was trained on")
    elif training.seed != SEED:
        print(f"warning: the bundle was trained with seed {training.seed}, not {SEED}:")
        print("it was trained on groups of this test part")


def about(options: argparse.Namespace, bundle: Bundle) -> str:
    """Return a line with the date, the processor, the versions and the bundle."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    packages = [f"{name} {version(name)}" for name in ("virnuc_rules", "torch", "scikit-learn")]
    if options.jaeger:
        ask = "from importlib.metadata import version as v; print(v('jaeger-bio'), v('tensorflow'))"
        command = [options.jaeger.with_name("python"), "-c", ask]
        versions = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
        packages.append("jaeger-bio {}, tensorflow {}".format(*versions.split()))
    return (
        f"{time.strftime('%Y-%m-%d')}; {cpu}, {options.threads} cores; {', '.join(packages)}; "
        f"bundle {bundle.card.name} ({bundle.card.fingerprint[:12]}); seed {SEED}"
    )


def table(outcomes: dict[str, list[Outcome]], tasks: list[Task]) -> Iterator[str]:
    """Yield the lines of the table: speed, then accuracy."""
    yield (
        "| sequences | tool | wall (s) | start (s) | seq/s | kb/s | seq/s, started "
        "| kb/s, started | AUROC | recall | false positives | recall at 1 % |"
    )
    yield "| --- | --- |" + " ---: |" * 10
    for task in tasks:
        what = f"{len(task.records):,} {task.name}, {task.kilobases:,.0f} kb"
        for outcome in outcomes[task.name]:
            yield f"| {what} | {outcome.tool} | " + " | ".join(cells(task, outcome)) + " |"


def cells(task: Task, outcome: Outcome) -> list[str]:
    amounts, measures = (len(task.records), task.kilobases), outcome.measures
    start, ranking = outcome.start, outcome.measures.ranking
    started = outcome.seconds - start if start is not None else 0.0
    is_known = started > 0.1 * outcome.seconds  # else it is the difference of two noisy times
    assert ranking is not None  # checked when it was measured
    rates = (
        (measures.recall, measures.recall_interval),
        (measures.false_positive_rate, measures.false_positive_rate_interval),
    )
    return [
        f"{outcome.seconds:.2f}" if outcome.seconds < 10 else f"{outcome.seconds:.1f}",
        "in process" if start is None else f"{start:.1f}",
        *(rate(amount / outcome.seconds) for amount in amounts),
        *(rate(amount / started) if is_known else "" for amount in amounts),
        with_interval(ranking.auroc, ranking.auroc_interval, ".3f"),
        *(with_interval(value or 0.0, interval, ".1%") for value, interval in rates),
        f"{ranking.recall_at_1_percent_fpr:.1%}",
    ]


def with_interval(value: float, interval: Interval | None, form: str) -> str:
    """Return a value with its 95 % interval, where there are enough groups for one."""
    ends = f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else ""
    return f"{value:{form}}{ends}"


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def notes(task: Task, outcome: Outcome) -> str:
    """Return how many sequences of each source are called virus, of those with a score."""
    source = {record.group: record.source for record in task.records}
    called: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for subset in outcome.measures.by_group:
        for counts in subset.counts.values():
            called[source[subset.name]] += counts.called_virus
            total[source[subset.name]] += counts.called
    parts = [f"{name} {called[name]:,} of {count:,}" for name, count in total.items() if count]
    return f"- {task.name}, {outcome.tool}: {', '.join(parts)}{outcome.remark}"


if __name__ == "__main__":
    main()
