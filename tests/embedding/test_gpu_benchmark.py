"""benchmarks/gpu.py does here, with small networks, all that it does on a GPU; inductor, too."""

import json
import subprocess
import sys
from pathlib import Path

from harness import environment

BENCHMARK = Path(__file__).parents[2] / "benchmarks/gpu.py"
ROWS = {  # and the numbers that they must have
    "start, cold": ["seconds", "sha256"],
    "start, warm": ["seconds", "sha256"],
    "VirNuc, fp32": ["frames_per_second", "tokens_per_second", "esm2_tflops", "share_of_product"],
    "the original's way, fp32": ["frames_per_second", "cosine_esm2", "cosine_dnabert_s"],
    "half precision, not compiled": ["frames_per_second", "dnabert_s_share", "cosine_esm2"],
    "half precision, compiled": ["frames_per_second", "dnabert_s_share", "cosine_esm2", "sha256"],
    "ESM-2 in fp8, compiled on CUDA": ["frames_per_second", "cosine_esm2"],
    "half precision, products alone": ["tokens_per_second", "esm2_tflops"],
    "whole worker": ["frames_per_second", "share_of_networks", "bytes_per_frame"],
    "equal bytes": ["chunks"],
}
PRODUCTS = ["fp16", "bf16", "fp32", "tf32", "fp8"]


def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [
        sys.executable, str(BENCHMARK), "--device", "cpu", "--sizes", "tiny", "--threads", "1",
        "--minutes", "9", "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["failed"] == {}
    assert found["left_out"] == dict.fromkeys(
        ["tiny: VirNuc, tf32", "tiny: the same, nothing pinned"], "it is for CUDA"
    )
    steps = found["steps"]
    expected = [f"product of 256 x 256, {kind}" for kind in PRODUCTS]
    assert steps.keys() == {*expected, *(f"tiny: {name}" for name in ROWS)}
    for name, numbers in ROWS.items():
        row = steps[f"tiny: {name}"]
        assert all(row[number] for number in numbers), (name, row)
        assert f"tiny: {name} " in done.stdout
    for name in ("the original's way, fp32", "half precision, compiled"):
        row = steps[f"tiny: {name}"]
        assert min(row["cosine_esm2"], row["cosine_dnabert_s"]) > 0.99999
    assert 0.9 < steps["tiny: ESM-2 in fp8, compiled on CUDA"]["cosine_esm2"] < 0.99999
    assert steps["tiny: half precision, compiled"]["without_a_graph"] == []
    assert steps["tiny: equal bytes"] == {
        "processes": ["cold", "this", "warm"], "chunks": 3, "equal": True,
    }  # fmt: skip
    assert [steps["tiny: whole worker"][key] for key in ("frames", "chunks")] == [96, 2]


def test_a_step_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """As where no time is left: each step fails, and says so."""
    out = tmp_path / "gpu.json"
    command = [
        sys.executable, str(BENCHMARK), "--device", "cpu", "--sizes", "tiny", "--minutes", "0",
        "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    found = json.loads(out.read_text())
    assert found["steps"] == {}
    assert len(found["failed"]) == len(PRODUCTS) + len(ROWS) + 2
    assert {"TimeoutError: no time is left (--minutes)"} == set(found["failed"].values())
