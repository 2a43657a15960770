"""Contigs whose label is known: mock communities, spiked controls.

A sample sheet may have a column `labels`: a tab-separated table with a header and the columns `id`
and `label` (virus or non_viral) of contigs of the sample. The report says how they were called.
"""

import csv
from pathlib import Path

from virnuc_rules.errors import VirnucError
from virnuc_rules.vocabulary import Label

Labels = dict[str, Label]  # by id


def read_controls(sheet: Path) -> dict[str, Labels]:
    """Return the known contigs of each sample that has any. The sheet is one that can be read.

    Raises VirnucError with file, line and fix for a table of labels that cannot.
    """
    found: dict[str, Labels] = {}
    with sheet.open(encoding="utf-8-sig", newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE):
            if path := (row.get("labels") or "").strip():
                found.setdefault(row["sample"].strip(), {}).update(_read_labels(Path(path)))
    return found


def _read_labels(path: Path) -> Labels:
    table = read_pairs(path, "id", "label")
    return {name: read_label(label, f"{path}: {name}") for name, label in table.items()}


def read_label(text: str, where: str) -> Label:
    """Return the label that a table spells; `others`, of older tables, is non_viral.

    Raises VirnucError, which begins with `where`, for any other text.
    """
    try:
        return Label(text)
    except ValueError:
        raise VirnucError(f"{where}: label {text!r}: write {' or '.join(Label)}") from None


def read_pairs(path: Path, key: str, value: str) -> dict[str, str]:
    """Read two columns of a tab-separated table with a header, as a mapping.

    Raises VirnucError with file, line and fix: for a table that cannot be read, an empty cell, or
    a key with two values.
    """
    pairs: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            if {key, value} - set(reader.fieldnames or ()):
                raise VirnucError(
                    f"{path}: line 1: the columns '{key}' and '{value}' are needed, tab-separated"
                )
            for row in reader:
                where = f"{path}: line {reader.line_num}:"
                if not row[key] or not row[value]:
                    raise VirnucError(f"{where} {key} or {value} is empty")
                if pairs.setdefault(row[key], row[value]) != row[value]:
                    raise VirnucError(f"{where} {row[key]} has two values of {value}; leave one")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise VirnucError(f"{path}: cannot be read ({reason})") from None
    return pairs
