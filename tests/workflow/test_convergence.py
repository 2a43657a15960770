"""After any edit of a finished run, one run gives what a run from nothing gives: single edits."""

from pathlib import Path

import pytest
from convergence import References, check, contents
from edits import EDITS
from harness import Project, read_tsv

from virnuc_rules.vocabulary import Call


@pytest.mark.parametrize("name", EDITS)
def test_single_edits(
    name: str, finished: dict[bool, Project], references: References, tmp_path: Path
) -> None:
    edit = EDITS[name]
    check(finished[True], tmp_path / "p", references, edit, embeds=edit.embeds)


def test_both_modes_give_the_same(finished: dict[bool, Project], references: References) -> None:
    """And calls of both kinds: else this file would prove little."""
    reference = references.of(finished[True])
    assert contents(finished[True]) == contents(finished[False]) == reference.products
    calls = {row["call"] for row in read_tsv(finished[True].paths.sample("a").tsv("windows"))}
    assert calls == set(Call)
