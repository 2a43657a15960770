"""Chunks and results that are not what they were: found, named, and only they are redone."""

import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import (
    UNREADABLE,
    Project,
    assert_finished_like,
    embedded_chunks,
    jobs,
    rules,
    spoil,
)

from virnuc_rules.chunking.format import content_hash
from virnuc_rules.files.made import accept


@pytest.fixture
def finished(tmp_path: Path, undisturbed: Project) -> Project:
    """A copy of the undisturbed run, with what Snakemake knows of it."""
    shutil.copytree(undisturbed.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


@pytest.fixture
def chunked_by_snakemake(finished: Project) -> Project:
    """As far as the chunks; nothing is embedded yet."""
    for folder in ("embeddings", "queue", *finished.samples):
        shutil.rmtree(finished.results / folder)
    return finished


def test_a_corrupt_chunk_fails_alone(chunked_by_snakemake: Project, undisturbed: Project) -> None:
    project = chunked_by_snakemake
    path = project.results / "chunks" / "lake" / "chunk_000003.parquet"
    spoil(path)
    first = project.run()
    assert first.returncode != 0
    lines = [line for line in first.stdout.splitlines() if line.startswith("chunk lake/")]
    assert len(lines) == 1 and "chunk lake/chunk_000003.parquet failed: " in lines[0]
    assert f"{path.relative_to(project.folder)}: the file is damaged" in lines[0]
    log = project.folder / re.search(r"\(log: (.*)\)", lines[0])[1]  # type: ignore[index]
    assert "Traceback" in log.read_text() and "Traceback" not in first.stdout
    before = project.embeddings()
    assert len(before) == project.chunks() - 1  # the others are done

    still = project.run()
    assert still.returncode != 0 and "chunk lake/chunk_000003.parquet failed: " in still.stdout
    assert project.embeddings() == before
    shutil.rmtree(path.parent)  # as the message says
    second = project.run()
    assert second.returncode == 0, second.stdout
    assert embedded_chunks(second.stdout) == 1
    assert before.items() < project.embeddings().items()
    assert_finished_like(project, undisturbed)


def poison(folder: Path, name: str) -> None:
    """Put a letter that is no amino acid into a chunk, as if `chunk` had made it."""
    manifest = folder / "manifest.json"
    table = pq.read_table(folder / name)
    proteins = table["protein"].to_pylist()
    proteins[2] = proteins[2][:5] + "7" + proteins[2][6:]
    column = pa.array(proteins, pa.string())
    table = table.set_column(table.schema.get_field_index("protein"), "protein", column)
    pq.write_table(table, folder / name)
    content = json.loads(manifest.read_text())
    entry = next(entry for entry in content["chunks"] if entry["file"] == name)
    entry["sha256"] = content_hash(table)
    manifest.write_text(json.dumps(content))
    for path in (manifest, folder / name):
        accept(folder / "made.json", path)


def rows_of(project: Project, table: str) -> list[list[str]]:
    text = (project.results / "gut" / table).read_text()
    return [line.split("\t") for line in text.splitlines()]


def test_a_poisoned_chunk_is_reported_and_the_run_goes_on(
    chunked_by_snakemake: Project, undisturbed: Project
) -> None:
    project = chunked_by_snakemake
    chunks = project.results / "chunks" / "gut"
    poison(chunks, "chunk_000001.parquet")
    first = project.run()  # on_failed_chunks: error
    assert first.returncode != 0
    assert "chunk gut/chunk_000001.parquet failed: " in first.stdout
    assert "'7' is not an amino acid" in first.stdout
    assert "mend the cause and run the same command again" in first.stdout
    assert not (project.results / "gut").exists() and not (project.results / "lake").exists()
    before = project.embeddings()
    assert len(before) == project.chunks() - 1

    project.settings["on_failed_chunks"] = "report"
    second = project.run()
    assert second.returncode == 0, second.stdout
    assert "1 failed, their windows become no_call" in second.stdout
    assert project.embeddings() == before
    lake = {name: digest for name, digest in undisturbed.tables().items() if "lake" in name}
    assert lake.items() < project.tables().items()
    assert_no_calls(project, undisturbed)

    shutil.rmtree(chunks)  # mended; and now nothing may be missing
    project.settings["on_failed_chunks"] = "error"
    third = project.run()
    assert third.returncode == 0, third.stdout
    assert {"chunk": 1, "serve": 1}.items() < jobs(third.stdout).items()
    assert embedded_chunks(third.stdout) == 1
    assert before.items() < project.embeddings().items()
    assert project.tables() == undisturbed.tables()


def assert_no_calls(project: Project, undisturbed: Project) -> None:
    """Every window and open frame is there; those of the poisoned chunk have no call."""
    rows, expected = (rows_of(one, "windows.tsv") for one in (project, undisturbed))
    assert [row[:6] for row in rows] == [row[:6] for row in expected]
    failed = [row for row in rows if row[-1] == "embedding_failed"]
    assert 10 < len(failed) <= 40 and {row[-2] for row in failed} == {"no_call"}
    others = [(a, b) for a, b in zip(rows, expected, strict=True) if a[-1] != "embedding_failed"]
    assert all(a == b for a, b in others)
    frames, expected = (rows_of(one, "orfs.tsv") for one in (project, undisturbed))
    assert [row[:7] for row in frames] == [row[:7] for row in expected]
    assert sum(row[-1] == "no_call" for row in frames) == 40


def test_damaged_results_are_found_and_made_again(finished: Project, undisturbed: Project) -> None:
    """A flipped bit, a file cut off, a file of another chunk, one that is not there."""
    before = finished.embeddings()
    flipped, truncated, swapped, missing, other = (
        finished.results / "embeddings" / key[:2] / f"{key}.safetensors"
        for key in sorted(before)[:5]
    )
    spoil(flipped)
    os.truncate(truncated, truncated.stat().st_size - 100)
    shutil.copy(other, swapped)
    missing.unlink()
    for sample in finished.samples:
        (finished.results / sample / "windows.tsv").unlink()  # so that predict looks again
    first = finished.run()
    assert first.returncode != 0 and "Traceback" not in first.stdout
    # What is cut or missing is seen before the run, the rest when it is read.
    assert f"{truncated.relative_to(finished.folder)}: cut short, moved to " in first.stdout
    assert embedded_chunks(first.stdout) == 2
    causes = {
        flipped: "the result is damaged (sha256 of",
        swapped: "the result belongs to other open frames",
    }
    for path, cause in causes.items():
        assert f"{path.relative_to(finished.folder)}: {cause}" in first.stdout, first.stdout
    aside = {path.name.split(".")[0]: path for path in finished.paths.damaged.iterdir()}
    assert aside.keys() == {path.stem for path in (truncated, *causes)}
    for path in causes:
        assert f"moved to {aside[path.stem].relative_to(finished.folder)}" in first.stdout
    second = finished.run()
    assert second.returncode == 0, second.stdout
    assert {"serve": 1, "collect": 1, "report": 1, "check": 1}.items() < jobs(second.stdout).items()
    assert embedded_chunks(second.stdout) == 2
    again = {path.stem for path in (*causes, truncated, missing)}
    after = finished.embeddings()
    assert {key for key in before if before[key] != after[key]} <= again
    assert_finished_like(finished, undisturbed)


def test_a_result_that_cannot_be_read_stops_the_run_and_nothing_is_lost(
    finished: Project, undisturbed: Project
) -> None:
    path = sorted((finished.results / "embeddings").glob("*/*.safetensors"))[0]
    good = path.with_name("good")
    path.rename(good)
    path.symlink_to(UNREADABLE)
    before, stamps = finished.embeddings(), set(finished.paths.stamps.glob("worker_*"))
    for sample in finished.samples:
        (finished.results / sample / "windows.tsv").unlink()  # so that predict looks again
    first = finished.run()
    assert first.returncode != 0 and "Traceback" not in first.stdout
    assert f"{path.relative_to(finished.folder)}: Input/output error (EIO)" in first.stdout
    assert embedded_chunks(first.stdout) == 0
    assert "damaged" not in first.stdout and not finished.paths.damaged.exists()
    assert finished.embeddings() == before
    assert stamps <= set(finished.paths.stamps.glob("worker_*"))
    good.rename(path)
    second = finished.run()
    assert second.returncode == 0, second.stdout
    assert embedded_chunks(second.stdout) == 0
    assert_finished_like(finished, undisturbed)


@pytest.mark.parametrize("mode", ["error", "report"])
def test_a_chunk_that_cannot_be_read_gets_no_tables(finished: Project, mode: str) -> None:
    """Also not with `report`, which would make a passing error permanent."""
    path = finished.paths.chunks("gut").chunk(1)
    good = path.with_name("good")
    path.rename(good)
    path.symlink_to(UNREADABLE)
    out = finished.folder / "out"
    bundle = ("--bundle", finished.settings["bundle"])
    options = ("--results", finished.results, "--on-failed-chunks", mode, "--out", out)
    done = rules("predict", "--sample", "gut", *bundle, *options, "--stamp", out / "done")
    assert done.returncode == 75 and not out.exists()
    tries = done.stderr.splitlines()
    assert len(tries) == 3 and all(f"{path}: Input/output error (EIO)" in line for line in tries)
    good.rename(path)
    assert rules("predict", "--sample", "gut", *bundle, *options).returncode == 0
