"""Whenever a worker is killed: what it had published stays, the rest is done again, bit-equal."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import DEMO, Project, environment

KILLS = int(os.environ.get("VIRNUC_KILLS", "100"))  # `make soak` has more


@pytest.mark.timeout(600 + 2 * KILLS)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    few = tmp_path / "few.fa"
    few.write_text(">".join(gzip.decompress(DEMO["lake"].read_bytes()).decode().split(">")[:3]))
    project = Project(tmp_path, samples={"few": few}, chunk_size=6)
    project.chunk()
    keys = {"samples": str(tmp_path / "samples.tsv"), "bundle": project.settings["bundle"]}
    (tmp_path / "config.json").write_text(json.dumps(keys))
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), tmp_path, str(KILLS)],
        env={**environment(), **single},
        text=True,
        capture_output=True,
        timeout=540 + 2 * KILLS,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    print(seen)
    assert seen["kills"] >= KILLS
    assert seen["with a claim"] > KILLS // 4
    assert seen["amid publishing"] > KILLS // 50
    assert seen["published before the last kill"] > KILLS // 4
