"""Contigs without bases, and samples without contigs: in every table, and nothing else changes."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from chunk_folders import chunk_it, contents, contigs_of, manifest_of, write_fasta
from embedded import configure, work
from embedded import predict as predict_sample
from harness import DEMO, read_tsv

from virnuc_rules.chunking import writer as chunks
from virnuc_rules.chunking.format import contig_indices, contig_lengths
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.report.page import write_report
from virnuc_rules.serving.worker import Exit

IDS = ("NODE_1109_length_9622_cov_23.163061", "NC_001422.1")
UPSTREAM = ("prediction_results.txt", "prediction_results_highestscore.csv", "viral.fa.gz")
# Where the empty contigs are: at both ends, several in a row, and one alone.
ORDER = ["e1", "e2", "c1", "e3", "c2", "short", "e4", "e5", "e6", "c1b", "e7", "e8"]


@pytest.fixture(scope="module")
def records() -> dict[str, str]:
    found = {c.id: c.bases(0, c.length).decode() for c in Sequences([DEMO["gut"]], "s").contigs()}
    first, second = (found[name] for name in IDS)
    return {"c1": first, "c2": second, "short": "AC", "c1b": first.lower()}


def predict(folder: Path, records: dict[str, str]) -> Path:
    """Chunk, embed and predict a sample; its tables."""
    folder.mkdir(exist_ok=True)
    config = configure(folder / "results")
    source = write_fasta(folder / "gut.fa", records)
    chunk_it(source, RunFolder(config.run.results).chunks("gut").path, 500, 8)
    assert work(config) == Exit.DRAINED
    predict_sample(config, "gut", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("block", [1 << 20, 1000, 1])
def test_empty_contigs_have_a_row_and_change_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: dict[str, str], block: int
) -> None:
    monkeypatch.setattr(chunks, "_BLOCK", block)
    monkeypatch.setattr("virnuc_rules.prediction.contig_calls._ROWS", max(1, block // 500))
    every = {name: records.get(name, "") for name in ORDER}
    out = predict(tmp_path / "with", every)
    plain = predict(tmp_path / "without", records)
    for name in UPSTREAM:
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    assert read_tsv(out / "windows.tsv")
    for table in SCHEMAS:
        rows, expected = read_tsv(out / f"{table}.tsv"), read_tsv(plain / f"{table}.tsv")
        for row in rows:
            assert row["contig"] == ORDER[int(row.pop("contig_index"))]
        for row in expected:
            del row["contig_index"]
        assert [row for row in rows if row["contig"] in records] == expected
        if table != "contigs":
            assert len(rows) == len(expected)
    contigs = pq.read_table(out / "contigs.parquet").to_pylist()
    assert [row["contig"] for row in contigs] == ORDER
    assert [row["contig_index"] for row in contigs] == list(range(len(ORDER)))
    counts = {"length": 0, "windows": 0, "called_windows": 0, "viral_windows": 0, "longest_run": 0}
    for row in contigs:
        if row["contig"] not in records:
            assert (row["call"], row["reason"]) == ("no_call", "too_short")
            assert counts.items() <= row.items()
            assert {v for k, v in row.items() if "score" in k or "fraction" in k} == {None}


def test_a_thousand_empty_contigs_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a block of the writer, and of the tables, has."""
    monkeypatch.setattr(chunks, "_BLOCK", 5000)
    monkeypatch.setattr("virnuc_rules.prediction.table.BLOCK_ROWS", 64)
    names = [f"e{n}" for n in range(1000)]
    out = predict(tmp_path, {**dict.fromkeys(names[:600], ""), "a": "ACGT" * 200,
                             **dict.fromkeys(names[600:], "")})  # fmt: skip
    rows = read_tsv(out / "contigs.tsv")
    assert [row["contig"] for row in rows] == [*names[:600], "a", *names[600:]]
    assert [row["windows"] for row in rows] == ["0"] * 600 + ["2"] + ["0"] * 400


def test_reads_without_bases(tmp_path: Path) -> None:
    """As trimming programs leave them."""
    path = tmp_path / "r.fq"
    path.write_text("@a\n\n+\n\n@b\nACGTACGT\n+\nIIIIIIII\n@c\n\n+\n\n")
    manifest = chunk_it(path, tmp_path / "out")
    assert (manifest.contigs, manifest.windows, manifest.bases) == (3, 1, 8)
    assert contigs_of(tmp_path / "out")["length"].to_pylist() == [0, 8, 0]
    folder = ChunkFolder(tmp_path / "out")
    lengths = contig_lengths(folder, manifest)
    assert contig_indices(folder, manifest, lengths).tolist() == [1]


def test_only_empty_contigs(tmp_path: Path) -> None:
    out = predict(tmp_path, {"a": "", "b": ""})
    assert [row["reason"] for row in read_tsv(out / "contigs.tsv")] == ["too_short"] * 2
    assert read_tsv(out / "windows.tsv") == read_tsv(out / "orfs.tsv") == []


@pytest.mark.parametrize(
    "content", [b"", b"\n \n", gzip.compress(b"")], ids=["nothing", "blank lines", "gzip"]
)
def test_an_empty_file_is_a_sample_without_contigs(tmp_path: Path, content: bytes) -> None:
    config = configure(tmp_path / "results")
    (tmp_path / "gut.fa").write_bytes(content)
    folder = RunFolder(config.run.results).chunks("gut")
    manifest = chunk_it(tmp_path / "gut.fa", folder.path, 500, 8)
    assert manifest == manifest_of(folder.path)
    assert (manifest.contigs, manifest.windows, manifest.bases, manifest.chunks) == (0, 0, 0, [])
    assert set(contents(folder.path)) == {
        "manifest.json", "contigs.parquet", "windows.parquet", "bases.parquet"
    }  # fmt: skip
    assert work(config) == Exit.DRAINED
    out = tmp_path / "out"
    predict_sample(config, "gut", out)
    for table, schema in SCHEMAS.items():
        assert (out / f"{table}.tsv").read_text() == "\t".join(schema.names) + "\n"
        typed = pq.read_table(out / f"{table}.parquet")
        assert typed.num_rows == 0 and typed.schema.equals(schema)
    assert gzip.decompress((out / "viral.fa.gz").read_bytes()) == b""


def test_an_empty_file_beside_others(tmp_path: Path) -> None:
    for name, text in {"a.fa": "", "b.fa": ">b\nACGT\n", "c.fa": "\n"}.items():
        (tmp_path / name).write_text(text)
    manifest = chunk_it([tmp_path / name for name in ("a.fa", "b.fa", "c.fa")], tmp_path / "out")
    assert (manifest.contigs, len(manifest.sources_sha256)) == (1, 3)
    assert contigs_of(tmp_path / "out")["source"].to_pylist() == [1]


@pytest.fixture
def reported(tmp_path: Path, records: dict[str, str]) -> Config:
    """A run of a sample without contigs, one of empty contigs, and one with others too."""
    samples = {"none": {}, "hollow": {"e1": "", "e2": ""}, "gut": {"e": "", "c": records["c2"]}}
    rows = []
    config = configure(tmp_path / "results", samples=tmp_path / "samples.tsv")
    for name, contigs in samples.items():
        source = write_fasta(tmp_path / f"{name}.fa", contigs)
        rows.append(f"{name}\t{source}\n")
        chunk_it(source, RunFolder(config.run.results).chunks(name).path, 500, 8)
    assert work(config) == Exit.DRAINED
    for name in samples:
        predict_sample(config, name, RunFolder(config.run.results).sample(name).path)
    (tmp_path / "samples.tsv").write_text("sample\tpath\n" + "".join(rows))
    return config


@pytest.mark.parametrize("only", [None, "none", "hollow"])
def test_the_report_has_them(reported: Config, only: str | None) -> None:
    sheet = reported.inputs.samples
    if only:
        lines = sheet.read_text().splitlines()
        sheet.write_text(
            "\n".join(line for line in lines if line.split("\t")[0] in ("sample", only))
        )
    folder = RunFolder(reported.run.results).report
    with np.errstate(all="raise"):
        run = write_report(reported, folder.page)
    contigs = {sample.name: sample.manifest.contigs for sample in run.samples}
    expected = {"none": 0, "hollow": 2, "gut": 2}
    assert contigs == {only: expected[only]} if only else expected
    assert run.missing == {} and run.contigs.total == sum(contigs.values())
    assert len(run.contigs.track) == run.contigs.columns["windows"].sum()
    assert run.count("no_call") >= sum(contigs.values()) - 1
    for path in (folder.multiqc_calls, folder.multiqc_summary):
        data = json.loads(path.read_text(), parse_constant=pytest.fail)["data"]
        assert set(data) == set(contigs)
    script = folder.page.read_text().partition('id="data">')[2].partition("</script>")[0]
    assert script and "NaN" not in script and "Infinity" not in script
