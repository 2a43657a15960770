"""After each mishap the same command finishes the job, redoes only what was missing, same bytes."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import DEMO, Project, copy_bundle, wait_until

from virnuc_rules.chunkfiles import content_hash

MANY = {"chunk_size": 10}  # about a hundred chunks: there is time to kill in the middle


def claims(project: Project) -> list[Path]:
    return list((project.results / "queue" / "claims").iterdir())


def serve_pids(project: Project) -> list[int]:
    """Process ids of the workers of this project: those whose folder it is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            here = (process / "cwd").resolve() == project.folder.resolve()
        except OSError:
            continue
        if here and b"serve" in arguments and b"python" in arguments[0]:
            found.append(int(process.name))
    return found


def embedded_chunks(text: str) -> int:
    """How many chunks the log says were embedded."""
    return sum(int(number) for number in re.findall(r"embedded (\d+) chunks", text))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An undisturbed run with many small chunks."""
    project = Project(tmp_path_factory.mktemp("reference"), **MANY)
    assert project.run().returncode == 0
    return project


def assert_finished_like(project: Project, reference: Project) -> None:
    assert project.tables() == reference.tables()
    assert project.embeddings().keys() == reference.embeddings().keys()
    assert project.left_over() == []


def test_worker_killed_then_the_same_command(tmp_path: Path, reference: Project) -> None:
    project = Project(tmp_path, **MANY)
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    for pid in serve_pids(project):
        os.kill(pid, signal.SIGKILL)
    output, _ = first.communicate(timeout=120)
    assert first.returncode != 0, output
    before = project.embeddings()
    assert 5 < len(before) < project.chunks()
    assert len(claims(project)) == 1  # what it was working on

    second = project.run()
    assert second.returncode == 0, second.stdout
    assert before.items() < project.embeddings().items()
    assert embedded_chunks(second.stdout) == project.chunks() - len(before)
    assert_finished_like(project, reference)


def test_snakemake_killed_then_the_same_command(tmp_path: Path, reference: Project) -> None:
    project = Project(tmp_path, **MANY)
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    os.killpg(first.pid, signal.SIGKILL)  # Snakemake and what it started, like a lost node
    first.communicate(timeout=120)
    before = project.embeddings()
    assert 5 < len(before) < project.chunks()

    second = project.run()
    assert second.returncode == 0, second.stdout
    assert before.items() < project.embeddings().items()
    assert embedded_chunks(second.stdout) == project.chunks() - len(before)
    assert_finished_like(project, reference)


def test_only_snakemake_killed_its_worker_lives_on(tmp_path: Path, reference: Project) -> None:
    project = Project(tmp_path, **MANY)
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    first.kill()
    before = project.embeddings()
    second = project.run()  # shares the queue with the first one's worker
    first.communicate(timeout=120)
    assert second.returncode == 0, second.stdout
    assert before.items() < project.embeddings().items()
    assert embedded_chunks(second.stdout) < project.chunks()
    wait_until(lambda: not serve_pids(project))
    assert_finished_like(project, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_worker_soon(tmp_path: Path, number: signal.Signals) -> None:
    project = Project(tmp_path, **MANY)
    project.chunk()
    worker = project.serve()
    wait_until(lambda: len(project.embeddings()) > 2)
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 75
    assert f"{number.name}: stopping" in errors and "Traceback" not in errors
    assert 2 < len(project.embeddings()) < project.chunks()
    assert claims(project) == [] and project.left_over() == []
    assert project.report()["exit_reason"] == "interrupted by a signal"


def test_another_worker_takes_over_what_a_killed_one_held(
    tmp_path: Path, reference: Project
) -> None:
    project = Project(tmp_path, **MANY)
    project.chunk()
    dead, living = project.serve(0), project.serve(1)
    wait_until(lambda: len(project.embeddings()) > 5)
    dead.kill()
    _, errors = living.communicate(timeout=200)
    dead.communicate()
    assert living.returncode == 0, errors
    assert len(project.embeddings()) == project.chunks()
    assert project.run().returncode == 0
    assert_finished_like(project, reference)


def spoil(path: Path) -> bytes:
    """Flip one bit in the middle of a file; returns the good bytes."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0x10
    path.write_bytes(bytes(bad))
    return good


def test_a_corrupt_chunk_fails_alone(tmp_path: Path, undisturbed: Project) -> None:
    project = Project(tmp_path)
    project.chunk()
    for sample in project.samples:  # as if rule chunk had run: nothing newer than its outputs
        assert project.run("--touch", f"results/chunks/{sample}/manifest.json").returncode == 0
    path = project.results / "chunks" / "lake" / "chunk_000003.parquet"
    good = spoil(path)

    first = project.run()
    assert first.returncode != 0
    lines = [line for line in first.stdout.splitlines() if "failed (attempt" in line]
    assert len(lines) == 1 and "chunk lake/chunk_000003.parquet failed (attempt 1)" in lines[0]
    assert str(path.relative_to(tmp_path)) in lines[0]
    log = tmp_path / re.search(r"\(log: (.*)\)", lines[0])[1]  # type: ignore[index]
    assert "Traceback" in log.read_text() and "Traceback" not in first.stdout
    before = project.embeddings()
    assert len(before) == project.chunks() - 1  # the others are done

    still = project.run()
    assert still.returncode != 0 and "failed (attempt 2)" in still.stdout
    path.write_bytes(good)
    second = project.run()
    assert second.returncode == 0, second.stdout
    assert embedded_chunks(second.stdout) == 1
    assert before.items() < project.embeddings().items()
    assert_finished_like(project, undisturbed)
    assert list((project.results / "queue" / "failed").iterdir()) == []


def poison(folder: Path, name: str) -> None:
    """Put a letter that is no amino acid into a chunk, with hashes that fit."""
    table = pq.read_table(folder / name)
    proteins = table["protein"].to_pylist()
    proteins[2] = proteins[2][:5] + "7" + proteins[2][6:]
    column = pa.array(proteins, pa.string())
    table = table.set_column(table.schema.get_field_index("protein"), "protein", column)
    pq.write_table(table, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(entry for entry in manifest["chunks"] if entry["file"] == name)
    entry["sha256"] = content_hash(table)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_poisoned_chunk_is_reported_and_the_run_goes_on(
    tmp_path: Path, undisturbed: Project
) -> None:
    project = Project(tmp_path, on_failed_chunks="report")
    shutil.copytree(undisturbed.results / "chunks", project.results / "chunks")
    poison(project.results / "chunks" / "gut", "chunk_000001.parquet")
    for sample in project.samples:
        assert project.run("--touch", f"results/chunks/{sample}/manifest.json").returncode == 0
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert "chunk gut/chunk_000001.parquet failed" in done.stdout
    assert "'7' is not an amino acid" in done.stdout
    tables = [p.results / "gut" / "windows.tsv" for p in (project, undisturbed)]
    rows, expected = ([line.split("\t") for line in p.read_text().splitlines()] for p in tables)
    assert [row[:5] for row in rows] == [row[:5] for row in expected]  # every window is there
    failed = [row for row in rows if row[-1] == "embedding_failed"]
    assert 10 < len(failed) <= 40 and {row[-2] for row in failed} == {"no_call"}
    others = [(a, b) for a, b in zip(rows, expected, strict=True) if a[-1] != "embedding_failed"]
    assert all(a == b for a, b in others)
    frames = (project.results / "gut" / "orfs.tsv").read_text().splitlines()
    assert len(frames) == len((undisturbed.results / "gut" / "orfs.tsv").read_text().splitlines())
    assert sum(line.endswith("\tno_call") for line in frames) == 40


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "hangs", "no card"])
def test_models_that_cannot_be_loaded(chunked: Project, damage: str) -> None:
    bundle = copy_bundle(chunked.folder)
    weights = bundle / "esm2.safetensors"
    settings: dict[str, object] = {"bundle": bundle}
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "flipped":
        spoil(weights)
    elif damage == "hangs":
        weights.unlink()
        os.mkfifo(weights)  # reading it waits for a writer who never comes
        settings["load_timeout"] = 15
    else:
        (bundle / "bundle.json").unlink()
    worker = chunked.serve(**settings)
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == (1 if damage == "no card" else 2), errors
    assert ("bundle.json" if damage == "no card" else "models cannot be loaded") in errors
    assert "Traceback" not in errors
    queue = chunked.results / "queue"
    assert not queue.exists() or claims(chunked) == []
    if damage != "no card":
        assert "cannot be loaded" in chunked.report()["exit_reason"]


def test_a_device_that_is_not_there(chunked: Project) -> None:
    worker = chunked.serve(device="cuda:7")
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 2
    assert "device cuda:7 is not there" in errors and claims(chunked) == []


def test_a_worker_without_work_loads_nothing(undisturbed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path)
    shutil.copytree(undisturbed.results, project.results)
    bundle = copy_bundle(tmp_path)
    (bundle / "esm2.safetensors").write_bytes(b"")  # loading it would be an error
    worker = project.serve(bundle=bundle)
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0 and "no model was loaded" in errors
    assert project.report()["load_count"] == {}


def test_a_damaged_result_is_found_and_made_again(tmp_path: Path, undisturbed: Project) -> None:
    project = Project(tmp_path, samples={"lake": DEMO["lake"]})
    assert project.run().returncode == 0
    results = sorted((project.results / "embeddings").glob("*/*.safetensors"))
    spoil(results[0])
    results[1].write_bytes(results[1].read_bytes()[:-100])
    (project.results / "lake" / "windows.tsv").unlink()  # so that predict looks again
    first = project.run()
    assert first.returncode != 0
    assert "2 of 13 chunks are without a usable result" in first.stdout, first.stdout
    second = project.run()
    assert second.returncode == 0, second.stdout
    assert embedded_chunks(second.stdout) == 2
    lake = {name: digest for name, digest in undisturbed.tables().items() if "lake" in name}
    assert project.tables() == lake


def test_two_snakemakes_on_one_folder(tmp_path: Path, reference: Project) -> None:
    project = Project(tmp_path, **MANY)
    both = [project.start(), project.start()]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(map(embedded_chunks, outputs)) == project.chunks()
    assert_finished_like(project, reference)
