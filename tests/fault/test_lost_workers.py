"""Workers that hang, that a chunk kills, and that are asked to stop while they hang."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Project, wait_until

from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.serving.lifetime import SIGNALS

LEASE = 1
# What a worker does when it comes to a chunk: {path} is that of the chunk.
AT_A_CHUNK = """
import ctypes, os, signal
from virnuc_rules.embedding import tasks
read = tasks.Task.read

def read_or(task):
    if task.path.name == {name!r}:
        {what}
    return read(task)

tasks.Task.read = read_or
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
CRASHED = "ctypes.string_at(0)"
# A lock that is locked twice: the main thread sleeps in the kernel, and no signal wakes it.
STUCK = (
    "open('stuck', 'w').close(); lock = ctypes.{how}(None).pthread_mutex_lock;"
    " mutex = ctypes.create_string_buffer(64); lock(mutex); lock(mutex)"
)
IN_A_LOCK, WITH_THE_GIL = STUCK.format(how="CDLL"), STUCK.format(how="PyDLL")


def at_a_chunk(project: Project, what: str, number: int = 3) -> str:
    manifest = read_manifest(project.paths.chunks("lake"))
    return AT_A_CHUNK.format(name=manifest.chunks[number].file, what=what)


@pytest.fixture
def few(tmp_path: Path, many: Project) -> Project:
    """About ten chunks."""
    many.settings.update(chunk_size=50, lease_seconds=LEASE)
    many.chunk()
    return many


def outcome(worker: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = worker.communicate(timeout=300)
    return worker.returncode, errors


@pytest.mark.parametrize("what", [KILLED, CRASHED], ids=["SIGKILL", "SIGSEGV"])
def test_a_chunk_that_kills_its_process_costs_three(few: Project, what: str) -> None:
    patch = at_a_chunk(few, what)
    workers = [few.serve(number, patch=patch) for number in range(6)]
    ends = [outcome(worker) for worker in workers]
    dead = [code for code, _ in ends if code < 0]
    assert len(dead) == 3, ends
    left = [errors for code, errors in ends if code == 1]
    assert len(left) >= 1 and len(left) + len(dead) <= 6
    assert len(few.embeddings()) == few.chunks() - 1
    (record,) = few.failures()
    failure = json.loads(record.read_text())
    assert failure["task"] == "lake/chunk_000003.parquet"
    assert failure["error"].startswith("3 workers were lost with it: ")
    assert len(re.findall(r"\d-\S+ \(process \d+; log: standard error\)", failure["error"])) == 3
    assert all("chunk_000003.parquet failed: 3 workers were lost" in errors for errors in left)
    assert few.left_over() == []
    # The next run begins anew: here with the chunk mended.
    code, errors = outcome(few.serve(forked=True))
    assert code == 0, errors
    assert len(few.embeddings()) == few.chunks() and few.failures() == []


def test_workers_that_are_started_by_hand_one_after_the_other(few: Project) -> None:
    """Each of them could begin a run, and count from nothing; but a claim is there."""
    patch = at_a_chunk(few, KILLED)
    codes = [outcome(few.serve(number, patch=patch))[0] for number in range(4)]
    assert codes == [-signal.SIGKILL] * 3 + [1]
    assert len(few.embeddings()) == few.chunks() - 1


@pytest.mark.skipif(os.environ.get("VIRNUC_FORK") == "0", reason="its workers are patched")
def test_a_worker_that_is_started_again_does_not_try_it(
    few: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Snakemake does, with `retries`: the run is the same."""
    monkeypatch.setenv("VIRNUC_PATCH", at_a_chunk(few, KILLED))
    done = few.run("--until", "serve", "--retries", "3", "--config", "workers=3")
    assert done.returncode != 0, done.stdout
    logs = "".join(p.read_text() for p in few.results.glob("logs/serve/*.attempt-*.log"))
    assert logs.count("loaded esm2") <= 3 + 3, logs  # three were lost, three more began
    assert "3 workers were lost with it" in logs
    assert len(few.embeddings()) == few.chunks() - 1


def test_a_chunk_that_hangs_ends_its_worker(few: Project) -> None:
    """Ten leases after it has stood still, for a worker that has done a chunk."""
    code, errors = outcome(few.serve(patch=at_a_chunk(few, IN_A_LOCK, 3)))
    assert code == 75 and re.search(r"no progress for \d+ s \(limit \d+ s\)", errors), errors
    assert "read_or" in errors  # where it hung
    assert few.claims() == [] and "no progress" in few.report()["exit_reason"]
    code, errors = outcome(few.serve(forked=True))
    assert code == 0 and len(few.embeddings()) == few.chunks()


def test_signals_end_workers_that_hang(few: Project) -> None:
    """One worker for each; none of them comes to its handler in the main thread."""
    manifest = read_manifest(few.paths.chunks("lake"))
    workers = {}
    for index, number in enumerate(SIGNALS):
        patch = at_a_chunk(few, IN_A_LOCK, 0).replace(
            f"task.path.name == {manifest.chunks[0].file!r}", "True"
        )
        workers[number] = few.serve(index, patch=patch, lease_seconds=60)
    wait_until(lambda: len(few.claims()) == len(workers))
    for number, worker in workers.items():
        worker.send_signal(number)
    for number, worker in workers.items():
        code, errors = outcome(worker)
        assert code == 75, (number, code, errors)
        assert f"interrupted by {number.name}" in errors and "within" in errors
    assert few.claims() == [] and few.embeddings() == {}


def test_a_signal_ends_a_worker_that_hangs_and_cannot_log(few: Project) -> None:
    """Its standard error is a pipe that nobody reads, and that is full."""
    fill = (
        "os.set_blocking(2, False); [os.write(2, b'x' * 4096) for _ in range(15)];"
        f" os.set_blocking(2, True); {IN_A_LOCK}"
    )
    worker = few.serve(patch=at_a_chunk(few, fill, 0).replace("task.path.name ==", "1 or"))
    wait_until((few.folder / "stuck").exists)
    os.set_blocking(worker.stderr.fileno(), False)  # type: ignore[union-attr]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=120) == 75
    assert few.claims() == []
    worker.stderr.close()  # type: ignore[union-attr]


def test_signals_end_workers_in_order(few: Project) -> None:
    slow = "import time; time.sleep(0.3)"
    workers = {
        number: few.serve(index, patch=at_a_chunk(few, slow).replace("task.path.name ==", "1 or"))
        for index, number in enumerate(SIGNALS)
    }
    wait_until(lambda: len(few.claims()) == len(workers))
    for number, worker in workers.items():
        worker.send_signal(number)
    for number, worker in workers.items():
        code, errors = outcome(worker)
        assert code == 75 and f"{number.name}: stopping" in errors and "Traceback" not in errors
    assert few.claims() == []


def test_one_that_hangs_with_the_gil_is_taken_over(few: Project) -> None:
    """No thread of it can do anything, also not on SIGTERM; others do its chunk after a lease."""
    hanging = few.serve(0, patch=at_a_chunk(few, WITH_THE_GIL))
    try:
        wait_until((few.folder / "stuck").exists)
        hanging.send_signal(signal.SIGTERM)
        code, errors = outcome(few.serve(1, forked=True))
        assert code == 0, errors
        assert len(few.embeddings()) == few.chunks()
        assert "chunk_000003.parquet: a worker was lost with it: 0-" in errors
    finally:
        hanging.kill()


def test_a_pipe_in_place_of_a_chunk_file(few: Project) -> None:
    path = few.paths.chunks("lake").chunk(3)
    path.unlink()
    os.mkfifo(path)
    code, errors = outcome(few.serve(forked=True))
    assert code == 1 and f"{path.name}: the file is damaged (not a regular file)" in errors
    assert len(few.embeddings()) == few.chunks() - 1 and few.claims() == []


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A cgroup whose processes the kernel kills beyond a limit in bytes."""
    group = Path("/sys/fs/cgroup/memory/virnuc_tests")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_the_out_of_memory_killer_is_named(few: Project) -> None:
    with memory_group(200_000_000) as group:
        greedy = f"open('{group}/cgroup.procs', 'w').write(str(os.getpid())); bytearray(10**9)"
        code, _ = outcome(few.serve(0, patch=at_a_chunk(few, greedy)))
        assert code == -signal.SIGKILL
    code, errors = outcome(few.serve(1, forked=True))
    assert code == 0, errors
    why = r"lost with it: 0-\S+ \(process \d+, by the kernel's out-of-memory killer; log: "
    assert re.search(why, errors)
