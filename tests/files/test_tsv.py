"""Ids of any kind in tables and tracks: each reader sees each row, and gets the id back."""

import csv
import gzip
import io
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.config.run_folder import SampleFolder
from virnuc_rules.files.tsv import NOT_IN_GFF3, escape, escaped, lines
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.regions import viral_regions
from virnuc_rules.prediction.table import Table
from virnuc_rules.prediction.tracks import Tracks
from virnuc_rules.vocabulary import NO_REASON

ODD = [
    "#comment",
    "track",
    "track_7",
    "tracks",
    "browser",
    "browserless",
    '"q',
    'q"',
    'a"b"',
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    ">x",
    "!x",
    "chrom",
    "visibility",
    "%23",
    "%2",
    "50%",
    "a%41b",
    "ß",
]
ORDINARY = [
    "NODE_1_length_1234_cov_5.6",
    "k141_0",
    "gi|12|ref|NC_1.1|",
    "contig.5",
    "A00:1:FLOW:1:1:1#0/1",
    "5'x",
    "chr1",
    "lake|c;d,e",
    "50%",
    "-",
    "+",
    "-1.5",
    "+7",
    "-2e-05",
    ".",
    "<x>",
    "[red]x[/red]",
    "a=b",
    "a@b",
    "Track",
    "chromosome",
    ">1",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_ids_and_cells_stay(text: str) -> None:
    assert escape(text) == text
    assert escaped(pa.array([text, None])).to_pylist() == [text, None]


@given(st.text())
def test_the_escape_is_undone_by_unquote(text: str) -> None:
    assert unquote(escape(text)) == unquote(escape(text, NOT_IN_GFF3)) == text
    assert escaped(pa.array([text])).to_pylist() == [escape(text)]


@given(st.text('#"%=+-@>!tracbowsevihm2F.1\t\n', max_size=9))
def test_the_escape_of_columns_is_that_of_texts(text: str) -> None:
    assert escaped(pa.array([text, "x", text])).to_pylist() == [escape(text), "x", escape(text)]
    assert unquote(escape(text)) == text


@pytest.fixture
def table(tmp_path: Path) -> Path:
    schema = pa.schema([("contig", pa.string()), ("score", pa.float32()), ('"of"', pa.string())])
    with Table(tmp_path / "t.tsv", tmp_path / "t.parquet", schema) as written:
        score = np.linspace(-1, 1, len(ODD), dtype=np.float32)
        written.add({"contig": pa.array(ODD), "score": score, '"of"': pa.array(ODD[::-1])})
        written.finish()
    assert pd.read_parquet(tmp_path / "t.parquet")["contig"].tolist() == ODD  # as they are
    return tmp_path / "t.tsv"


def test_readers_of_tables_see_every_row(table: Path) -> None:
    by_pandas = pd.read_csv(table, sep="\t", dtype={"contig": str})
    options = pyarrow.csv.ParseOptions(delimiter="\t")
    by_arrow = pyarrow.csv.read_csv(table, parse_options=options).to_pydict()
    with table.open(newline="") as handle:
        by_csv = list(csv.DictReader(handle, delimiter="\t"))
    by_r = [line.split("\t") for line in table.read_text().splitlines()[1:]]  # R: quotes anywhere
    assert not any('"' in cell for row in by_r for cell in row)
    for found in (
        by_pandas["contig"].tolist(),
        by_arrow["contig"],
        [row["contig"] for row in by_csv],
        [row[0] for row in by_r],
    ):
        assert [unquote(name) for name in found] == ODD
        assert not any(name.startswith(tuple("=@")) for name in found)  # a formula
    assert [unquote(name) for name in by_pandas.columns] == ["contig", "score", '"of"']
    score = [np.float32(row["score"]) for row in by_csv]
    assert score == np.linspace(-1, 1, len(ODD), dtype=np.float32).tolist()


def bed_rows(text: str) -> list[list[str]]:
    """Read BED as the UCSC browser, IGV and bedtools do: the strictest of their rules."""
    rows = []
    for line in text.splitlines():
        if (
            line.startswith(("#", "track", "browser", "visibility", ">", "!", "chrom\t"))
            or not line
        ):
            continue
        contig, start, end, *_ = row = line.split("\t")
        assert contig and int(start) < int(end)
        rows.append(row)
    return rows


def test_readers_of_tracks_see_every_row(tmp_path: Path) -> None:
    ids = [*ODD, "plain"]
    whole = np.arange(len(ids))
    windows = WindowCalls(
        contigs=len(ids),
        index=whole,
        start=np.zeros(len(ids), np.int64),
        end=whole + 500,
        score=np.full(len(ids), 0.9, np.float32),
        reason=np.full(len(ids), NO_REASON, np.int8),
        virus=np.full(len(ids), True),
        margin=np.full(len(ids), 5, np.float32),
        log_odds=np.full(len(ids), 20.0),
    )
    with Tracks(SampleFolder(tmp_path, "s")) as tracks:
        tracks.add(pa.array(ids), windows, windows.score, viral_regions(windows, 0.5))
    folder = tmp_path / "tracks"
    bed = (folder / "s.viral.bed").read_text()
    bedgraph = gzip.decompress((folder / "s.scores.bedgraph.gz").read_bytes()).decode()
    gff3 = (folder / "s.viral.gff3").read_text().removeprefix("##gff-version 3\n")
    for text in (bed, bedgraph):
        rows = bed_rows(text)
        assert [(unquote(name), int(end)) for name, _, end, *_ in rows] == [
            (name, 500 + index) for index, name in enumerate(ids)
        ]
        frame = pd.read_csv(io.StringIO(text), sep="\t", header=None, comment="#", dtype=str)
        assert [unquote(name) for name in frame[0]] == ids
        assert "plain" in [row[0] for row in rows]
    skipped = ("#", "track", "browser", ">")
    named = [line.split("\t")[0] for line in gff3.splitlines() if not line.startswith(skipped)]
    assert [unquote(name) for name in named] == ids


def test_a_block_without_text() -> None:
    assert escaped(pa.array([], pa.string())).to_pylist() == []
    assert bytes(lines(escaped(pa.array([None, None], pa.string())), "x")) == b"\tx\n\tx\n"
