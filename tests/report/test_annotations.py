"""Tables of other tools: small ones in the formats of geNomad 1.8 and CheckV 1.0, and others."""

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from virnuc_rules.config.annotations import annotation_paths, annotation_tables
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.errors import VirnucError
from virnuc_rules.report.annotations import Annotation, read_annotations

# ruff: noqa: E501
GENOMAD = """\
seq_name\tlength\ttopology\tcoordinates\tn_genes\tgenetic_code\tvirus_score\tfdr\tn_hallmarks\tmarker_enrichment\ttaxonomy
k1\t5386\tDTR\tNA\t9\t11\t0.9781\tNA\t3\t12.1\tViruses;Monodnaviria;;Malgrandaviricetes;Petitvirales;Microviridae
k2|provirus_2001_9000\t7000\tProvirus\t2001-9000\t11\t11\t0.9\tNA\t1\t9.0\tViruses;Duplodnaviria
k2|provirus_20001_29000\t9000\tProvirus\t20001-29000\t13\t11\t0.8\tNA\t1\t9.0\tViruses;Duplodnaviria
gone\t900\tNo terminal repeats\tNA\t1\t11\t0.7\tNA\t0\t0.1\tUnclassified
"""
CHECKV = """\
contig_id\tcontig_length\tprovirus\tproviral_length\tgene_count\tviral_genes\thost_genes\tcheckv_quality\tmiuvig_quality\tcompleteness\tcompleteness_method\tcontamination\tkmer_freq\twarnings
lake|k1\t5386\tNo\tNA\t9\t8\t0\tComplete\tHigh-quality\t100.0\tDTR (high-confidence)\t0.0\t1.0\t
lake|k2:2001-9000\t7000\tNo\tNA\t8\t3\t1\tMedium-quality\tGenome-fragment\t61.2\tAAI-based (high-confidence)\t0.0\t1.0\t
gut|k1\t900\tNo\tNA\t1\t1\t0\tNot-determined\tGenome-fragment\tNA\tNA\t0.0\t1.0\tno viral genes detected
"""
SEQUENCES = ("k1", "k2", "k3|provirus_1_9", "gut|own", "k2:2001-9000")


def texts(values: "pd.Series[str]") -> list[str | None]:
    return [None if pd.isna(value) else value for value in values]


def annotation(folder: Path, text: str, name: str = "tool", **more: Any) -> Annotation:
    path = folder / f"{name}.tsv"
    path.write_bytes(text.encode())
    given = {"sample": "lake", "samples": ["lake", "gut"], "sequences": SEQUENCES, **more}
    return Annotation(name, [path], **given)


def test_genomad_and_its_proviruses(tmp_path: Path) -> None:
    genomad = annotation(tmp_path, GENOMAD, "genomad")
    known = genomad.of(["k1", "k2", "k2", "k3"], [None, None, "k2:2001-9000", None])
    assert texts(known["genomad.topology"]) == ["DTR", "Provirus", "Provirus", None]
    assert known["genomad.coordinates"].tolist()[1] == "2001-9000; 20001-29000"
    assert known["genomad.taxonomy"].tolist()[1] == "Viruses;Duplodnaviria"  # of both, once
    assert genomad.columns[0] == "genomad.length" and len(genomad.columns) == 10
    counts = {"rows": 4, "joined": 3, "not_viral": 0, "unmatched": 1}
    assert genomad.counts() == counts and genomad.unmatched == ["gone"]


def test_checkv_of_the_sequences_of_all_samples(tmp_path: Path) -> None:
    """Its table is of viruses.fa.gz: it names sample and sequence, also those of other samples."""
    checkv = annotation(tmp_path, CHECKV, "checkv")
    known = checkv.of(["k1", "k2", "k2"], [None, None, "k2:2001-9000"])
    assert texts(known["checkv.completeness"]) == ["100.0", None, "61.2"]
    assert texts(known["checkv.warnings"]) == [None, None, None]  # empty cells
    assert checkv.counts() == {"rows": 2, "joined": 2, "not_viral": 0, "unmatched": 0}
    given = {"sample": "gut", "sequences": ["k1"]}
    gut = annotation(tmp_path, CHECKV, "checkv", **given)
    assert gut.of(["k1"], [None])["checkv.completeness"].tolist() == ["NA"]
    assert gut.counts() == {"rows": 1, "joined": 1, "not_viral": 0, "unmatched": 0}


def test_an_id_as_it_stands_comes_first(tmp_path: Path) -> None:
    """A contig may be called as geNomad calls a provirus, or begin like another sample."""
    text = "id\thost\nk3|provirus_1_9\tA\ngut|own\tB\nk2\tC\ngut|other\tD\n"
    found = annotation(tmp_path, text)
    keys = ["k3|provirus_1_9", "gut|own"]
    assert found.of(keys, [None, None])["tool.host"].tolist() == ["A", "B"]
    # k2 is known, but not viral; gut|other is of the other sample
    assert found.counts() == {"rows": 3, "joined": 2, "not_viral": 1, "unmatched": 0}


def test_several_rows_and_tables_of_a_contig(tmp_path: Path) -> None:
    (tmp_path / "one.tsv").write_text('#contig\thost\nk1\tE. coli\nk1\tPhage "x"\nk1\tE. coli\n')
    (tmp_path / "two.tsv.gz").write_bytes(gzip.compress(b"name\thost\tp\nk1\tNA\t1e-5\nk2\tY\t2\n"))
    paths = [tmp_path / "one.tsv", tmp_path / "two.tsv.gz"]
    found = Annotation("host", paths, "lake", ["lake"], SEQUENCES)
    known = found.of(["k1", "k2"], [None, None])
    assert known["host.host"].tolist() == ['E. coli; Phage "x"; NA', "Y"]
    assert known["host.p"].tolist() == ["1e-5", "2"]
    assert found.rows == 5


@pytest.mark.parametrize(
    "text",
    [
        "# tool 1.2\n## made today\nid\thost\nk1\tA b\n",
        "# a\tb\n#id\thost\nk1\tA b\n",
        "#id\thost\nk1\tA b\n",
        "# of\t2026\nid\thost\nk1\tA b\n",
        "id\thost\r\nk1\tA b\r\n",
        "id\t host \t\nk1 \t A b\t\n",
        "id\thost\nk1\tA\x00\rb\n",
    ],
)
def test_what_stands_around_header_and_cells(tmp_path: Path, text: str) -> None:
    found = annotation(tmp_path, text)
    assert found.columns == ["tool.host"] and found.rows == 1
    assert found.of(["k1"], [None])["tool.host"].tolist() == ["A b"]


def test_a_header_of_a_table_without_rows(tmp_path: Path) -> None:
    found = annotation(tmp_path, "# nothing\n#id\thost\n")
    assert found.columns == ["tool.host"] and found.rows == 0
    assert annotation(tmp_path, "id\thost\n").rows == 0


@pytest.mark.parametrize(
    ("content", "why"),
    {
        b"": "No columns",
        b"id,host\nk1,A\n": "only one column",
        b"id\thost\nk1\tA\tB\n": "rows have more cells than the header",
        b"id\thost\nk1\tA\nk2\tA\tB\n": "Expected 2 fields in line 3, saw 3",
        b"id\thost\nk1\t\xff\n": "can't decode",
    }.items(),
)
def test_what_is_no_table_is_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(content)
    with pytest.raises(VirnucError, match=f"^{path}: cannot be read .*{why}.* first column$"):
        read_annotations(path)


@pytest.mark.parametrize("name", ["table.tsv", "table.zst"])
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_compression_is_detected_by_content(tmp_path: Path, kind: str, name: str) -> None:
    content = b"id\thost\nk1\tA\n"
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    compressed = {"gz": gzip.compress(content), "bz2": bz2.compress(content),
                  "xz": lzma.compress(content), "zst": sink.getvalue().to_pybytes()}  # fmt: skip
    path = tmp_path / name
    path.write_bytes(compressed[kind])
    assert read_annotations(path)["host"].tolist() == ["A"]
    path.write_bytes(compressed[kind][:10] + b"\xff" * 20)
    with pytest.raises(VirnucError, match=f"^{path}: cannot be read"):
        read_annotations(path)


def test_another_column_may_be_named_id(tmp_path: Path) -> None:
    """Also where the first one has no name, as R writes the names of rows."""
    found = annotation(tmp_path, "\tid\thost\nk1\tx\tA\n")
    assert found.columns == ["tool.id", "tool.host"]
    assert found.of(["k1"], [None])["tool.id"].tolist() == ["x"]
    assert annotation(tmp_path, "contig\tid\nk1\tx\n").columns == ["tool.id"]


def test_no_table_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(VirnucError, match=r"x\.tsv: cannot be read .No such file or directory"):
        read_annotations(tmp_path / "x.tsv")


def test_tables_of_the_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "samples.tsv"
    rows = (
        "sample\tpath\tannotations\tannotations_checkv\tnote",
        "lake\tl1.fa\tg.tsv\tc.tsv\tx",
        "lake\tl2.fa\tg2.tsv\tc.tsv\t",
        "gut\tg.fa\t\tc.tsv\t",
        "sea\ts.fa",
    )
    sheet.write_text("\n".join(rows) + "\n")
    read = read_sheet(sheet)
    checkv = {"checkv": [Path("c.tsv")]}
    of_lake = {"annotations": [Path("g.tsv"), Path("g2.tsv")], **checkv}
    assert annotation_tables(read) == {"lake": of_lake, "gut": checkv, "sea": {}}
    assert annotation_paths(read) == [Path("g.tsv"), Path("g2.tsv"), Path("c.tsv")]
    sheet.write_text("sample\tpath\tanotations\nlake\tl.fa\tg.tsv\n")
    with pytest.raises(VirnucError, match="did you mean 'annotations'"):
        read_sheet(sheet)
    sheet.write_text("sample\tpath\tannotations_a.b\nlake\tl.fa\tg.tsv\n")
    with pytest.raises(VirnucError, match=r"column 'annotations_a\.b': write it without a dot"):
        annotation_tables(read_sheet(sheet))
