"""What Snakemake offers and VirNuc's queue cannot work with; see docs/design.md."""

from pathlib import Path

import pytest
from harness import DEMO, Project

DRY = ("--dry-run", "--quiet", "host")


def test_a_storage_plugin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    options = ("--default-storage-provider", "fs", "--default-storage-prefix", "remote")
    done = Project(tmp_path).run(*options)
    assert done.returncode == 1
    assert "VirNuc needs `results` on a filesystem with hard links" in done.stdout


@pytest.mark.parametrize(("other", "persistent"), [("serve", True), ("chunk", False)])
def test_rules_in_one_group_are_refused(tmp_path: Path, other: str, persistent: bool) -> None:
    project = Project(tmp_path, {"lake": DEMO["lake"]}, persistent_models=persistent)
    done = project.run("--groups", f"{other}=g", "predict=g", *DRY)
    assert done.returncode == 1
    assert "cannot share a group; give each of them a group of its own" in done.stdout


def test_a_group_for_each_rule_is_fine(tmp_path: Path) -> None:
    done = Project(tmp_path).run("--groups", "chunk=a", "predict=b", "mine=b", *DRY)
    assert done.returncode == 0, done.stdout
