"""The workflow makes a bundle that is missing, once, from its definition."""

import os
from pathlib import Path

import pytest
from harness import BUNDLE, DEMO, Project, jobs, sha256
from published import Server, published, write_definition

from virnuc_rules.models.card import FILES


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    sources = published(tmp_path / "published").items()
    paths = {name: {"path": str(path)} for name, path in sources}
    return write_definition(tmp_path / "own.yaml", **paths)


def project(folder: Path, definition: Path | str, **settings: object) -> Project:
    return Project(
        folder,
        samples={"gut": DEMO["gut"]},
        chunk_size=250,
        bundle=str(folder / "bundles/own"),
        bundle_definition=str(definition),
        **settings,
    )


@pytest.mark.parametrize("persistent", [True, False])
def test_a_missing_bundle_is_made_once(tmp_path: Path, definition: Path, persistent: bool) -> None:
    mine = project(tmp_path / "run", definition, persistent_models=persistent)
    dry = mine.run("--dry-run")
    assert dry.returncode == 0 and "prepare_models" in dry.stdout, dry.stdout
    assert not (mine.folder / "bundles/own/bundle.json").exists()
    done = mine.run()
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("(Rule: prepare_models)") == 1
    made = {name: sha256(mine.folder / "bundles/own" / name) for name in FILES}
    assert made == {name: sha256(BUNDLE / name) for name in FILES}  # what it was published from
    assert all(mine.tables())
    again = mine.run()
    assert "Nothing to be done" in again.stdout, again.stdout
    tables = mine.tables()
    mine.settings["bundle_definition"] = "virnucpro-500"  # a bundle that is there is left alone
    again = mine.run()
    assert again.returncode == 0 and "prepare_models" not in again.stdout, again.stdout
    assert made == {name: sha256(mine.folder / "bundles/own" / name) for name in FILES}
    assert mine.tables() == tables


def test_another_bundle_in_its_place_is_noticed(tmp_path: Path, definition: Path) -> None:
    """By its card, whatever the times of its files say."""
    mine = project(tmp_path / "run", definition)
    assert mine.run().returncode == 0
    card = mine.folder / "bundles/own/bundle.json"
    classifier = mine.folder / "bundles/own/classifier.safetensors"
    card.write_text(card.read_text().replace(sha256(classifier), "0" * 64))
    os.utime(card, (0, 0))
    expected = {"predict": 1, "collect": 1, "report": 1, "check": 1}
    assert jobs(mine.run("--dry-run").stdout) == expected


def test_without_a_network_the_run_says_what_to_do(tmp_path: Path) -> None:
    server = Server()
    server.close()
    paths = published(tmp_path / "published")
    sources = {name: {"path": str(paths[name])} for name in ("dnabert_s", "esm2")}
    definition = write_definition(
        tmp_path / "own.yaml",
        classifier={"url": f"{server.url}/500_model.pth", "sha256": sha256(paths["classifier"])},
        **sources,
    )
    mine = project(tmp_path / "run", definition)
    done = mine.run()
    assert done.returncode != 0
    assert "500_model.pth: cannot be reached" in done.stdout
    assert f"`virnuc-rules models prepare {definition} --out " in done.stdout
    assert (mine.results / "chunks/gut/manifest.json").exists()  # what needs no models was done
    write_definition(definition, classifier={"path": str(paths["classifier"])}, **sources)
    done = mine.run()
    assert done.returncode == 0, done.stdout
    assert all(mine.tables())


def test_without_a_definition_the_bundle_must_be_there(tmp_path: Path) -> None:
    mine = project(tmp_path / "run", "")
    done = mine.run()
    assert done.returncode != 0
    assert "bundles/own/bundle.json: no such file; give the folder of a model bundle" in done.stdout
    assert "`bundle_definition`" in done.stdout
    mine.settings["bundle_definition"] = "virnucpro"
    assert "no definition 'virnucpro'; give one of esm2-150m" in mine.run().stdout
