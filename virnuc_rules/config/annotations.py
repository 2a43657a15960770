"""What other tools say about the contigs of a sample.

A sample sheet may have columns `annotations` and `annotations_NAME`: tables, tab-separated with a
header, whose first column has the ids of contigs or of viral sequences. `collect` joins them.
"""

from pathlib import Path

from virnuc_rules.config.sheet import ANNOTATIONS, Sheet
from virnuc_rules.errors import VirnucError

AnnotationTables = dict[str, list[Path]]  # by NAME, or `annotations`


def annotation_tables(sheet: Sheet) -> dict[str, AnnotationTables]:
    """Return the tables of each sample of a sheet; one that several rows name counts once.

    Raises VirnucError for a name with a dot.
    """
    tables: dict[str, AnnotationTables] = {sample: {} for sample in sheet.samples}
    for column in sheet.table.columns:
        if column == ANNOTATIONS or column.startswith(f"{ANNOTATIONS}_"):
            name = column.removeprefix(f"{ANNOTATIONS}_")
            if "." in name:  # `a.b` and column `c`, `a` and column `b.c`: the same name
                raise VirnucError(f"{sheet.table.path}: column {column!r}: write it without a dot")
            for row in sheet.rows:
                paths = tables[row.sample].get(name, [])
                if (path := row.path(column)) and path not in paths:
                    tables[row.sample][name] = [*paths, path]
    return tables


def annotation_paths(sheet: Sheet) -> list[Path]:
    """Return the paths of all tables of a sheet, each once."""
    samples = annotation_tables(sheet).values()
    return list(dict.fromkeys(p for tables in samples for paths in tables.values() for p in paths))
