"""The version of VirNuc and those of its tools: where one is written twice, both are the same."""

import datetime
import re
import tomllib

import pytest
import yaml
from harness import REPO
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import virnuc_rules

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
PINS = (REPO / "constraints.txt").read_text().splitlines()
CITATION = yaml.safe_load((REPO / "CITATION.cff").read_text())


def test_the_version_has_one_owner() -> None:
    """`virnuc_rules/__init__.py`: the package has it from there, the citation repeats it."""
    assert PROJECT["project"]["dynamic"] == ["version"]
    owner = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert owner == "virnuc_rules.__version__"
    assert CITATION["version"] == virnuc_rules.__version__


def test_the_changelog_begins_with_this_version() -> None:
    """Keep a Changelog: newest first; the date is also that of the citation."""
    text = (REPO / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert versions[0] == (virnuc_rules.__version__, str(CITATION["date-released"]))
    assert len(versions) == len(re.findall(r"^## ", text, re.MULTILINE))
    days = [datetime.date.fromisoformat(day) for _, day in versions]
    assert days == sorted(days, reverse=True)
    groups = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Upgrading"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= groups


def test_pre_commit_uses_the_pinned_tools() -> None:
    hooks = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {tool for hook in hooks for tool in hook["additional_dependencies"]}
    assert {Requirement(tool).name for tool in tools} == {"ruff", "snakefmt"}
    assert tools <= set(PINS)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_ci_tests_the_versions_of_python_that_are_allowed(version: str) -> None:
    ci = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text())
    assert version in ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(version)
