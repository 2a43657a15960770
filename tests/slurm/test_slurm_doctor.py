"""`virnuc-rules doctor` asks a real Slurm."""

from pathlib import Path

import yaml
from cluster import ON_SLURM, Cluster
from harness import BUNDLE, DEMO, REPO, rules

pytestmark = ON_SLURM


def test_what_slurm_accepts(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    options = ("--samples", tmp_path / "samples.tsv", "--results", tmp_path, "--bundle", BUNDLE)
    profile = yaml.safe_load((REPO / "slurm" / "config.v9+.yaml").read_text())
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
        for rule in ("serve", "embed_chunk"):
            profile["set-resources"][rule]["mem_mb"] = 4000  # our nodes are small
        (folder / "config.v9+.yaml").write_text(yaml.safe_dump(profile))
        profile["set-resources"]["serve"] |= {"gpu": 5}
        profile["set-resources"]["embed_chunk"] = {"slurm_partition": "a100"}

    fine = rules("doctor", *options, "--profile", good)
    assert fine.returncode == 0, fine.stdout
    assert fine.stdout.count("accepted") == 3

    wrong = rules("doctor", *options, "--profile", bad)
    assert wrong.returncode == 1
    refused = [line for line in wrong.stdout.splitlines() if "refused" in line]
    assert len(refused) == 2
    assert "invalid partition" in refused[0] and "--gpus=5" in refused[1]
