"""Runs that keep the scores of chunks instead of their embeddings: `keep_embeddings: false`."""

import json
import shutil
from pathlib import Path

import pytest
from convergence import change_bundle, copied, new_project
from harness import Project, embedded_chunks, jobs, spoil
from labelled import write_sheet

from virnuc_rules.models import card
from virnuc_rules.models.bundle import rewrite_card

CHUNKS = 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Project]:
    """A finished run of each kind. Do not change them."""
    projects = {}
    for keep in (True, False):
        projects[keep] = new_project(tmp_path_factory.mktemp("run") / "p", keep_embeddings=keep)
        embedded(projects[keep])
    return projects


def embedded(project: Project) -> int:
    """Run; return how many chunks were embedded."""
    done = project.run()
    assert done.returncode == 0, done.stdout
    return embedded_chunks(done.stdout)


def plan(project: Project) -> str:
    done = project.run("--dry-run")
    return next(line for line in done.stdout.splitlines() if line.startswith("plan: to embed"))


def test_tables_are_the_same_bytes(finished: dict[bool, Project]) -> None:
    assert finished[False].tables() == finished[True].tables()
    assert len(finished[False].digests()) == len(finished[True].digests()) == CHUNKS


def test_the_other_kind_is_enough(finished: dict[bool, Project], tmp_path: Path) -> None:
    """Changing the setting embeds nothing, also where tables must be made again."""
    tables = []
    for keep in (True, False):
        project = copied(finished[keep], tmp_path / str(keep))
        project.settings["keep_embeddings"] = not keep
        assert jobs(project.run("--dry-run").stdout).keys() <= {"report", "all"}
        project.settings["min_score"] = 0.99
        assert "to embed: 0 chunks" in plan(project)
        assert embedded(project) == 0
        tables.append(project.tables())
    assert tables[0] == tables[1] != finished[True].tables()


def test_another_classifier_embeds_again_and_the_plan_says_so(
    finished: dict[bool, Project], tmp_path: Path
) -> None:
    project = copied(finished[False], tmp_path / "p")
    change_bundle(project.folder / "bundle", card.CLASSIFIER)
    assert f"to embed: {CHUNKS} chunks" in plan(project)
    assert f"({CHUNKS} other classifier)" in plan(project)
    assert embedded(project) == CHUNKS
    with_embeddings = copied(finished[True], tmp_path / "q")
    change_bundle(with_embeddings.folder / "bundle", card.CLASSIFIER)
    assert embedded(with_embeddings) == 0
    assert project.tables() == with_embeddings.tables()


def test_damaged_scores_are_made_again(finished: dict[bool, Project], tmp_path: Path) -> None:
    project = copied(finished[False], tmp_path / "p")
    for path in project.paths.embeddings.glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
        break
    shutil.rmtree(project.paths.sample("a").path)
    shutil.rmtree(project.paths.sample("b").path)
    assert embedded(project) == 1
    assert project.tables() == finished[False].tables()


def test_train_is_refused_before_anything_runs(tmp_path: Path) -> None:
    write_sheet(tmp_path)
    samples = {label: tmp_path / f"{label}.fa" for label in ("virus", "non_viral")}
    project = Project(tmp_path, samples, keep_embeddings=False)
    project.settings["samples"] = "labelled.tsv"
    done = project.run("train")
    assert done.returncode != 0
    assert "keep_embeddings: train reads embeddings, which are not kept with false" in done.stdout
    assert not project.paths.chunk_folders.exists()


def test_a_bundle_without_a_classifier_is_refused_before_anything_runs(tmp_path: Path) -> None:
    project = new_project(tmp_path / "p", keep_embeddings=False)
    rewrite_card(project.folder / "bundle", classifier=None)
    done = project.run()
    assert done.returncode != 0
    assert "has no classifier, so `keep_embeddings: false` would keep nothing" in done.stdout
    assert not project.paths.chunk_folders.exists()


def test_a_bad_file_does_not_matter_beside_a_good_one(
    finished: dict[bool, Project], tmp_path: Path
) -> None:
    """Embeddings of a run beside the scores of another one, which are cut or have a wrong bit."""
    project = copied(finished[True], tmp_path / "p")
    scores = []
    for path in finished[False].paths.embeddings.glob("*/*.safetensors"):
        scores.append(project.paths.embeddings / path.parent.name / path.name)
        scores[-1].parent.mkdir(exist_ok=True)
        scores[-1].write_bytes(path.read_bytes())
    spoil(scores[0])
    scores[1].write_bytes(scores[1].read_bytes()[:-4])
    project.settings["min_score"] = 0.99
    assert embedded(project) == 0
    assert len(list(project.paths.damaged.iterdir())) == 2
    reference = copied(finished[True], tmp_path / "q")
    reference.settings["min_score"] = 0.99
    assert embedded(reference) == 0
    assert project.tables() == reference.tables()


def test_short_scores_where_embeddings_are_kept_now(
    finished: dict[bool, Project], tmp_path: Path
) -> None:
    project = copied(finished[False], tmp_path / "p")
    path = next(project.paths.embeddings.glob("*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4])
    project.settings |= {"keep_embeddings": True, "min_score": 0.99}
    assert "to embed: 1 chunks" in plan(project)
    assert embedded(project) == 1


def test_the_reference_mode_also_takes_the_other_kind(
    finished: dict[bool, Project], tmp_path: Path
) -> None:
    project = copied(finished[False], tmp_path / "p")
    project.settings |= {"keep_embeddings": True, "persistent_models": False}
    project.set_samples({"renamed": project.samples["a"], "b": project.samples["b"]})
    assert embedded(project) == 0


def test_only_train_needs_embeddings(tmp_path: Path) -> None:
    write_sheet(tmp_path)
    samples = {label: tmp_path / f"{label}.fa" for label in ("virus", "non_viral")}
    project = Project(tmp_path, samples, keep_embeddings=False, chunk_size=100)
    project.settings |= {"samples": "labelled.tsv", "hidden": 4, "max_epochs": 2}
    chunks = embedded(project)
    project.settings |= {"keep_embeddings": True, "min_score": 0.99}
    assert "to embed: 0 chunks" in plan(project)
    assert embedded(project) == 0
    assert f"plan: to embed for `train`: {chunks} chunks more" in project.run("-n").stdout
    done = project.run("evaluate")
    assert done.returncode == 0 and embedded_chunks(done.stdout) == 0, done.stdout
    done = project.run("train")
    assert done.returncode == 0 and embedded_chunks(done.stdout) == chunks, done.stdout
    assert "to embed for" not in project.run("-n").stdout


def test_evaluation_needs_only_scores(tmp_path: Path) -> None:
    write_sheet(tmp_path)
    samples = {label: tmp_path / f"{label}.fa" for label in ("virus", "non_viral")}
    project = Project(tmp_path, samples, keep_embeddings=False, chunk_size=100)
    project.settings["samples"] = "labelled.tsv"
    pages = []
    for keep in (False, True):
        project.settings["keep_embeddings"] = keep
        done = project.run("evaluate")
        assert done.returncode == 0, done.stdout
        page = json.loads(project.paths.evaluation.json.read_text())
        pages.append({**page, "made": ""})
        assert jobs(project.run("evaluate", "--dry-run").stdout) == {}
        shutil.rmtree(project.paths.embeddings)
        project.paths.evaluation.json.unlink()
    assert pages[0] == pages[1]
