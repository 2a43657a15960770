"""After several edits of a finished run, one run gives what a run from nothing gives.

CI tries pairs that are drawn with a seed; with VIRNUC_PAIRS=all, as in `make soak`, all pairs.
"""

import itertools
import os
import random
from pathlib import Path

import pytest
from convergence import References, check
from edits import EDITS
from harness import Project

PAIRS = list(itertools.combinations(EDITS, 2))
DRAWN = random.Random(12).sample(PAIRS, 8)
# Another content has chunks with the same names: what stands for them must go.
STANDARD = [*DRAWN[:8], ("a.fa replaced by newer content", "sample b removed")]
SOAK = os.environ.get("VIRNUC_PAIRS") == "all"
CASES: dict[tuple[str, ...], str] = {  # edits that failed in VirNuc 0.1; samples that are embedded
    ("threads=2", "min_score=0.99"): "",
    ("sample c added", "min_score=0.99"): "c",
    ("delete a", "delete report.html", "threads=2"): "",
    ("a.fa archived", "min_score=0.99"): "",
    ("delete embeddings", "sample c added"): "c",
    ("delete embeddings", "sample b removed"): "",
    ("labels", "sample c added", "labels edited"): "c",
}


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
