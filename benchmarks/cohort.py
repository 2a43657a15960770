"""What one more sample costs in a cohort that is finished: jobs, chunks, seconds.

    python benchmarks/cohort.py [--samples 1000] [--folder DIR]

Makes a finished run of small samples with the commands of the workflow (in one process: it takes
minutes), then times: looking at all products, a dry run, and a run with one sample more. The last
line is for a sheet whose one row is a pattern of 27,000 files.
"""

import argparse
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from virnuc_rules.bundles.definition import with_window
from virnuc_rules.cli.main import app, command_options
from virnuc_rules.config.load import load_config
from virnuc_rules.config.run_folder import RunFolder, worker_names
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.planning.plan import Plan

REPO = Path(__file__).resolve().parent.parent
PATTERN_FILES = 27_000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"sample_{index:05d}" for index in range(arguments.samples)]
        configfile = write_inputs(folder, names)
        seconds = timed(lambda: finish(configfile, names))
        print(f"{len(names)} samples finished, one process: {seconds:.0f} s")
        print(f"plan (all products looked at): {timed(lambda: look(configfile)):.1f} s")
        print(f"dry run, nothing to do: {dry_run(configfile):.1f} s")
        write_sample(folder, "one_more")
        one_more(configfile)
        print(f"sheet with a pattern of {PATTERN_FILES} files: {pattern(folder):.1f} s")


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.monotonic()
    function()
    return time.monotonic() - start


def write_inputs(folder: Path, names: list[str]) -> Path:
    """Write sequences, sheet and config; return the config's path."""
    (folder / "samples.tsv").write_text("sample\tpath\n")
    for name in names:
        write_sample(folder, name)
    configfile = folder / "config.yaml"
    configfile.write_text(
        f"samples: {folder}/samples.tsv\nresults: {folder}/results\n"
        f"bundle: {REPO}/tests/data/bundle\nthreads: 1\nduplicate_ids: keep\n"
    )
    return configfile


def write_sample(folder: Path, name: str) -> None:
    """Write a sample of three short contigs, and add it to the sheet."""
    letters = random.Random(name)
    path = folder / f"{name}.fa"
    path.write_text(
        "".join(f">c{i}\n{''.join(letters.choices('ACG', k=400 + 100 * i))}\n" for i in range(3))
    )
    with (folder / "samples.tsv").open("a") as sheet:
        sheet.write(f"{name}\t{path}\n")


def finish(configfile: Path, names: list[str]) -> None:
    """Do what the jobs of a run do."""
    config = with_window(load_config(configfile, {})[0])
    run, sheet = RunFolder(config.run.results), read_sheet(config.inputs.samples)

    def command(name: str, *arguments: object) -> None:
        words = [name, *shlex.split(command_options(config, name)), *map(str, arguments)]
        try:
            app(words, standalone_mode=False)
        except SystemExit as end:
            if end.code:
                raise

    for name in names:
        folder = run.chunks(name)
        where = ("--sample", name, "--out", folder.path, "--stamp", folder.done)
        command("chunk", *where, "--", *sheet.samples[name])
    for worker in worker_names(1, every=False):
        command("serve", "--stamp", run.worker_stamp(worker))
    for name in names:
        sample = run.sample(name)
        command("predict", "--sample", name, "--out", sample.path, "--stamp", sample.done)
    command("report", "--out", run.report.page, "--stamp", run.report.done)
    command("check", "--stamp", run.checked)


def look(configfile: Path) -> None:
    """Look at all products, as Snakemake's main process does before it builds its graph."""
    config = with_window(load_config(configfile, {})[0])
    Plan(config, read_sheet(config.inputs.samples)).settle()


def snakemake(configfile: Path, *arguments: str) -> str:
    """Run the workflow; return what it printed."""
    command = [
        str(Path(sys.executable).parent / "snakemake"),
        "--snakefile", str(REPO / "workflow" / "Snakefile"),
        "--profile", str(REPO / "profiles" / "local"),
        "--configfile", str(configfile), *arguments,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=configfile.parent, text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


def dry_run(configfile: Path) -> float:
    """Time a dry run that must find nothing to do."""
    start = time.monotonic()
    output = snakemake(configfile, "--dry-run")
    if "Nothing to be done" not in output:
        raise SystemExit(output)
    return time.monotonic() - start


def one_more(configfile: Path) -> None:
    """Run with one sample more; print its jobs, the chunks embedded, and the seconds."""
    start = time.monotonic()
    output = snakemake(configfile)
    seconds = time.monotonic() - start
    jobs = re.findall(r"^local(?:rule|checkpoint) (\w+):", output, re.MULTILINE)
    embedded = len(re.findall(r"chunk \d+ of \d+: \S+: [\d.]+ s$", output, re.MULTILINE))
    print(f"one sample more: {seconds:.1f} s; {embedded} chunks embedded; jobs: {', '.join(jobs)}")


def pattern(folder: Path) -> float:
    """Time reading a sheet whose row is a pattern of many files."""
    many = folder / "many"
    many.mkdir(exist_ok=True)
    for index in range(PATTERN_FILES):
        (many / f"{index}.fa").touch()
    sheet = folder / "pattern.tsv"
    sheet.write_text(f"sample\tpath\nall\t{many}/*.fa\n")
    return timed(lambda: read_sheet(sheet))


if __name__ == "__main__":
    main()
