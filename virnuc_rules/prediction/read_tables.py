"""Reads the tables of a sample, in parts: they may be larger than memory."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from virnuc_rules.errors import ResultError
from virnuc_rules.files.environment import environment_named, open_regular, read_regular
from virnuc_rules.prediction.decision import SampleCalls


def read_calls(path: Path) -> SampleCalls:
    """Read `calls.json`. Raises ResultError for one that is damaged or of another version."""
    try:
        with environment_named(path):
            return SampleCalls.model_validate_json(read_regular(path))
    except (OSError, ValidationError):
        raise ResultError(f"{path}: not of this version; run `predict` again") from None


def read_batches(
    path: Path, *columns: str, contig_index: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table (Parquet), or only those of one contig.

    For one contig only the row groups that may have it are read, of 32,768 rows at most. Raises
    ResultError for a table that is missing, damaged or of another version.
    """
    try:
        with environment_named(path), open_regular(path) as opened:
            file = pq.ParquetFile(opened, page_checksum_verification=True)
            needed = [*columns] if contig_index is None else [*{*columns, "contig_index"}]
            if missing := sorted(set(needed) - set(file.schema_arrow.names)):
                raise KeyError(f"no column {missing[0]}: written by another version")
            if contig_index is None:
                yield from file.iter_batches(columns=needed)
                return
            for group in range(file.num_row_groups):
                if _may_hold(file, group, contig_index):
                    rows = file.read_row_group(group, columns=needed)
                    own = rows.filter(pc.equal(rows["contig_index"], contig_index))
                    yield from own.select(list(columns)).to_batches()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ResultError(f"{path}: cannot be read ({reason}); run `predict` again") from None


def _may_hold(file: pq.ParquetFile, group: int, contig_index: int) -> bool:
    """Tell by its smallest and largest `contig_index` whether a row group may have a contig."""
    column = file.schema_arrow.get_field_index("contig_index")
    known = file.metadata.row_group(group).column(column).statistics
    return known is None or not known.has_min_max or known.min <= contig_index <= known.max
