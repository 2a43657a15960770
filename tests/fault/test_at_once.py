"""Two containers chunk a sample at the same time: both have the same host name and process ids."""

import subprocess
from pathlib import Path

import pytest
from harness import DEMO, environment

from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.config.run_folder import ChunkFolder

CONTAINER = ("unshare", "--pid", "--uts", "--fork", "--kill-child")


def test_two_containers_chunk_a_sample(tmp_path: Path) -> None:
    alone = subprocess.run([*CONTAINER, "true"], capture_output=True, timeout=60)
    if alone.returncode:
        pytest.skip(f"no namespaces here: {alone.stderr.decode().strip()}")
    folder = ChunkFolder(tmp_path / "lake")
    chunk = ["virnuc-rules", "chunk", DEMO["lake"], "--out", folder.path, "--chunk-size", "1"]
    both = [
        subprocess.Popen(
            [*CONTAINER, *chunk],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 75]), errors  # 75: another has made it at the same time
    manifest = read_manifest(folder)
    files = folder.files([entry.file for entry in manifest.chunks])
    assert manifest.open_frames == len(manifest.chunks) > 100
    assert sorted(folder.path.iterdir()) == sorted([*files, folder.made])
    assert list(tmp_path.iterdir()) == [folder.path]
