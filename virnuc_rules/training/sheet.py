"""The labelled sheet: a sample sheet with label, group, annotation and part of each file."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from virnuc_rules.config.labels import read_label
from virnuc_rules.config.sheet import COLUMNS, Row, is_known, read_pairs, read_sheet
from virnuc_rules.errors import VirnucError
from virnuc_rules.training.split import PARTS, Part
from virnuc_rules.vocabulary import Label


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """The cells of the sheet for one file of sequences."""

    label: int  # code of a Label
    group: str  # of all records of the file; empty: see `groups`
    groups_file: Path | None
    groups: dict[str, str] | None  # group of each record, by id; None: each record is a group
    genbank: Path | None  # annotation of the records
    part: Part | None  # of all records; None: by the hash of the group

    def group_of(self, contig: str) -> str:
        """Return the group of a record. Raises KeyError where the table of groups lacks it."""
        if self.group:
            return self.group
        return contig if self.groups is None else self.groups[contig]


LabelledSheet = dict[str, dict[str, LabelledFile]]  # by sample, by the file's name in the manifest


def read_labelled_sheet(path: Path) -> LabelledSheet:
    """Read a sample sheet with `label`, and optionally `group`, `groups`, `genbank` and `part`.

    See config/README.md. Raises VirnucError with file, line and fix.
    """
    sheet = read_sheet(path)
    if "label" not in sheet.table.columns:
        raise VirnucError(f"{path}: line 1: a column 'label' is needed: {' or '.join(Label)}")
    if unknown := sorted(c for c in sheet.table.columns if c and not is_known(c)):
        raise VirnucError(  # a misspelt `groups` would split genomes
            f"{path}: line 1: column {unknown[0]!r} is not known; known are "
            f"{', '.join(sorted(COLUMNS))}"
        )
    labelled: LabelledSheet = defaultdict(dict)
    for row in sheet.rows:
        labelled_file = _labelled(row)
        files = labelled[row.sample]
        if any(file.label != labelled_file.label for file in files.values()):
            raise VirnucError(
                f"{row.where}: sample {row.sample} has files of both labels; give each label a "
                "sample of its own"
            )
        files.update(dict.fromkeys(map(str, row.files), labelled_file))
    return dict(labelled)


def _labelled(row: Row) -> LabelledFile:
    label, group, part = (row.cells.get(name, "") for name in ("label", "group", "part"))
    groups = row.path("groups")
    if group and groups:
        raise VirnucError(f"{row.where}: give `group` or `groups`, not both")
    if part and part not in PARTS:
        raise VirnucError(f"{row.where}: part {part!r}: write {', '.join(PARTS)}, or nothing")
    return LabelledFile(
        label=read_label(label, row.where).code,
        group=group,
        groups_file=groups,
        groups=read_pairs(groups, "id", "group") if groups else None,
        genbank=row.path("genbank"),
        part=next((name for name in PARTS if name == part), None),
    )


def tables_beside(sheet: LabelledSheet) -> list[Path]:
    """Return the tables of groups and the annotations that a sheet names, each once."""
    files = [file for sample in sheet.values() for file in sample.values()]
    paths = (path for file in files for path in (file.groups_file, file.genbank) if path)
    return list(dict.fromkeys(paths))
