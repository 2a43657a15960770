"""The sheet of labelled sequences: a sample sheet with what is known of each file beside it."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from virnuc_rules.config.labels import read_label, read_pairs
from virnuc_rules.config.model import matches, read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.training.split import PARTS, Part
from virnuc_rules.vocabulary import Label

_OPTIONAL = ("group", "groups", "genbank", "part")
_COLUMNS = {"sample", "path", "label", "labels", *_OPTIONAL}


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """What the sheet says of one file of sequences."""

    label: int  # code of a Label
    group: str  # of all its records; empty: see `groups`
    groups_file: Path | None
    groups: dict[str, str] | None  # of each record by its id; None: each record is a group
    genbank: Path | None  # annotation of its records
    part: Part | None  # of all its records; None: by the hash of the group

    def group_of(self, contig: str) -> str:
        """Return the group of a record. Raises KeyError where the table of groups lacks it."""
        if self.group:
            return self.group
        return contig if self.groups is None else self.groups[contig]


Sheet = dict[str, dict[str, LabelledFile]]  # by sample, by the file's name in the manifest


def read_sheet(path: Path) -> Sheet:
    """Read a sheet with the columns of a sample sheet and `label`, perhaps also `group`, `groups`,
    `genbank` and `part`; see config/README.md.

    Raises VirnucError with file, line and fix.
    """
    samples = read_samples(path)  # what a sample sheet may not be, is an error here too
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        if "label" not in (reader.fieldnames or ()):
            raise VirnucError(f"{path}: line 1: a column 'label' is needed: {' or '.join(Label)}")
        if unknown := sorted(set(reader.fieldnames or ()) - _COLUMNS):
            raise VirnucError(  # a misspelt `groups` would tear genomes apart
                f"{path}: line 1: column {unknown[0]!r} is not known; known are "
                f"{', '.join(sorted(_COLUMNS))}"
            )
        sheet: Sheet = defaultdict(dict)
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            cells = {key: (value or "").strip() for key, value in row.items() if key}
            known = _labelled(cells, where)
            files = sheet[cells["sample"]]
            for file in matches(cells["path"]):
                if any(other.label != known.label for other in files.values()):
                    raise VirnucError(
                        f"{where}: sample {cells['sample']} has files of both labels; give each "
                        "label a sample of its own"
                    )
                files[str(file)] = known
    assert sheet.keys() == samples.keys()
    return dict(sheet)


def _labelled(row: dict[str, str], where: str) -> LabelledFile:
    label = read_label(row["label"], where)
    group, groups, genbank, part = (row.get(name, "") for name in _OPTIONAL)
    if group and groups:
        raise VirnucError(f"{where}: give `group` or `groups`, not both")
    if part and part not in PARTS:
        raise VirnucError(f"{where}: part {part!r}: write {', '.join(PARTS)}, or nothing")
    return LabelledFile(
        label=label.code,
        group=group,
        groups_file=Path(groups) if groups else None,
        groups=read_pairs(Path(groups), "id", "group") if groups else None,
        genbank=Path(genbank) if genbank else None,
        part=next((known for known in get_args(Part) if known == part), None),
    )


def tables_beside(sheet: Sheet) -> list[Path]:
    """Return the tables of groups and the annotations that a sheet names, each once."""
    files = [file for sample in sheet.values() for file in sample.values()]
    found = [path for file in files for path in (file.groups_file, file.genbank) if path]
    return list(dict.fromkeys(found))
