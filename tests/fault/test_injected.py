"""Calls on files fail, a thousand of them: nothing is lost, and each message says what failed."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import BUNDLE, environment
from injector import compiled
from labelled import write_sheet

FAULTS = int(os.environ.get("VIRNUC_FAULTS", "1000"))  # `make soak` has more
AT_ONCE = 2
CALLS = {"open", "read", "write", "fsync", "mmap", "link", "rename", "unlink"}
COMMANDS = {"chunk", "serve", "predict", "collect", "report", "train"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return compiled(tmp_path_factory.mktemp("injector"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def faulty_runs(folder: Path, library: Path, seed: int, faults: int) -> dict[str, Any]:
    given = folder / "given"
    sheet = write_sheet(given, 24)
    sheet.write_text(sheet.read_text().replace(f"{given}/", ""))
    shutil.copytree(BUNDLE, given / "bundle")
    tests = Path(__file__).parent
    variables = {
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join(map(str, tests.parents[:2])),  # fork_server.py; the library
        "OMP_NUM_THREADS": "1",  # threads do not survive a fork
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, tests / "faulty_runs.py", folder, str(seed), str(faults)],
        env={**environment(), **variables},
        text=True,
        capture_output=True,
        timeout=500 + FAULTS,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["wrong"] == []
    return seen


@pytest.mark.timeout(600 + FAULTS)
def test_faults_at_random(tmp_path: Path, library: Path) -> None:
    faults, codes = Counter[str](), Counter[str]()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        runs = [
            threads.submit(faulty_runs, tmp_path / str(seed), library, seed, FAULTS // AT_ONCE)
            for seed in range(AT_ONCE)
        ]
        for run in runs:
            faults.update(run.result()["faults"])
            codes.update(run.result()["codes"])
    print(dict(faults), dict(codes))
    assert faults.total() >= FAULTS
    assert {call.split()[0] for call in faults} >= CALLS
    assert {"link (reply lost)", "rename (reply lost)"} <= faults.keys()
    for code in (75, 0):
        assert {command for command in COMMANDS if codes[f"{command} {code}"]} == COMMANDS
    assert any(name.endswith(" -9") for name in codes)


def test_killed_while_a_trained_bundle_is_replaced(tmp_path: Path, library: Path) -> None:
    seen = faulty_runs(tmp_path, library, 0, 0)
    assert {True, False} == set(seen["old"])  # kills before the exchange, and after it
    assert seen["codes"]["train 0"] == 1
