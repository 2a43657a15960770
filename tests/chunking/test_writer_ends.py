"""Chunking that ends in the middle: what was there stays, and nothing else is left."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chunk_folders import SOURCE, chunk_it, contents, manifest_of, windows_of

from virnuc_rules.chunking import writer as chunks
from virnuc_rules.errors import EnvironmentProblem, InputError, VirnucError
from virnuc_rules.reading.fastx import Contig, Sequences

FAILING = {
    "an illegal letter": b">bad\nAC!T\n",
    "a record without id": b">\nACGT\n",
    "an id twice": b">same\nACGT\n>same\nACGT\n",
}


@pytest.mark.parametrize("problem", FAILING)
def test_an_error_leaves_the_older_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    out, upstream = tmp_path / "out", tmp_path / "fasta"
    chunk_it(SOURCE, out, chunk_size=7, upstream_fasta=upstream)
    before = contents(tmp_path)
    monkeypatch.setattr(chunks, "_BLOCK", 1000)  # so that chunk files are written before the error
    bad = tmp_path.parent / f"{tmp_path.name}.fa"
    bad.write_bytes(SOURCE.read_bytes() + b"\n" + FAILING[problem])
    with pytest.raises(InputError):
        chunk_it(bad, out, chunk_size=1, upstream_fasta=upstream)
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fasta"}


def test_an_error_at_first_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        chunk_it(tmp_path / "absent.fa", tmp_path / "new" / "out")
    assert contents(tmp_path) == {}
    assert list((tmp_path / "new").iterdir()) == []


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the manifest: all the rest is there, and nothing is put in place."""
    chunk_it(SOURCE, tmp_path / "out")
    before = contents(tmp_path)
    seen = []

    def full(path: Path, _: object) -> None:
        seen.append(path.name)
        staged = path.parent
        names = [f"chunk_{n:06d}.parquet" for n in range(len(manifest_of(tmp_path / "out").chunks))]
        assert sorted(p.name for p in staged.iterdir()) == [
            "bases.parquet",
            *names,
            "contigs.parquet",
            "windows.parquet",
        ]
        assert windows_of(staged).num_rows == manifest_of(tmp_path / "out").windows
        raise OSError("no space left on device")

    monkeypatch.setattr(chunks, "write_json", full)
    with pytest.raises(VirnucError, match="no space left"):
        chunk_it(SOURCE, tmp_path / "out")
    assert seen == ["manifest.json"]
    assert contents(tmp_path) == before


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from virnuc_rules.chunking import writer as chunks
chunks.write_json = lambda *_: os._exit(9)
from virnuc_rules.config.model import Chunking
chunking = Chunking(window=300, chunk_size=9)
chunks.write_chunks([Path(sys.argv[1])], Path(sys.argv[2]), chunking, sample="a")
"""
    command = [sys.executable, "-c", program, str(SOURCE), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    chunk_it(SOURCE, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_samples_with_names_alike_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lake` is chunked from beginning to end while `lake.2` is under way beside it."""
    contigs, begun = Sequences.contigs, []

    def interrupted(self: Sequences) -> Iterator[Contig]:
        if not begun:
            begun.append(self.sample)
            chunk_it(SOURCE, tmp_path / "lake")
        return contigs(self)

    monkeypatch.setattr(Sequences, "contigs", interrupted)
    chunk_it(SOURCE, tmp_path / "lake.2")
    assert contents(tmp_path / "lake") == contents(tmp_path / "lake.2")
    assert {path.name for path in tmp_path.iterdir()} == {"lake", "lake.2"}


def test_an_older_folder_is_replaced_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the last moment it is as it was; what is not of `chunk` moves into the new one."""
    out = tmp_path / "out"
    chunk_it(SOURCE, out, chunk_size=9)
    (out / "notes").mkdir()
    for name in ("done", "made.json", "notes.txt", "notes/more.txt"):
        (out / name).write_text("of the older one")
    before, put, moved = contents(out), chunks.put_folder, []

    def spy(stage: Path, path: Path) -> None:
        assert contents(path) == before
        moved.append(contents(stage))
        put(stage, path)

    monkeypatch.setattr(chunks, "put_folder", spy)
    chunk_it(SOURCE, out, chunk_size=1000)
    assert [contents(out)] == moved and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {"notes.txt", "notes/more.txt"} < moved[0].keys()
    assert not {"done", "made.json"} & moved[0].keys()


def test_two_processes_chunk_a_sample_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in containers, where both have the same host name and id: as here, in one process."""
    contigs, begun = Sequences.contigs, []

    def interrupted(self: Sequences) -> Iterator[Contig]:
        if not begun:
            begun.append(True)
            chunk_it(SOURCE, tmp_path / "out")
        return contigs(self)

    monkeypatch.setattr(Sequences, "contigs", interrupted)
    with pytest.raises(EnvironmentProblem, match="another process has made it at the same time"):
        chunk_it(SOURCE, tmp_path / "out", chunk_size=9)
    made = contents(tmp_path / "out")
    chunk_it(SOURCE, tmp_path / "alone")
    assert made == contents(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]
