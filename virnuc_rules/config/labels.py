"""Contigs whose label is known: mock communities, spiked controls.

A sample sheet may have a column `labels`: a table with the columns `id` and `label` (virus or
others) of contigs of the sample. The report then says how they were called.
"""

from pathlib import Path

from virnuc_rules.config.sheet import Sheet, read_pairs
from virnuc_rules.errors import VirnucError

LABELS = ("others", "virus")  # the place of a label is its class, as in the scores
Labels = dict[str, str]  # label by id


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
    for name, label in table.items():
        if label not in LABELS:
            raise VirnucError(f"{path}: {name}: label {label!r}: write {' or '.join(LABELS)}")
    return table
