"""The profiles for clusters, as dry runs; tests/slurm runs Slurm's in earnest."""

import os
import re
import signal
from pathlib import Path

import pytest
import yaml
from harness import BUNDLE, DEMO, REPO, Project, run, wait_until


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
        "snakemake", "--dry-run", "--quiet", "host", "--profile", profile, "--directory", tmp_path,
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


def test_a_run_says_little_on_the_terminal(undisturbed: Project) -> None:
    logs = [path.read_text() for path in (undisturbed.results / "logs").rglob("*.attempt-1.log")]
    # Snakemake cannot measure jobs as short as those of the fork server.
    said = [line for line in undisturbed.said.splitlines() if not line.startswith("Benchmark: ")]
    assert len(said) <= 30, undisturbed.said
    own = [line for text in logs for line in text.splitlines() if " DEBUG " not in line]
    assert all(line.split(" ", 3)[3] in said for line in own)  # without time and level
    page = undisturbed.paths.report.page.relative_to(undisturbed.folder)
    assert any(line.startswith(f"{page}: 2 samples") for line in said)
    assert "Shell command" not in undisturbed.said and "localrule" not in undisturbed.said
    count = undisturbed.chunks()
    assert any(f"chunk {count} of {count}: " in text for text in logs)


def test_a_run_says_what_was_killed(tmp_path: Path) -> None:
    """The local profile describes no jobs; of one that could not say anything there is a line."""
    project = Project(tmp_path)
    run = project.start(forked=True)
    wait_until(project.workers)
    for pid in project.workers():
        os.kill(pid, signal.SIGKILL)
    output, _ = run.communicate(timeout=400)
    assert run.returncode != 0
    assert re.search(r"virnuc-rules serve .*(SIGKILL|exit status 137)", output), output


@pytest.mark.parametrize("name", ["slurm", "lsf"])
def test_both_kinds_of_workers_get_a_gpu(name: str) -> None:
    profile = yaml.safe_load((REPO / "profiles" / name / "config.v9+.yaml").read_text())
    resources = profile["set-resources"]
    assert resources["serve"] == resources["embed_chunk"]
    assert resources["serve"].get("gpu") == 1 or "-gpu num=1" in resources["serve"]["lsf_extra"]
