"""`virnuc-rules doctor`: what is sound is ok, what is broken is named, nothing is left behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness import BIN, BUNDLE, DEMO, copy_bundle, environment

from virnuc_rules import doctor
from virnuc_rules.config import Config
from virnuc_rules.doctor import Finding, diagnose


@pytest.fixture
def site(tmp_path: Path) -> Config:
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    return Config(samples=tmp_path / "samples.tsv", results=tmp_path / "results", bundle=BUNDLE)


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has is for tests/slurm."""
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


def findings(config: Config) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(config, Path("slurm"))}


def failed(config: Config) -> list[Finding]:
    return [finding for finding in diagnose(config, Path("slurm")) if finding.level == "FAILED"]


def test_a_sound_site(site: Config) -> None:
    found = findings(site)
    assert not [finding for finding in found.values() if finding.level == "FAILED"]
    assert found["links and renames"].level == found["two processes"].level == "ok"
    assert found["two processes"].found.startswith("200 tasks")
    assert found["bundle"].found.endswith("a demo model")
    assert found["Slurm"].level == "note"
    assert list(site.results.iterdir()) == []


def test_the_command_line(site: Config, tmp_path: Path) -> None:
    options = [f"--{key}={getattr(site, key)}" for key in ("samples", "results", "bundle")]
    nowhere = {**environment(), "PATH": str(tmp_path)}
    command = [str(BIN / "virnuc-rules"), "doctor", "--json", *options]
    good = subprocess.run(command, env=nowhere, text=True, capture_output=True, timeout=200)
    assert good.returncode == 0, good.stdout + good.stderr
    assert [json.loads(line)["level"] for line in good.stdout.splitlines()].count("FAILED") == 0
    bad = subprocess.run(
        [*command, "--device=cuda:9"], env=nowhere, text=True, capture_output=True, timeout=200
    )
    assert bad.returncode == 1 and "Traceback" not in bad.stderr


def test_a_filesystem_without_hard_links(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    found = findings(site)["links and renames"]
    assert found.level == "FAILED" and "Operation not permitted" in found.found


def test_a_link_that_replaces(site: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def careless(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        link(source, target)

    monkeypatch.setattr(os, "link", careless)
    assert "two workers would get one chunk" in findings(site)["links and renames"].found


def test_two_processes_that_do_not_see_each_other(
    site: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_drain", lambda folder: list(doctor._KEYS))
    found = findings(site)["two processes"]
    assert found.level == "FAILED"  # the other one claimed all of them too
    assert "200 claimed twice" in found.found


def test_results_that_cannot_be_written(site: Config, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file in its place")
    checks = {finding.check for finding in failed(site)}
    assert {"results folder", "links and renames", "two processes"} <= checks


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda b: (b / "esm2.safetensors").unlink(), "No such file"),
        (lambda b: (b / "tokenizer.json").write_text("{}"), "sha256 differs"),
        (lambda b: (b / "bundle.json").unlink(), "bundle.json: no such file"),
    ],
)
def test_a_bundle_that_is_not_whole(site: Config, tmp_path: Path, change, cause: str) -> None:  # type: ignore[no-untyped-def]
    bundle = copy_bundle(tmp_path)
    change(bundle)
    found = findings(site.model_copy(update={"bundle": bundle}))["bundle"]
    assert found.level == "FAILED" and cause in found.found


@pytest.mark.parametrize(
    ("setting", "check", "cause"),
    [
        ({"window": 300}, "bundle", "windows of 500"),
        ({"device": "cuda:9"}, "device", "cuda:9 is not there"),
        ({"precision": "fp16"}, "device", "needs a CUDA device"),
        ({"samples": Path("nowhere.tsv")}, "samples", "nowhere.tsv"),
    ],
)
def test_settings_that_do_not_fit(
    site: Config, setting: dict[str, object], check: str, cause: str
) -> None:
    (found,) = failed(site.model_copy(update=setting))
    assert found.check == check and cause in found.found


def test_an_unverified_precision_is_a_warning(site: Config) -> None:
    found = findings(site.model_copy(update={"precision": "bf16"}))["device"]
    assert found.level == "warning" and "models verify" in found.remedy
