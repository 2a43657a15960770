"""The profiles for clusters, as dry runs; tests/slurm runs Slurm's in earnest."""

import re
from pathlib import Path

import pytest
import yaml
from harness import BUNDLE, DEMO, REPO, run


@pytest.mark.parametrize(
    ("profile", "cpu", "gpu"),
    [
        ("slurm", "slurm_partition=cpu", "slurm_partition=gpu"),
        ("profiles/lsf", "lsf_queue=normal", "lsf_queue=gpu"),
    ],
)
@pytest.mark.parametrize(("persistent", "rule"), [(True, "serve"), (False, "chunk_all")])
def test_dry_run(
    tmp_path: Path, profile: str, cpu: str, gpu: str, persistent: bool, rule: str
) -> None:
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    done = run(
        "snakemake", "--dry-run", "--profile", profile, "--directory", tmp_path,
        "--configfile", REPO / "demo" / "config.yaml", "--config",
        f"samples={sheet}", f"bundle={BUNDLE}", "workers=3",
        f"persistent_models={persistent}", folder=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    pattern = r"^\w*(?:rule|checkpoint) (\w+):.*?resources: (.*?)$"
    jobs = re.findall(pattern, printed, re.DOTALL | re.MULTILINE)
    resources = dict(jobs)
    assert cpu in resources["chunk"] and any(name == rule for name, _ in jobs)
    if persistent:
        assert gpu in resources["serve"] and "runtime=720" in resources["serve"]
        assert "--deadline 720" in printed
        assert [rule for rule, _ in jobs].count("serve") == 3


@pytest.mark.parametrize("name", ["slurm", "lsf"])
def test_both_kinds_of_workers_get_a_gpu(name: str) -> None:
    profile = yaml.safe_load((REPO / "profiles" / name / "config.v9+.yaml").read_text())
    resources = profile["set-resources"]
    assert resources["serve"] == resources["embed_chunk"]
    assert resources["serve"].get("gpu") == 1 or "-gpu num=1" in resources["serve"]["lsf_extra"]
