"""Contigs whose label is known: mock communities, spiked controls.

A sample sheet may have a column `labels`: a table with the columns `id` and `label` (virus or
non_viral) of contigs of the sample. The report then says how they were called.
"""

from pathlib import Path

from virnuc_rules.config.sheet import Sheet, read_pairs
from virnuc_rules.errors import VirnucError
from virnuc_rules.vocabulary import Label

Labels = dict[str, Label]  # by id


def read_controls(sheet: Sheet) -> dict[str, Labels]:
    """Return the known contigs of each sample that has any.

    Raises VirnucError with file, line and fix for a table of labels that cannot be read.
    """
    controls: dict[str, Labels] = {}
    for row in sheet.rows:
        if path := row.path("labels"):
            controls.setdefault(row.sample, {}).update(_read_labels(path))
    return controls


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
