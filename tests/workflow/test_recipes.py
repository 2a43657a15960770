"""The recipes of docs/recipes.md, as dry runs: each block as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
from harness import BUNDLE, DEMO, REPO, run

from virnuc_rules.serving.metrics import _METRICS

PAGE = (REPO / "docs" / "recipes.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PROFILES = [text for kind, text in BLOCKS if "set-resources" in text and kind == "yaml"]
# Resources of `serve` that each must show, in the order of the page, and those that it must not.
WANTED = [
    ({"slurm_account=virology_gpu", "qos=gpu_long", "gpu=1"}, "gres"),
    ({"gres=gpu:1g.10gb:1"}, "gpu="),
    ({"slurm_partition=cpu"}, "gpu"),
]


def dry_run(folder: Path, *arguments: object) -> str:
    (folder / "samples.tsv").write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    (folder / "slurm").symlink_to(REPO / "slurm")
    (folder / "profiles").symlink_to(REPO / "profiles")
    settings = [f"samples={folder}/samples.tsv", f"bundle={BUNDLE}"]
    done = run(
        "snakemake", "--dry-run", "--quiet", "host", "--snakefile", REPO / "workflow" / "Snakefile",
        *arguments, *settings, folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("profile", "wanted"), zip(PROFILES, WANTED, strict=True))
def test_a_profile_on_top_of_slurm(
    tmp_path: Path, profile: str, wanted: tuple[set[str], str]
) -> None:
    (tmp_path / "mysite").mkdir()
    (tmp_path / "mysite" / "config.v9+.yaml").write_text(profile)
    said = dry_run(
        tmp_path, "--profile", "slurm", "--workflow-profile", "mysite", "--config", "workers=4",
        "device=cpu", "threads=16", "stage_bundle=$TMPDIR",
    )  # fmt: skip
    rules = re.findall(r"^rule serve:.*?resources: (.*?)$", said, re.DOTALL | re.MULTILINE)
    assert len(rules) == 4
    for resources in rules:
        words = set(resources.split(", "))
        assert wanted[0] < words
        assert not [word for word in words if word.startswith(wanted[1])]
    (minutes,) = {re.search(r"runtime=(\d+)", resources)[1] for resources in rules}  # type: ignore[index]
    assert said.count(f"--deadline {minutes}") == 4
    quoted = r"^Shell command: virnuc-rules serve .*'--stage-bundle=\$TMPDIR'"
    assert len(re.findall(quoted, said, re.MULTILINE)) == 4


def test_all_workers_in_one_job(tmp_path: Path) -> None:
    (script,) = (text for kind, text in BLOCKS if kind == "bash")
    command = shlex.split(script.splitlines()[-1])
    assert command[0] == "snakemake"
    command.remove("--config")  # `dry_run` gives more of these: they come last
    settings = [word for word in command if word.startswith(("workers=", "threads="))]
    others = [word for word in command[1:] if word not in settings]
    said = dry_run(tmp_path, *others, "--cores", "16", "--config", *settings)
    assert len(re.findall(r"^rule serve:", said, re.M)) == 4
    assert said.count("--deadline 700") == 4
    cpus = re.search(r"--cpus-per-task=(\d+)", script)
    gpus = re.search(r"--gpus=(\d+)", script)
    assert cpus and gpus and f"workers={gpus[1]}" in settings and int(cpus[1]) == 4 * 4


def test_the_metrics_of_the_page_exist() -> None:
    named = set(re.findall(r"virnuc_worker_(\w+)", PAGE))
    assert named and named <= _METRICS.keys()
