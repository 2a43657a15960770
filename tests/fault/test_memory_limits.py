"""Each command under a limit of memory, from too little to enough: a result, or one line.

With 75 it ends where memory lacks: no file is called damaged, and none is removed.
"""

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import BUNDLE, Project, environment, rules, without_settings
from labelled import write_sheet

MB = 1 << 20
ENOUGH = 4000  # MB of addresses, for each command on this small run

# Chosen where something else lacked: the interpreter's modules, the room for a library, one of the
# last libraries, the room for work. Each was once an abort, a hang, or a file called damaged.
STEPS = {
    "chunk": (60, 200, 500, 600, ENOUGH),
    "predict": (60, 440, 900, 1600, ENOUGH),
    "collect": (60, 560, ENOUGH),
    "report": (60, 560, ENOUGH),
    "train": (60, 900, 1800, ENOUGH),
    "evaluate": (1000, ENOUGH),
    "embed": (60, 900, ENOUGH),
}
SETTINGS = ("--bundle", BUNDLE, "--results", "results")
LABELLED = (*SETTINGS, "--samples", "labelled.tsv", "--threads", 1)
COMMANDS: dict[str, tuple[object, ...]] = {
    "chunk": ("chunk", "virus.fa", "--out", "chunked", "--window", 500),
    "predict": ("predict", "--sample", "virus", "--out", "tables", *SETTINGS),
    "collect": ("collect", "--samples", "labelled.tsv", *SETTINGS),
    "report": ("report", "--samples", "labelled.tsv", *SETTINGS),
    "train": ("train", *LABELLED, "--trained-bundle", "trained", "--hidden", 16, "--max-epochs", 2),
    "evaluate": ("evaluate", *LABELLED, "--part", "all", "--out", "page.html"),
    "embed": ("embed", "--sample", "more", "--chunk", "chunk_000000.parquet", *SETTINGS),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Labelled samples, with tables."""
    folder = tmp_path_factory.mktemp("limits")
    write_sheet(folder)
    samples = {label: folder / f"{label}.fa" for label in ("virus", "non_viral")}
    project = Project(folder, samples)
    project.settings |= {"chunk_size": 100, "samples": "labelled.tsv"}
    project.chunk()
    worker = project.serve(forked=True)
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == 0, errors
    for sample in samples:
        options = ("--results", project.results, "--bundle", BUNDLE)
        rules(
            "predict", "--sample", sample, "--out", project.results / sample, *options, check=True
        )
    more = project.paths.chunks("more").path  # not embedded
    rules("chunk", folder / "virus.fa", "--out", more, "--window", 500, check=True)
    return project


def limited(megabytes: int) -> Callable[[], None]:
    """Return a function that limits the memory of the process that calls it."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * MB, megabytes * MB))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return limit


def run(project: Project, command: str, megabytes: int) -> subprocess.CompletedProcess[str]:
    """Run a real process: the fork server has imported everything."""
    return subprocess.run(
        ["virnuc-rules", *map(str, COMMANDS[command])],
        cwd=project.folder,
        env=environment(),
        preexec_fn=limited(megabytes),
        text=True,
        capture_output=True,
        timeout=300,
    )


def files(project: Project) -> dict[Path, int]:
    """Return the inode of each file, but for those with which workers tell each other of work."""
    paths = (path for path in project.folder.rglob("*") if "queue" not in path.parts)
    return {path: path.stat().st_ino for path in paths if path.is_file()}


@pytest.mark.parametrize(("command", "megabytes"), [(c, mb) for c in STEPS for mb in STEPS[c]])
def test_a_result_or_one_line(project: Project, command: str, megabytes: int) -> None:
    before = files(project)
    done = run(project, command, megabytes)
    after = files(project)
    if done.returncode:
        lines = without_settings(done.stderr).splitlines()
        assert done.returncode == 75, done.stderr
        if command == "embed":  # a worker says what it has to do before it loads anything
            lines = lines[-1:]
        assert len(lines) == 1 and ": not enough memory" in lines[0], done.stderr
        assert before.items() <= after.items()
        assert megabytes != ENOUGH
    assert before.keys() <= after.keys()
