"""What `virnuc-rules estimate` says of a run, and what the run then takes.

    python benchmarks/estimate.py [--copies 20] [--folder DIR]

Runs the workflow on the demo, with embeddings and with scores only, on a cohort of mutated copies
of its contigs, and on reads drawn from them. Each forecast is made from all windows and from a part
of them, with the speed of the workers of the first run. It takes minutes.

Other work on the machine changes the seconds of workers from run to run. So their seconds of CPU
are there too, for which the forecast is multiplied with the CPU seconds of a second in the first
run.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.serving.worker_report import read_reports

REPO = Path(__file__).resolve().parent.parent
DEMO = {name: REPO / f"demo/data/{name}.fa.gz" for name in ("lake", "gut")}
READS, READ = 10_000, 150  # bases
MUTATED = 0.02  # of the bases
SECONDS, CPU = "seconds of workers", "CPU seconds of workers"
Numbers = dict[str, float]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        first = write_config(folder, "first", DEMO, chunk_size=50)
        run(first)
        rows("demo", first, folder, [1, 0.25], keep="first")
        scores = write_config(folder, "scores", DEMO, chunk_size=50, keep_embeddings=False)
        rows("demo, scores only", scores, folder, [1, 0.25])
        files = write_cohort(folder, arguments.copies)
        cohort = write_config(folder, "cohort", files, chunk_size=200)
        rows(f"{arguments.copies} times the demo", cohort, folder, [1, 0.05])
        reads = write_config(folder, "reads", write_reads(folder), chunk_size=1000)
        rows(f"{READS:,} reads of {READ} bases", reads, folder, [1, 0.1])


def rows(title: str, config: Path, folder: Path, fractions: list[float], keep: str = "") -> None:
    """Forecast and run; print a line for each number. keep: results of a run that was done."""
    speed = folder / "first"
    forecasts = [forecast(config, folder / "none", fraction, speed) for fraction in fractions]
    if not keep:
        run(config)
    truth = measure(folder / config.stem)
    parts = " | ".join(f"of {fraction:g} of the windows" for fraction in fractions)
    print(f"\n| {title} | run | forecast {parts} |\n|{' --- |' * (2 + len(fractions))}")
    for name, value in truth.items():
        told = " | ".join(f"{f[name]:,.0f} ({f[name] / value - 1:+.1%})" for f in forecasts)
        print(f"| {name} | {value:,.0f} | {told} |", flush=True)


def write_config(folder: Path, name: str, files: dict[str, Path], **settings: Any) -> Path:
    """Write a sheet and a config; return the config's path. Results are in a folder of its name."""
    sheet, config = folder / f"{name}.tsv", folder / f"{name}.json"
    lines = ["sample\tpath", *(f"{sample}\t{path}" for sample, path in files.items())]
    sheet.write_text("\n".join(lines) + "\n")
    keys = {"samples": str(sheet), "results": str(folder / name), "lease_seconds": 5}
    config.write_text(json.dumps(keys | {"bundle": str(REPO / "demo/bundle")} | settings))
    return config


def write_cohort(folder: Path, copies: int) -> dict[str, Path]:
    """Write copies of the demo's contigs, mutated and rotated, five copies a sample."""
    contigs = demo_contigs()
    files, chance = dict[str, Path](), random.Random(1)
    for copy in range(copies):
        path = folder / f"copies_{copy // 5}.fa"
        with path.open("a" if copy % 5 else "w") as handle:
            for name, bases in contigs:
                turn = chance.randrange(len(bases))
                letters = list(bases[turn:] + bases[:turn])
                for place in range(len(letters)):
                    if chance.random() < MUTATED:
                        letters[place] = chance.choice("ACGT")
                handle.write(f">{name}_{copy}\n{''.join(letters)}\n")
        files[path.stem] = path
    return files


def write_reads(folder: Path) -> dict[str, Path]:
    """Write reads of the demo's contigs, drawn at random."""
    chance, path = random.Random(1), folder / "reads.fa"
    contigs = demo_contigs()
    lengths = [len(bases) for _, bases in contigs]
    with path.open("w") as handle:
        for number, (_, bases) in enumerate(chance.choices(contigs, lengths, k=READS)):
            start = chance.randrange(len(bases) - READ)
            handle.write(f">VH00123:45:AAC{number:012d}\n{bases[start : start + READ]}\n")
    return {"reads": path}


def demo_contigs() -> list[tuple[str, str]]:
    """Read names and bases of the demo's contigs."""
    return [
        (contig.id, contig.bases(0, contig.length).decode())
        for name, path in DEMO.items()
        for contig in Sequences([path], name).contigs()
    ]


def run(config: Path) -> None:
    """Run the workflow; the CPU seconds of its worker go to a file."""
    real, shim = shutil.which("virnuc-rules"), config.parent / "bin" / "virnuc-rules"
    cpu = shlex.quote(str(config.with_suffix(".cpu")))
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(
        f'#!/bin/bash\n[ "$1" = serve ] || exec {real} "$@"\n{real} "$@"; code=$?\n'
        f"times > {cpu}; exit $code\n"
    )
    shim.chmod(0o755)
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    profile = ["--profile", str(REPO / "profiles/local"), "--cores", "2"]
    command = ["snakemake", "--snakefile", str(REPO / "workflow/Snakefile"), *profile]
    command += ["--configfile", str(config)]
    with config.with_suffix(".log").open("w") as log:
        subprocess.run(
            command, cwd=config.parent, env={**os.environ, "PATH": path}, check=True,
            stderr=log, stdout=log,
        )  # fmt: skip


def cpu_seconds(results: Path) -> float:
    """Read what `times` wrote: user and system time of the shell, and in line 2 of its children."""
    words = results.with_suffix(".cpu").read_text().split()[2:]
    return sum(60 * float(w.split("m")[0]) + float(w.split("m")[1].rstrip("s")) for w in words)


def forecast(config: Path, results: Path, fraction: float, speed: Path) -> Numbers:
    """Ask for the forecast, with the speed of the workers of a run."""
    command = ["virnuc-rules", "estimate", "--json", "--configfile", config, "--results", results]
    options = ["--fraction", str(fraction), "--measured-in", speed]
    done = subprocess.run(map(str, [*command, *options]), check=True, capture_output=True)
    said = json.loads(done.stdout)
    kept = json.loads(config.read_text()).get("keep_embeddings", True)
    counts = {key: said[key] for key in ("windows", "open_frames", "chunks", "inodes")}
    result = said["embeddings_bytes" if kept else "scores_bytes"]
    seconds = 3600 * said["times"][0]["device_hours"]
    cpu = cpu_seconds(speed) / worker_seconds(speed)
    size = said["other_bytes"] + result
    return {**counts, "bytes": size, SECONDS: seconds, CPU: seconds * cpu}


def measure(results: Path) -> Numbers:
    """Count what a finished run has."""
    folder = RunFolder(results)
    manifests = [read_manifest(ChunkFolder(p)) for p in folder.chunk_folders.iterdir()]
    sizes = {p.stat().st_ino: p.stat().st_size * p.is_file() for p in results.rglob("*")}
    return {
        "windows": sum(manifest.windows for manifest in manifests),
        "open_frames": sum(manifest.open_frames for manifest in manifests),
        "chunks": sum(len(manifest.chunks) for manifest in manifests),
        "inodes": len(sizes) + 1,
        "bytes": sum(sizes.values()),
        SECONDS: worker_seconds(results),
        CPU: cpu_seconds(results),
    }


def worker_seconds(results: Path) -> float:
    """Return the seconds from start to end of the workers of a run."""
    reports = read_reports(RunFolder(results).worker_reports)
    return sum((report.updated - report.started).total_seconds() for report in reports)


if __name__ == "__main__":
    main()
