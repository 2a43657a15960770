"""Columns of many rows as tab-separated text that every reader reads whole."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Readers of tracks skip lines that begin with these: IGV, the UCSC browser, bedtools (all four).
_WORDS = "track|browser|visibility|chrom$"
_FORMULA = r"[=@]|[+-](?!$|[\d.]+(?:[eE][+-]?\d+)?$)"  # for a spreadsheet; a number is none
# What readers of tables and tracks take for more than text: comments too (not CheckV's `>1 viral`),
# quotes, what ends a cell, and what looks as if it were escaped.
_UNSAFE = rf'^(?:{_FORMULA}|[#!]|>(?!\d)|{_WORDS})|%(?=[0-9A-Fa-f]{{2}})|["\x00-\x1f\x7f]'
_SUSPECT = rf'^(?:[=@+#!>-]|{_WORDS})|["%\x00-\x1f\x7f]'  # the same or more, for Arrow
# All but the letters that the specification of GFF3 allows in names.
NOT_IN_GFF3 = rf"^(?:{_WORDS})|[^A-Za-z0-9.:^*$@!+_?|-]"


def escape(text: str, unsafe: str = _UNSAFE) -> str:
    """Write each unsafe letter as `%` and two digits; `urllib.parse.unquote` undoes it.

    unsafe: pattern; of a word that it matches the first letter is escaped.
    """
    return re.sub(unsafe, _percent, text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0][0].encode()) + found[0][1:]


def escaped(column: pa.Array) -> pa.Array:
    """Apply `escape` to each text; a null stays."""
    encoded = column.dictionary_encode()
    suspect = pc.match_substring_regex(encoded.dictionary, _SUSPECT)
    if not pc.any(suspect).as_py():
        return column
    texts = [escape(each) for each in encoded.dictionary.filter(suspect).to_pylist()]
    texts = pc.replace_with_mask(encoded.dictionary, suspect, pa.array(texts, column.type))
    return texts.take(encoded.indices)


def lines(*columns: Any) -> pa.Buffer:
    """Return the rows of columns (arrays, or one text for all rows) as lines; a null is empty.

    Nothing is quoted: no column may hold a tab or a line break.
    """
    texts = [column if isinstance(column, str) else text(column) for column in columns]
    nulls = {"null_handling": "replace", "null_replacement": ""}
    ends = pc.binary_join_element_wise(texts.pop(), "", "\n", **nulls)
    rows = pc.binary_join_element_wise(*texts, ends, "\t", **nulls)
    return rows.buffers()[2] if len(rows) else pa.py_buffer(b"")


def text(column: pa.Array | NDArray[Any]) -> pa.Array:
    """Convert each value to text; float32 as `shortest` does."""
    array = pa.array(column)
    if pa.types.is_float32(array.type):
        return shortest(array)
    return array.cast(pa.string())


def shortest(values: pa.Array | NDArray[np.float32]) -> pa.Array:
    """Convert float32 to the shortest text that reads back as the value, as numpy and VirNucPro.

    Between 0.0001 and 1 Arrow gives the same text (compared for all these values) much faster.
    """
    array = pa.array(values)
    values = array.fill_null(np.float32(0.5)).to_numpy(zero_copy_only=False)
    by_numpy = ~((values > np.float32(1e-4)) & (values < 1))
    texts = array.cast(pa.string())
    if by_numpy.any():
        replacements = pa.array(values[by_numpy].astype(str), pa.string())
        texts = pc.replace_with_mask(texts, pa.array(by_numpy), replacements)
    return texts
