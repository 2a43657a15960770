"""The disk fills up while chunking, embedding and predicting; then somebody makes room."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Project, run


class SmallDisk:
    """A filesystem in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(self.folder)]
        subprocess.run(mount, check=True, capture_output=True, timeout=60)

    def leave(self, free: int) -> None:
        """Make it so large that so many more bytes fit in."""
        disk = os.statvfs(self.folder)
        size = (disk.f_blocks - disk.f_bfree) * disk.f_frsize + free
        remount = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        subprocess.run(remount, check=True, timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk as the results folder of a project in `tmp_path`."""
    disk = SmallDisk(tmp_path / "results")
    disk.folder.mkdir()
    try:
        disk.mount()
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("a small disk can only be mounted as root, with the right to mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk.folder)], check=True, timeout=60)


def call(project: Project, *command: object) -> subprocess.CompletedProcess[str]:
    return run(*command, folder=project.folder)


def assert_full(project: Project, done: subprocess.CompletedProcess[str], code: int = 75) -> None:
    """It says so in one line, and leaves nothing half done."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    lines = [line for line in lines if not re.search(r"(trying again|going on) in \d s$", line)]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "results" in lines[0]  # where
    assert [path for path in project.results.rglob("*") if ".partial" in path.name] == []


def test_a_full_disk_at_every_stage(tmp_path: Path, disk: SmallDisk, reference: Project) -> None:
    project = Project(tmp_path, reference.samples)
    project.settings = reference.settings
    log = ("--log", "results/logs/verb.log")
    chunks, tables = project.results / "chunks" / "lake", project.results / "lake"
    rules, bundle = "virnuc-rules", project.settings["bundle"]

    size = project.settings["chunk_size"]
    chunk = (rules, "chunk", project.samples["lake"], "--out", chunks, "--chunk-size", size, *log)
    disk.leave(40_000)
    assert_full(project, call(project, *chunk))
    assert not chunks.exists()
    disk.leave(10_000_000)
    assert call(project, *chunk).returncode == 0

    serve = (*project.serve_command(0), *log)
    disk.leave(200_000)
    assert_full(project, call(project, *serve))
    assert project.claims() == project.failures() == []
    before = project.embeddings()
    assert 1 < len(before) < project.chunks()
    disk.leave(10_000_000)
    done = call(project, *serve)
    assert done.returncode == 0, done.stderr
    assert before.items() < project.embeddings().items()
    assert project.report()["chunks"] == project.chunks() - len(before)
    assert project.left_over() == []
    assert project.digests() == reference.digests()

    predict = (rules, "predict", "--sample", "lake", "--bundle", bundle, "--out", tables, *log)
    disk.leave(40_000)
    assert_full(project, call(project, *predict))
    assert not list(tables.glob("*"))
    disk.leave(10_000_000)
    assert call(project, *predict).returncode == 0
    assert project.tables() == reference.tables()
