"""Contigs with a known label: mock communities, spiked controls.

A sample sheet may have a column `labels`: a table with the columns `id` and `label` (virus or
non_viral) of contigs of the sample. The report then gives their calls.
"""

from pathlib import Path

from virnuc_rules.config.sheet import Sheet, read_pairs
from virnuc_rules.errors import VirnucError
from virnuc_rules.vocabulary import Label

Labels = dict[str, Label]  # by id


def label_tables(sheet: Sheet) -> list[Path]:
    """Return the tables of labels that a sheet names."""
    return [path for row in sheet.rows if (path := row.path("labels"))]


def read_controls(sheet: Sheet) -> dict[str, Labels]:
    """Return the known contigs of each sample with a table of labels.

    Raises VirnucError with file, line and fix for a table that cannot be read.
    """
    controls: dict[str, Labels] = {}
    for row in sheet.rows:
        if path := row.path("labels"):
            labels = controls.setdefault(row.sample, {})
            for contig, text in read_pairs(path, "id", "label").items():
                label = read_label(text, f"{path}: {contig}")
                if labels.setdefault(contig, label) != label:
                    raise VirnucError(f"{path}: {contig} has another label in an earlier table")
    return controls


def read_label(text: str, where: str) -> Label:
    """Return the label of a cell; `others`, of older tables, is non_viral.

    Raises VirnucError, which begins with `where`, for another text.
    """
    try:
        return Label(text)
    except ValueError:
        raise VirnucError(f"{where}: label {text!r}: write {' or '.join(Label)}") from None
