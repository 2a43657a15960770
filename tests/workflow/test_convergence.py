"""After any edit of a finished run, one run gives what a run from nothing gives.

CI tries all single edits and some pairs, drawn with a seed; with VIRNUC_PAIRS=all, as in `make
soak`, all pairs.
"""

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest
from convergence import (
    Outcome,
    References,
    assert_converged,
    contents,
    copied,
    new_project,
    run,
)
from edits import EDITS, Edit
from harness import Project, embedded_chunks, jobs, read_tsv

from virnuc_rules.vocabulary import Call

PAIRS = list(itertools.combinations(EDITS, 2))
DRAWN = random.Random(12).sample(PAIRS, 12)
# Another content has chunks with the same names: what stands for them must go.
STANDARD = [*DRAWN[:8], ("a.fa replaced by newer content", "sample b removed")]
SOAK = os.environ.get("VIRNUC_PAIRS") == "all"
ARCHIVED = "a.fa archived"
CASES: dict[tuple[str, ...], str] = {  # edits that failed in VirNuc 0.1; samples that are embedded
    ("threads=2", "min_score=0.99"): "",
    ("sample c added", "min_score=0.99"): "c",
    ("delete a", "delete report.html", "threads=2"): "",
    ("a.fa archived", "min_score=0.99"): "",
    ("delete embeddings", "sample c added"): "c",
    ("delete embeddings", "sample b removed"): "",
    ("labels", "sample c added", "labels edited"): "c",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Project]:
    """Finished runs, by `persistent_models`. Do not change them."""
    projects = {}
    for persistent in (True, False):
        folder = tmp_path_factory.mktemp(f"finished_{persistent}")
        projects[persistent] = new_project(folder, persistent_models=persistent)
        done = projects[persistent].run()
        assert done.returncode == 0, done.stdout
    return projects


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("references"))


def check(
    start: Project, folder: Path, references: References, *edits: Edit, embeds: str | None = None
) -> None:
    """Edit a copy of a finished run, run once, and compare with a run from nothing."""
    project = copied(start, folder)
    for edit in edits:
        edit.apply(project)
    before, whole = contents(project), project.folder / "a.fa"
    after = run(project)
    # An archived file counts as it was, unless it must be read again.
    if ARCHIVED in [edit.name for edit in edits] and not any(edit.chunks for edit in edits):
        shutil.copy2(start.folder / "a.fa", whole)
        reference = references.of(project)
        whole.unlink()
    else:
        reference = references.of(project)
    assert_converged(before, after, reference)
    if embeds is not None and project.settings["persistent_models"]:
        assert embedded_chunks(after.output) == chunks_of(project, embeds)
    if after.code == 0:
        assert_is_finished(project, after)


def chunks_of(project: Project, samples: str) -> int:
    folders = (project.paths.chunks(sample) for sample in samples)
    return sum(len(folder.chunk_files()) for folder in folders)


def assert_is_finished(project: Project, after: Outcome) -> None:
    """Nothing is left to do, and nothing is left over."""
    assert project.failures() == project.left_over() == []
    again = project.run()
    assert (again.returncode, jobs(again.stdout)) == (0, {}), again.stdout
    assert contents(project) == after.products


@pytest.mark.parametrize("name", EDITS)
def test_single_edits(
    name: str, finished: dict[bool, Project], references: References, tmp_path: Path
) -> None:
    edit = EDITS[name]
    check(finished[True], tmp_path / "p", references, edit, embeds=edit.embeds)


@pytest.mark.parametrize("names", CASES, ids=" + ".join)
def test_cases_of_several_edits(
    names: tuple[str, ...], finished: dict[bool, Project], references: References, tmp_path: Path
) -> None:
    edits = map(EDITS.__getitem__, names)
    check(finished[True], tmp_path / "p", references, *edits, embeds=CASES[names])


@pytest.mark.parametrize("pair", PAIRS if SOAK else DRAWN, ids=" + ".join)
def test_pairs_of_edits(
    pair: tuple[str, str], finished: dict[bool, Project], references: References, tmp_path: Path
) -> None:
    check(finished[True], tmp_path / "p", references, *map(EDITS.__getitem__, pair))


@pytest.mark.parametrize("pair", STANDARD, ids=" + ".join)
def test_pairs_of_edits_in_standard_mode(
    pair: tuple[str, str], finished: dict[bool, Project], references: References, tmp_path: Path
) -> None:
    check(finished[False], tmp_path / "p", references, *map(EDITS.__getitem__, pair))


def test_both_modes_give_the_same(finished: dict[bool, Project], references: References) -> None:
    """And calls of both kinds: else this file would prove little."""
    reference = references.of(finished[True])
    assert contents(finished[True]) == contents(finished[False]) == reference.products
    calls = {row["call"] for row in read_tsv(finished[True].paths.sample("a").tsv("windows"))}
    assert calls == set(Call)
