"""The two programs that are compared: VirNuc and jaeger, each run as a user would."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from peers_tasks import Floats, Outcome, Task, to_measures
from sklearn.metrics import roc_auc_score

from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.training.page import Evaluation
from virnuc_rules.vocabulary import Label

# Runs on one sequence of each label; the faster one counts, as the first may read from the disk.
_STARTS = 2
_CELLULAR = "bacteria", "eukarya", "archaea"  # the classes of jaeger beside phage


def run(log: Path, *command: str | Path, **environment: str) -> float:
    """Run a command with its output in a file; return its seconds."""
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
    settings = {
        "samples": str(task.folder / "samples.tsv"), "results": str(results),
        "bundle": str(bundle), "threads": threads, "device": "cpu",
    }  # fmt: skip
    configfile = task.folder / "virnuc.yaml"
    configfile.write_text(yaml.safe_dump(settings))

    def command(name: str, *arguments: str | Path) -> float:
        return run(log, program, name, "--configfile", configfile, *arguments)

    folder, steps = RunFolder(results), {"chunk": 0.0}
    shutil.rmtree(results, ignore_errors=True)
    for label in Label:
        fasta = task.folder / f"{label}.fa"
        out = ("--out", folder.chunks(label).path, "--sample", label)
        steps["chunk"] += command("chunk", *out, fasta)
    steps["serve"] = command("serve")
    steps["evaluate"] = command("evaluate", "--part", "all")
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items())
    print(f"  VirNuc, {task.name}: {parts}", flush=True)
    evaluation = Evaluation.model_validate_json(folder.evaluation.json.read_bytes())
    return sum(steps.values()), evaluation


def virnuc(task: Task, bundle: Path, threads: int) -> Outcome:
    """Run VirNuc on a task."""
    first = task.first()
    start = min(run_virnuc(first, bundle, threads)[0] for _ in range(_STARTS))
    seconds, evaluation = run_virnuc(task, bundle, threads)
    measures = evaluation.windows if task.name == "windows" else evaluation.contigs
    if measures.ranking is None:
        raise SystemExit(f"VirNuc, {task.name}: one of the labels has no call")
    return Outcome("VirNuc", seconds, start, measures)


def run_jaeger(task: Task, jaeger: Path, threads: int) -> tuple[float, Path]:
    """Run jaeger on the sequences of both labels; return its seconds and its folder of tables.

    Its options are the defaults, except for windows: by default it ignores them as too short.
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
    log odds of phage, as VirNuc's is of virus. The call is true for the rows of its phage table.
    """
    margin, phage = np.full((2, len(task.records)), np.nan)
    call = np.zeros(len(task.records), bool)
    for file in ("both_jaeger.tsv", "both_phages_jaeger.tsv"):
        with (tables / file).open(newline="") as handle:
            for row in csv.DictReader(handle, delimiter="\t"):
                index = int(row["contig_id"].removeprefix("s"))
                phage[index] = float(row["phage_score"])
                cellular = [float(row[f"{kind}_score"]) for kind in _CELLULAR]
                margin[index] = phage[index] - np.logaddexp.reduce(cellular)
                call[index] = "phages" in file
    return margin, phage, call


def jaeger(task: Task, program: Path, threads: int) -> Outcome:
    """Run jaeger on a task."""
    first = task.first()
    start = min(run_jaeger(first, program, threads)[0] for _ in range(_STARTS))
    seconds, tables = run_jaeger(task, program, threads)
    margin, phage, call = jaeger_scores(task, tables)
    scored, label = ~np.isnan(phage), np.array([record.label for record in task.records])
    auroc = roc_auc_score(label[scored], phage[scored])
    name = f"jaeger, --fsize {task.window}" if task.name == "windows" else "jaeger"
    measures = to_measures(task, margin, call)
    return Outcome(name, seconds, start, measures, f"; AUROC of its phage_score alone {auroc:.3f}")
