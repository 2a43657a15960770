"""Tables that users write: the sample sheet, and the tables that it names."""

import csv
import difflib
import glob
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from virnuc_rules.config.model import expanded
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.environment import environment_problem, read_small

# The names that a sample may have; names of files are made from them, of at most 255 bytes.
SAMPLE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

ANNOTATIONS = "annotations"  # also annotations_NAME
COLUMNS = {
    "sample", "path", "label", "labels", "group", "groups", "genbank", "part", ANNOTATIONS
}  # fmt: skip
_CLOSE = 0.82  # similarity of a misspelt column; 1 is equal


class Table(NamedTuple):
    """A tab-separated table with a header; cells are stripped, missing ones are empty."""

    path: Path
    columns: list[str]
    rows: list[tuple[str, dict[str, str]]]  # file and line, for messages; cells by column


def read_table(path: Path, *needed: str) -> Table:
    """Read a table with at least these columns. Raises VirnucError with file, line and fix.

    Names of columns may be in capitals. Blank lines and lines with # before the header are skipped.
    """
    rows = []
    try:
        content = io.BytesIO(read_small(path))
        with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            columns = _header(path, reader, needed)
            for row in filter(None, reader):
                given = zip(columns, map(str.strip, row), strict=False)
                cells = dict.fromkeys(columns, "") | dict(given)
                rows.append((f"{path}: line {reader.line_num}", cells))
    except csv.Error as error:
        raise VirnucError(f"{path}: line {reader.line_num}: not a table ({error})") from None
    except UnicodeDecodeError:
        raise VirnucError(f"{path}: not UTF-8 text; save it as tab-separated text") from None
    except OSError as error:
        problem = f"{path}: cannot be read ({error.strerror}); check the path"
        raise environment_problem(error, path) or VirnucError(problem) from None
    return Table(path, columns, rows)


def is_known(column: str) -> bool:
    """Tell whether VirNuc reads this column of a sample sheet."""
    return column in COLUMNS or column.startswith(f"{ANNOTATIONS}_")


def _header(path: Path, reader: Any, needed: tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for row in reader:
        names = [cell.strip().lower() for cell in row]
        if any(names) and not names[0].startswith("#"):
            break
        names[:1] = [name.lstrip("# ") for name in names[:1]]
        if set(needed) <= set(names):
            break
    where = f"{path}: line {max(1, reader.line_num)}"
    if set(needed) - set(names):
        quoted = next((name for name in names if name[:1] == '"' == name[-1:]), "")
        columns = " and ".join(f"'{name}'" for name in needed)
        what = f"the columns {columns} are" if needed[1:] else f"a column {columns} is"
        hint = f", without quotes (found {quoted})" if quoted else ""
        raise VirnucError(f"{where}: {what} needed, tab-separated{hint}")
    if twice := next((name for name in names if name and names.count(name) > 1), ""):
        raise VirnucError(f"{where}: two columns are {twice!r}; leave one")
    return names


def read_pairs(path: Path, key: str, value: str) -> dict[str, str]:
    """Read two columns of a table as a mapping.

    Raises VirnucError as `read_table` does, for an empty cell, and for a key with two values.
    """
    pairs: dict[str, str] = {}
    for where, cells in read_table(path, key, value).rows:
        if not cells[key] or not cells[value]:
            raise VirnucError(f"{where}: {key} or {value} is empty")
        if pairs.setdefault(cells[key], cells[value]) != cells[value]:
            raise VirnucError(f"{where}: {cells[key]} has two values of {value}; leave one")
    return pairs


class Row(NamedTuple):
    """A row of a sample sheet."""

    where: str  # file and line, for messages
    sample: str
    files: list[Path]  # matches of a pattern are sorted
    cells: dict[str, str]

    def path(self, column: str) -> Path | None:
        """Return the path in a cell; None where it is empty or there is no such column."""
        text = self.cells.get(column)
        return usable(_path(text, self.where), self.where) if text else None


class Sheet(NamedTuple):
    """A sample sheet: samples have one row or several."""

    table: Table
    rows: list[Row]

    @property
    def samples(self) -> dict[str, list[Path]]:
        """Return the files of each sample, in the order of its rows."""
        samples: dict[str, list[Path]] = {}
        for row in self.rows:
            samples.setdefault(row.sample, []).extend(row.files)
        return samples


def read_samples(path: Path) -> dict[str, list[Path]]:
    """Return the files of each sample of a sheet; see `read_sheet`."""
    return read_sheet(path).samples


def read_sheet(path: Path) -> Sheet:
    """Read a sample sheet: a table with at least the columns `sample` and `path`.

    A path may be a pattern (`*`, `?`, `[...]`). Raises VirnucError with file, line and fix.
    """
    table = read_table(path, "sample", "path")
    for column in table.columns:  # others may be the user's notes
        close = difflib.get_close_matches(column, COLUMNS, 1, _CLOSE)
        if close and not is_known(column):
            raise VirnucError(f"{path}: column {column!r} is not known; did you mean {close[0]!r}?")
    rows = list(_rows(table))
    if not rows:
        raise VirnucError(f"{path}: no samples; add a line with a sample and a path")
    return Sheet(table, rows)


def _rows(table: Table) -> Iterator[Row]:
    seen: set[tuple[str, Path]] = set()
    reserved = RunFolder(Path()).own_names()
    for where, cells in table.rows:
        name = cells["sample"]
        if not re.fullmatch(SAMPLE, name):
            raise VirnucError(
                f"{where}: sample name {name!r}: use letters, digits, '.', '_' and '-', "
                "begin with a letter or digit, and take at most 100"
            )
        if name in reserved:
            raise VirnucError(f"{where}: sample name {name!r}: VirNuc has a file of this name")
        if not cells["path"]:
            raise VirnucError(f"{where}: sample {name!r} has no path; add one")
        files = _matches(cells["path"], where)
        for file in files:
            same = name, file.absolute()
            if same in seen:
                raise VirnucError(f"{where}: sample {name!r} has {file} twice; remove one of them")
            seen.add(same)
        yield Row(where, name, files, cells)


def _path(text: str, where: object) -> Path:
    try:
        return expanded(Path(text))
    except ValueError as error:
        raise VirnucError(f"{where}: {text}: {error}") from None


def _matches(text: str, where: str) -> list[Path]:
    """Return the files that a pattern matches, sorted; a path, or a pattern without match, as is.

    `Plan.check_inputs` reports patterns without match: jobs may run where the data are not visible.
    """
    path = _path(text, where)
    if not glob.has_magic(str(path)):
        return [usable(path, where)]
    return [usable(match, where) for match in _glob(path)] or [usable(path, where)]


def _glob(pattern: Path) -> list[Path]:
    """Expand a pattern; existing folders and files with pattern letters in their names stay."""
    literal = Path(pattern.anchor)
    for part in pattern.parts[len(literal.parts) :]:
        name = glob.escape(part) if os.path.lexists(_unescaped(literal) / part) else part
        literal = literal / name
    return [Path(match) for match in sorted(glob.glob(str(literal)))]  # noqa: PTH207


def _unescaped(path: Path) -> Path:
    return Path(re.sub(r"\[([*?[])\]", r"\1", str(path)))


def usable(path: Path, where: str) -> Path:
    """Return the path. Raises VirnucError for names that Snakemake or UTF-8 text cannot hold."""
    text = str(path)
    if set("{}") & set(text):
        raise VirnucError(f"{where}: {path}: Snakemake takes braces for wildcards; rename it")
    if re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        raise VirnucError(f"{where}: {path}: the name has control characters; rename the file")
    try:
        text.encode()
    except UnicodeEncodeError:
        name = os.fsencode(path).decode(errors="replace")
        raise VirnucError(f"{where}: {name}: the name is not UTF-8; rename the file") from None
    return path
