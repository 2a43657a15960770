"""Commands that find nothing to do, and samples whose files cannot be used."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import rules
from planning_run import Run

from virnuc_rules.cli.main import command_options
from virnuc_rules.files.made import read_made

Command = Callable[..., subprocess.CompletedProcess[str]]
BAD = ">x\nACGT\n>y\nMKLV\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, device="cpu", threads=1)


def words(run: Run, name: str, *more: object) -> list[str]:
    """A command as a job has it: all settings are options."""
    return [name, *shlex.split(command_options(run.config, name)), *map(str, more)]


def chunk(run: Run, sample: str, *more: object) -> list[str]:
    out = run.folder.chunks(sample).path
    return words(run, "chunk", run.files[sample], "--out", out, "--sample", sample, *more)


def predict(run: Run, sample: str, *more: object) -> list[str]:
    out = run.folder.sample(sample).path
    return words(run, "predict", "--sample", sample, "--out", out, *more)


# --- nothing to do -----------------------------------------------------------------------------

IMPORTS = """
import sys
from virnuc_rules.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(*(name for name in ("torch", "pyarrow", "pandas", "numpy") if name in sys.modules))
"""


def slow_imports(*words: str) -> str:
    """Run a command in a process of its own; which of the slow modules it has imported."""
    command = [sys.executable, "-c", IMPORTS, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


NAMES = ["chunk", "serve", "predict", "collect", "report", "check", "status"]


@pytest.mark.parametrize("name", NAMES)
def test_a_command_with_nothing_to_do_imports_nothing_slow(run: Run, name: str) -> None:
    """A run over a thousand finished samples calls it a thousand times."""
    run.finish_all()
    stamp = run.path / "stamps/it"
    lines = {
        "chunk": chunk(run, "a", "--stamp", stamp),
        "predict": predict(run, "a", "--stamp", stamp),
        "status": words(run, "status", "--plan"),
    }
    line = lines.get(name) or words(run, name, "--stamp", stamp)
    assert slow_imports(*line) == ""
    assert stamp.exists() == (name != "status")


def test_nothing_is_written_again(run: Run, command: Command) -> None:
    assert command(*chunk(run, "a")).returncode == 0
    folder = run.folder.chunks("a").path
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    done = command(*chunk(run, "a", "--stamp", folder / "done"))
    assert done.returncode == 0 and f"{folder}: up to date" in done.stderr
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert before.keys() == after.keys() - {"done"}
    assert {name for name in before if before[name] != after[name]} <= {"made.json"}
    # With the FASTA files that the original would write, there is more to do.
    done = command(*chunk(run, "a", "--upstream-fasta", run.path / "upstream"))
    assert done.returncode == 0 and any((run.path / "upstream").iterdir())


def test_a_deleted_chunk_is_made_again(run: Run, command: Command) -> None:
    command(*chunk(run, "a"))
    path = run.folder.chunks("a").chunk(0)
    before = path.read_bytes()
    path.unlink()
    assert "up to date" not in command(*chunk(run, "a")).stderr
    assert path.read_bytes() == before


# --- which samples a worker embeds -------------------------------------------------------------


def test_a_worker_leaves_out_what_is_final(run: Run, command: Command) -> None:
    """Its embeddings may be deleted; train and evaluate ask for every sample."""
    run.finish()
    for task in run.tasks("a"):
        run.store.result(task.key).unlink()
    of_a, of_b = (len(run.tasks(sample)) for sample in ("a", "b"))
    done = command(*words(run, "serve"))
    assert done.returncode == 0 and "worker 0: 0 chunks, 0 to do" in done.stderr
    run.folder.sample("b").tsv("windows").unlink()
    done = command(*words(run, "serve"))
    assert f"worker 0: {of_b} chunks, 0 to do" in done.stderr
    stamp = run.path / "stamp"
    done = rules(*words(run, "serve", "--every-sample", "--stamp", stamp))
    assert f"{of_a + of_b} chunks, {of_a} to do" in done.stderr
    assert done.returncode == 0 and stamp.exists()
    assert all(run.store.is_done(task.key) for task in run.tasks("a"))


def test_a_result_that_was_cut_is_made_again(run: Run) -> None:
    run.chunk("a")
    run.files.pop("b")
    run.write_sheet()
    assert rules(*words(run, "serve")).returncode == 0
    path = run.store.result(run.tasks("a")[1].key)
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    done = rules(*words(run, "serve"))
    assert done.returncode == 0, done.stderr
    assert f"{path}: cut short, moved to {run.store.damaged}" in done.stderr
    (aside,) = run.store.damaged.iterdir()
    assert aside.read_bytes() == before[:-1]
    assert path.read_bytes() == before


# --- samples whose files cannot be used --------------------------------------------------------


def test_without_a_stamp_a_bad_file_is_an_error(run: Run, command: Command) -> None:
    run.files["b"].write_text(BAD)
    done = command(*chunk(run, "b"))
    assert done.returncode == 1
    assert done.stderr.startswith(f'error: sample b: {run.files["b"]}: record 2 ("y"): illegal')
    assert not run.folder.chunks("b").made.exists()


def test_in_a_run_a_bad_file_is_recorded_and_the_others_go_on(run: Run, command: Command) -> None:
    run.chunk("a")
    run.embed("a")
    run.predict("a")
    run.files["b"].write_text(BAD)
    stamp = run.folder.chunks("b").done
    done = command(*chunk(run, "b", "--stamp", stamp))
    problem = f'sample b: {run.files["b"]}: record 2 ("y"): illegal'
    assert done.returncode == 0 and stamp.exists()
    assert done.stderr.startswith(problem)
    found = run.looked_at().samples["b"].problem
    assert found.startswith(problem) and "\n" not in found

    tables = run.folder.sample("b")
    done = command(*predict(run, "b", "--stamp", tables.done))
    assert done.returncode == 0 and tables.done.exists()
    assert done.stderr.strip() == f"no tables: {found}"
    assert run.looked_at().samples["b"].is_final
    made = read_made(tables.made)
    assert made and made.problem == found and made.files == {}

    assert command(*words(run, "serve")).returncode == 0
    done = command(*words(run, "check", "--stamp", run.folder.checked))
    assert done.returncode == 1 and not run.folder.checked.exists()
    assert done.stderr.splitlines() == [
        found, "error: 1 of 2 samples could not be used; the others are finished"
    ]  # fmt: skip
    assert command(*words(run, "check", "--sample", "a")).returncode == 0
    assert command(*words(run, "check", "--sample", "b")).returncode == 1


def test_older_tables_of_a_sample_that_went_bad_stay(run: Run, command: Command) -> None:
    run.finish()
    run.files["b"].write_text(BAD)
    tables = run.folder.sample("b")
    before = {path: path.read_bytes() for path in tables.files()}
    command(*chunk(run, "b", "--stamp", run.folder.chunks("b").done))
    done = command(*predict(run, "b", "--stamp", tables.done))
    assert done.returncode == 0 and "no tables: sample b" in done.stderr
    assert {path: path.read_bytes() for path in tables.files()} == before


def test_a_mended_file_is_chunked(run: Run, command: Command) -> None:
    good = run.files["b"].read_text()
    run.files["b"].write_text(BAD)
    stamp = run.folder.chunks("b").done
    command(*chunk(run, "b", "--stamp", stamp))
    run.files["b"].write_text(good)
    done = command(*chunk(run, "b", "--stamp", stamp))
    assert done.returncode == 0 and "3 contigs" in done.stderr
    run.chunk("a")
    assert command(*words(run, "check", "--stamp", run.folder.checked)).returncode == 0
    assert run.folder.checked.exists()


def test_a_sample_that_is_not_chunked(run: Run, command: Command) -> None:
    done = command(*predict(run, "a"))
    assert done.returncode == 1
    assert done.stderr == "error: sample a is not chunked; run `chunk` first\n"
    assert command(*words(run, "check")).returncode == 1


# --- what users ask ----------------------------------------------------------------------------


def test_the_plan_is_shown(run: Run, command: Command) -> None:
    run.finish()
    run.config = run.config.replace(precision="fp16")
    done = command(*words(run, "status", "--plan"))
    count = sum(len(run.tasks(sample)) for sample in run.files)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "0 of 2 samples are up to date"
    assert lines[1].startswith(f"to embed: {count} chunks with ")
    assert lines[1].endswith(f"({count} other precision)")
