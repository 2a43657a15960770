"""The terms of the field: what is written, what is still read, and that each is written once."""

import ast
import json
import shutil
from pathlib import Path

import pytest

import virnuc_rules
from virnuc_rules.config.labels import read_controls
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.models.card import read_card
from virnuc_rules.training.page import Evaluation
from virnuc_rules.training.sheet import read_labelled_sheet
from virnuc_rules.vocabulary import UPSTREAM_NON_VIRAL, Call, Frame, Label, Reason

LIBRARY = Path(virnuc_rules.__file__).parent
DEMO = LIBRARY / "bundles/demo"
TERMS = {UPSTREAM_NON_VIRAL, *Label, *Call, *Reason, *Frame}


def test_the_codes() -> None:
    """Arrays hold these: the class of a score, the order of reasons, ..."""
    assert [(label, label.code) for label in Label] == [("non_viral", 0), ("virus", 1)]
    assert [(call, call.code) for call in Call] == [("virus", 0), ("non_viral", 1), ("no_call", 2)]
    assert list(Frame) == ["F1", "F2", "F3", "R1", "R2", "R3"]
    assert [reason.code for reason in Reason] == list(range(len(Reason)))


def test_only_the_label_of_upstream_has_a_second_name() -> None:
    assert Label("others") is Label.NON_VIRAL
    for term in ("phage", "Others", "", "no_call"):
        with pytest.raises(ValueError, match="is not a valid Label"):
            Label(term)
    with pytest.raises(ValueError, match="is not a valid Call"):
        Call("others")


def test_others_is_read_in_sheets_and_tables_of_labels(tmp_path: Path) -> None:
    known, sheet = tmp_path / "known.tsv", tmp_path / "sheet.tsv"
    known.write_text("id\tlabel\na\tvirus\nb\tothers\nc\tnon_viral\n")
    for name in ("old.fa", "new.fa"):
        (tmp_path / name).write_text(">a\nACGT\n")
    rows = f"s\t{tmp_path}/old.fa\tothers\t{known}\ns\t{tmp_path}/new.fa\tnon_viral\t\n"
    sheet.write_text(f"sample\tpath\tlabel\tlabels\n{rows}")
    assert {file.label for file in read_labelled_sheet(sheet)["s"].values()} == {
        Label.NON_VIRAL.code
    }
    labels = read_controls(read_sheet(sheet))["s"]
    assert labels == {"a": "virus", "b": "non_viral", "c": "non_viral"}


def test_others_is_read_in_cards_and_written_as_non_viral(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(DEMO, folder)
    path = folder / "bundle.json"
    text = path.read_text().replace('"non_viral"', '"others"')
    count = text.count('"others"')
    assert count == 5  # open frames of both parts, windows and their fractions, pieces of contigs
    path.write_text(text)
    card = read_card(folder)
    assert card.training and card.calibration
    before = json.loads(text)["training"]["open_frames"]["train"]
    expected = {"non_viral": before["others"], "virus": before["virus"]}
    assert card.training.open_frames["train"] == expected
    written = card.model_dump_json(indent=1)
    assert written.count('"non_viral"') == count and '"others"' not in written
    path.write_text(written)
    assert read_card(folder) == card
    assert read_card(folder).prediction_fingerprint == card.prediction_fingerprint


def test_others_is_read_in_evaluations() -> None:
    text = (DEMO / "evaluation.json").read_text()
    assert '"others"' not in Evaluation.model_validate_json(text).model_dump_json()


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_no_other_module_spells_a_term(path: Path) -> None:
    if path.name == "vocabulary.py":
        return
    found = [
        f"line {node.lineno}: {node.value!r}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in TERMS
    ]
    assert found == []
