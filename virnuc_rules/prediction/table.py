"""A table that is written as TSV and as Parquet."""

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from virnuc_rules.files.tsv import escape, escaped, lines, text

BLOCK_ROWS = 1 << 15  # rows written together: one row group of a Parquet file


class Table(contextlib.ExitStack):
    """A table as TSV and as Parquet, the same rows and columns.

    Rows are written in blocks of one size: the files do not depend on how many are added at a time.
    """

    def __init__(self, tsv: Path, parquet: Path, schema: pa.Schema) -> None:
        super().__init__()
        self.schema = schema
        self.tsv = self.enter_context(tsv.open("wb"))
        self.tsv.write(("\t".join(map(escape, self.schema.names)) + "\n").encode())
        self.parquet = self.enter_context(
            pq.ParquetWriter(parquet, schema, compression="zstd", write_page_checksum=True)
        )
        self.pending = self.schema.empty_table()

    def add(self, columns: dict[str, Any]) -> None:
        """Add rows: arrays by the names of the columns; NaN is null."""
        arrays = [
            column.cast(field.type)
            if isinstance(column := columns[field.name], pa.Array | pa.ChunkedArray)
            else pa.array(column, field.type, from_pandas=True)
            for field in self.schema
        ]
        added = pa.Table.from_arrays(arrays, schema=self.schema)
        self.pending = pa.concat_tables([self.pending, added])
        while self.pending.num_rows >= BLOCK_ROWS:
            self.write_block()

    def finish(self) -> None:
        """Write the last, smaller block."""
        if self.pending.num_rows:
            self.write_block()

    def write_block(self) -> None:
        """Write the next rows to both files."""
        block, self.pending = self.pending.slice(0, BLOCK_ROWS), self.pending.slice(BLOCK_ROWS)
        columns = [column.combine_chunks() for column in block.columns]
        self.parquet.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.write_text(dict(zip(self.schema.names, map(text, columns), strict=True)))

    def write_text(self, texts: dict[str, pa.Array]) -> None:
        """Write rows as text: arrays by the names of the columns."""
        of_text = [field.name for field in self.schema if field.type == pa.string()]
        safe = {name: escaped(texts[name]) for name in of_text}
        self.tsv.write(lines(*{**texts, **safe}.values()))
