"""The report page and what is beside it, on results of the documented form."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reporting import HOSTILE, make_results

from virnuc_rules.config import Config
from virnuc_rules.errors import VirnucError
from virnuc_rules.provenance import Provenance
from virnuc_rules.report import FILES, LENGTHS, read_run, render, write_report


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_results(tmp_path, {"lake": 30, "gut": 20})


def page_data(page: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])  # type: ignore[no-any-return]


def test_what_is_written(config: Config) -> None:
    write_report(config, config.results / "report.html")
    for name in FILES:
        assert (config.results / name).stat().st_size > 100
    found = Provenance.model_validate_json((config.results / "provenance.json").read_bytes())
    assert [(i.sample, i.sha256) for i in found.inputs] == [("lake", "0" * 64), ("gut", "0" * 64)]
    assert found.bundle_fingerprint and found.versions["torch"]


def test_every_number_is_that_of_the_tables(config: Config) -> None:
    run = read_run(config)
    for sample in run.samples:
        contigs = pq.read_table(config.results / sample.name / "contigs.parquet").to_pylist()
        windows = pq.read_table(config.results / sample.name / "windows.parquet").to_pylist()
        for call in ("virus", "others", "no_call"):
            assert sample.contig_calls[call] == sum(c["call"] == call for c in contigs)
            assert sample.window_calls[call] == sum(w["call"] == call for w in windows)
        assert sum(sample.reasons.values()) == sample.window_calls["no_call"]
        for call in ("virus", "others"):
            assert sample.histogram[call].sum() == sample.window_calls[call]
        long = [c for c in contigs if LENGTHS[2] <= c["length"] < LENGTHS[3]]
        assert sample.by_length["virus"][2] == sum(c["call"] == "virus" for c in long)
    assert run.listed == run.all_contigs == 50


def test_tracks_are_the_windows(config: Config) -> None:
    run = read_run(config)
    unpacked = {
        name: np.frombuffer(__import__("base64").b64decode(run.tracks[name]), kind)
        for name, kind in (("start", "<u4"), ("size", "<u2"), ("score", "u1"))
    }
    rows = {
        (name, row["contig_number"], row["window"]): row
        for name in ("lake", "gut")
        for row in pq.read_table(config.results / name / "windows.parquet").to_pylist()
    }
    for contig in range(run.tracks["contigs"]):
        name = run.samples[run.contigs["sample"][contig]].name
        for number in range(run.contigs["windows"][contig]):
            row = rows.pop((name, run.contigs["contig_number"][contig], number + 1))
            at = run.tracks["first"][contig] + number
            assert unpacked["start"][at] == row["start"]
            assert unpacked["size"][at] == row["end"] - row["start"]
            score = None if unpacked["score"][at] == 255 else unpacked["score"][at] / 250
            assert score == row["score_virus"] or abs(score - row["score_virus"]) < 1 / 250
    assert rows == {}


def test_ids_cannot_leave_their_place(config: Config) -> None:
    page = render(read_run(config))
    assert page.count("</script>") == 2 and "<img src=x" not in page
    contigs = page_data(page)["contigs"]
    assert set(HOSTILE) <= set(contigs["contig"])  # type: ignore[index]


def test_figures_are_the_same_bytes_each_time(config: Config) -> None:
    names = [name for name in FILES if name.startswith("report/")]
    write_report(config, config.results / "report.html")
    before = {name: (config.results / name).read_bytes() for name in names}
    write_report(config, config.results / "report.html")
    assert before == {name: (config.results / name).read_bytes() for name in names}


def test_a_sample_without_tables_is_named(config: Config) -> None:
    (config.results / "gut" / "contigs.parquet").unlink()
    with pytest.raises(VirnucError, match="sample gut has no tables yet; run `predict` first"):
        read_run(config)


def test_a_hundred_thousand_contigs(tmp_path: Path) -> None:
    config = make_results(tmp_path, {"ocean": 100_000})
    page = render(read_run(config))
    assert len(page.encode()) < 15e6
    assert len(page_data(page)["contigs"]["contig"]) == 100_000  # type: ignore[index,call-overload]


def test_an_empty_score_is_no_score(tmp_path: Path) -> None:
    config = make_results(tmp_path, {"lake": 5}, called=0.0)
    run = read_run(config)
    assert set(run.contigs["score_mean"]) == {None}
    assert all(sample.viral_share is None for sample in run.samples)
    assert pa.table({"page": [render(run)]}).num_rows == 1
