"""No process that tests start sees a GPU, not that of the machine, nor one that is pretended."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from harness import environment, run

AS_IF_CUDA = Path(__file__).parent / "as_if_cuda"
SHOWN = ("printenv", "CUDA_VISIBLE_DEVICES")  # it fails where there is no such variable


def test_a_pretended_gpu_is_seen_unless_the_variable_is_empty() -> None:
    code = (
        "import os, torch; print(torch.cuda.is_available(), torch.cuda.device_count());"
        "del os.environ['CUDA_VISIBLE_DEVICES'];"
        "print(torch.cuda.is_available(), torch.cuda.device_count())"
    )
    path = os.pathsep.join([str(AS_IF_CUDA), os.environ.get("PYTHONPATH", "")])
    variables = {**environment(), "PYTHONPATH": path}
    printed = subprocess.check_output([sys.executable, "-c", code], env=variables)
    assert printed == b"False 0\nTrue 1\n"


def test_in_this_process() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and not torch.cuda.is_available()


def test_in_commands_and_in_jobs_of_snakemake(tmp_path: Path) -> None:
    """With the real environment, and with that of the fork server."""
    assert subprocess.check_output(SHOWN, env=environment()) == b"\n"
    patch = "import os; print('GPUs', [os.environ['CUDA_VISIBLE_DEVICES']])"
    (tmp_path / "Snakefile").write_text(
        "rule all:\n  output: 'seen'\n"
        "  shell: 'virnuc-rules --version > {output}; printenv CUDA_VISIBLE_DEVICES >> {output}'\n"
    )
    done = run("snakemake", "--cores", "1", folder=tmp_path, VIRNUC_PATCH=patch)
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen[-1] == ""  # printed in the job's shell
    if os.environ.get("VIRNUC_FORK") != "0":  # by the forked Snakemake and `virnuc-rules`
        assert "GPUs ['']" in done.stdout and "GPUs ['']" in seen
