"""What changes between two runs of the same command decides what is redone: that, and no more."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import (
    DEMO,
    Project,
    assert_finished_like,
    copy_bundle,
    embedded_chunks,
    jobs,
)
from safetensors.torch import load_file, save_file

from virnuc_rules.models.bundle import rewrite_card

CLASSIFIER = "classifier.safetensors"
LAST = {"collect": 1, "report": 1, "all": 1}  # what any change of results or settings makes


def some_contigs(folder: Path, name: str) -> Path:
    path = folder / f"{name}.fa"
    path.write_text(">".join(gzip.decompress(DEMO[name].read_bytes()).decode().split(">")[:4]))
    return path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run over two small samples, with a bundle of its own. Do not change it."""
    folder = tmp_path_factory.mktemp("first")
    samples = {name: some_contigs(folder, name) for name in DEMO}
    copy_bundle(folder)
    project = Project(folder, samples, bundle="bundle", chunk_size=20)
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture
def project(tmp_path: Path, first: Project) -> Project:
    """A copy of it, with what Snakemake knows of it."""
    shutil.copytree(first.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, first.samples, bundle="bundle", chunk_size=20)


def rerun(project: Project) -> tuple[dict[str, int], int]:
    """Run the same command; returns the jobs, and how many chunks were embedded."""
    before = project.embeddings()
    done = project.run()
    assert done.returncode == 0, done.stdout
    after = project.embeddings()
    assert before.items() <= after.items()  # nothing was made twice
    assert project.left_over() == []
    assert len(after) - len(before) == embedded_chunks(done.stdout)
    return jobs(done.stdout), len(after) - len(before)


@pytest.mark.parametrize("settings", [{"precision": "fp32"}, {"batch_tokens": 4096}])
def test_what_embeddings_depend_on(project: Project, settings: dict[str, Any]) -> None:
    project.settings.update(settings)
    expected = {"serve": 1, "predict": 2, **LAST}
    assert rerun(project) == (expected, project.chunks())
    assert rerun(project) == ({}, 0)


def test_other_chunks(project: Project, first: Project) -> None:
    project.settings["chunk_size"] = 15
    done, embedded = rerun(project)
    assert done == {"chunk": 2, "serve": 1, "predict": 2, **LAST}
    assert embedded == project.chunks() > first.chunks()
    windows = [name for name in first.tables() if name.endswith("windows.tsv")]
    assert len(windows) == 2
    for name in windows:
        assert table(project, name) == table(first, name)


def table(project: Project, name: str) -> list[tuple[str, str]]:
    """Window and call of each row; the scores may differ in their last digits."""
    rows = (line.split("\t") for line in (project.results / name).read_text().splitlines())
    return [(*row[:6], row[10]) for row in rows]  # type: ignore[misc]


@pytest.mark.parametrize(
    "settings",
    [{"lease_seconds": 30}, {"workers": 3}],
)
def test_how_the_work_is_done(project: Project, first: Project, settings: dict[str, Any]) -> None:
    before = project.digests()
    project.settings.update(settings)
    assert rerun(project) == ({"report": 1, "all": 1}, 0)  # the report shows all settings
    assert project.digests() == before
    assert_finished_like(project, first)


def test_another_classifier(project: Project, first: Project) -> None:
    bundle = project.folder / "bundle"
    weights = load_file(bundle / CLASSIFIER)
    weights["output_layer.weight"] *= -1
    weights["output_layer.bias"] *= -1
    save_file(weights, bundle / CLASSIFIER)
    rewrite_card(bundle)
    assert rerun(project) == ({"predict": 2, **LAST}, 0)
    now, before = (
        {digest for name, digest in one.tables().items() if not name.endswith("calls.json")}
        for one in (project, first)
    )  # calls.json says how contigs are called: as before
    assert now.isdisjoint(before)
    assert rerun(project) == ({}, 0)


def test_a_sample_is_removed_and_comes_back(project: Project, first: Project) -> None:
    gut = {name: digest for name, digest in first.tables().items() if name.startswith("gut/")}
    project.set_samples({"gut": first.samples["gut"]})
    assert rerun(project) == (LAST, 0)
    assert project.tables() == gut
    project.set_samples(first.samples)
    assert rerun(project) == (LAST, 0)
    assert_finished_like(project, first)


def test_a_library_of_another_version(
    project: Project, first: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may cut other chunks and write other tables; the results of equal chunks still hold."""
    upgrade = project.folder / "upgrade"
    upgrade.mkdir()
    (upgrade / "sitecustomize.py").write_text(
        'import virnuc_rules\nvirnuc_rules.__version__ = "99.0"\n'
    )
    paths = filter(None, [str(upgrade), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    project.forked = False  # this Python has imported the library already
    assert rerun(project) == ({"chunk": 2, "serve": 1, "predict": 2, **LAST}, 0)
    manifest = json.loads((project.results / "chunks" / "gut" / "manifest.json").read_text())
    assert manifest["version"] == "99.0"
    assert project.report()["versions"]["virnuc_rules"] == "99.0"
    assert_finished_like(project, first)
    assert rerun(project) == ({}, 0)


def test_two_runs_at_once_on_samples_that_share_chunks(tmp_path: Path, first: Project) -> None:
    """Each chunk is embedded by one of them, and both finish."""
    samples = {**first.samples, "again": first.samples["gut"]}
    project = Project(tmp_path, samples, chunk_size=20)
    both = [project.start(forked=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(map(embedded_chunks, outputs)) == len(project.embeddings()) < project.chunks()
    gut = {name: digest for name, digest in first.tables().items() if name.startswith("gut/")}
    again = {name.replace("gut", "again"): digest for name, digest in gut.items()}
    assert project.tables() == {**first.tables(), **again}
    assert project.left_over() == project.failures() == []
    assert project.digests() == first.digests()
