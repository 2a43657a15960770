"""How the tables of a sample are read again: in parts, and with one line where one is damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from virnuc_rules.errors import ResultError, one_line
from virnuc_rules.files.environment import environment_named, open_regular


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged table raises into a ResultError.

    Errors of the environment become an EnvironmentProblem.
    """
    try:
        with environment_named(path):
            yield
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = one_line(error)
        raise ResultError(f"{path}: cannot be read ({reason}); run `predict` again") from None


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a table; see `damage_named`."""
    with damage_named(path), open_regular(path) as file:
        yield pq.ParquetFile(file, page_checksum_verification=True)


def batches(path: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    """Read columns of a table in parts. Raises ResultError where it is damaged."""
    with opened(path) as file:
        if missing := sorted(set(columns) - set(file.schema_arrow.names)):
            raise KeyError(f"no column {missing[0]}: written by another version")
        yield from file.iter_batches(columns=list(columns))
