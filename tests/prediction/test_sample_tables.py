"""The tables of a whole sample: every frame, window and contig once, each from the one before."""

import gzip
import statistics
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from chunk_folders import manifest_of
from embedded import chunks_of, configure, contents, predict, tasks_of, window_table, work
from harness import read_tsv

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.config.run_folder import TABLES, SampleFolder
from virnuc_rules.embedding.embedding_file import read_result
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.prediction.tables import SCHEMAS
from virnuc_rules.serving.worker import Exit


def test_every_open_frame_is_there_once_and_in_order(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    rows = read_tsv(tmp_path / "out/orfs.tsv")
    names = ("contig_index", "contig", "window", "frame", "start", "end")
    number = [row["contig_index"] for row in window_table(config)]
    frames = [frame for chunk in chunks_of(config) for frame in chunk.table.to_pylist()]
    assert len(frames) == manifest_of(config.run.results / "chunks/gut").open_frames > 40
    assert [[row[name] for name in names] for row in rows] == [
        [str(number[frame["window_row"]]), *(str(frame[name]) for name in names[1:])]
        for frame in frames
    ]
    assert {(row["frame"][0], row["strand"]) for row in rows} == {("F", "+"), ("R", "-")}

    classifier = Bundle(config.run.bundle).open_classifier()
    scores: list[list[float]] = []
    for task, chunk in zip(tasks_of(config), chunks_of(config), strict=True):
        path = config.run.results / "embeddings" / task.key[:2] / f"{task.key}.safetensors"
        result = read_result(path, task.key, chunk.ids)
        scores += classifier.scores(result.dnabert_s, result.esm2).tolist()
    written = np.array([[row["score_non_viral"], row["score_virus"]] for row in rows], float)
    np.testing.assert_allclose(written, scores, rtol=0, atol=1e-6)
    assert len({row["score_virus"] for row in rows}) == len(rows)
    assert [row["label"] for row in rows] == [
        "virus" if virus > non_viral else "non_viral" for non_viral, virus in scores
    ]
    assert {row["label"] for row in rows} == {"virus", "non_viral"}


def test_every_window_is_there_once_with_a_call_or_a_reason(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    frames = read_tsv(tmp_path / "out/orfs.tsv")
    scores: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for row in frames:
        own = float(row["score_non_viral"]), float(row["score_virus"]), row["frame"]
        scores.setdefault((row["contig"], row["window"]), []).append(own)
    rows = read_tsv(tmp_path / "out/windows.tsv")
    for row, window in zip(rows, window_table(config), strict=True):
        for name in ("contig_index", "contig", "window", "start", "end", "open_frames"):
            assert row[name] == str(window[name])
        own = scores.pop((row["contig"], row["window"]), [])
        assert len(own) == window["open_frames"]
        if own:
            non_viral, virus, _ = (max(column) for column in zip(*own, strict=True))
            call = "virus" if virus >= non_viral else "non_viral"
            best = max(own, key=lambda pair: pair[1])[2]
            assert (row["call"], row["reason"], row["best_frame"]) == (call, "", best)
            assert (float(row["score_non_viral"]), float(row["score_virus"])) == (non_viral, virus)
        else:
            reason = "too_ambiguous" if window["contig"] == "gap|1" else window["reason"]
            assert (row["call"], row["reason"]) == ("no_call", reason)
            assert row["score_non_viral"] == row["score_virus"] == row["best_frame"] == ""
    assert not scores
    assert {row["call"] for row in rows} == {"virus", "non_viral", "no_call"}
    assert {row["reason"] for row in rows} == {"", "no_open_frame", "too_short", "too_ambiguous"}


def test_every_contig_is_there_once_and_follows_from_its_windows(
    config: Config, tmp_path: Path
) -> None:
    config = config.replace(min_viral_fraction=0.9)
    predict(config, "gut", tmp_path / "out")
    windows = read_tsv(tmp_path / "out/windows.tsv")
    contigs = read_tsv(tmp_path / "out/contigs.tsv")
    sources = pq.read_table(config.run.results / "chunks/gut/contigs.parquet").to_pylist()
    assert {row["call"] for row in contigs} == {"virus", "non_viral", "no_call"}
    for row, contig in zip(contigs, sources, strict=True):
        assert row["contig_index"] == str(contig["contig_index"])
        assert (row["contig"], row["length"]) == (contig["contig"], str(contig["length"]))
        own = [window for window in windows if window["contig_index"] == row["contig_index"]]
        scores = [float(window["score_virus"]) for window in own if window["reason"] == ""]
        viral = sum(window["call"] == "virus" for window in own)
        counts = [row["windows"], row["called_windows"], row["viral_windows"]]
        assert counts == [str(len(own)), str(len(scores)), str(viral)]
        if scores:
            median = statistics.median(scores)
            assert float(row["score_median"]) == pytest.approx(median, rel=1e-6)
            assert row["call"] == ("virus" if viral / len(scores) >= 0.9 else "non_viral")
            assert row["reason"] == ""
        else:
            assert (row["call"], row["score_median"]) == ("no_call", "")
            assert row["reason"] in {window["reason"] for window in own}


def test_regions_are_of_their_windows(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    windows = read_tsv(tmp_path / "out/windows.tsv")
    regions = read_tsv(tmp_path / "out/regions.tsv")
    assert len(regions) >= 3
    for region in regions:
        own = [
            window
            for window in windows
            if window["contig_index"] == region["contig_index"]
            and int(region["start"]) <= int(window["start"])
            and int(window["end"]) <= int(region["end"])
        ]
        assert "no_call" not in (own[0]["call"], own[-1]["call"])
        assert (own[0]["start"], own[-1]["end"]) == (region["start"], region["end"])
        called = [window for window in own if window["call"] != "no_call"]
        assert region["windows"] == str(len(own))
        assert float(region["evidence"]) == pytest.approx(len(called) / len(own))
        assert 0.5 <= float(region["posterior"]) <= 1


@pytest.mark.parametrize("table", SCHEMAS)
def test_parquet_says_what_tsv_says(config: Config, tmp_path: Path, table: str) -> None:
    predict(config, "gut", tmp_path / "out")
    typed = pq.read_table(tmp_path / f"out/{table}.parquet")
    assert typed.schema.equals(SCHEMAS[table])
    columns = {
        field.name: np.array(typed[field.name].to_pylist(), np.float32).astype(str)
        if field.type == "float"
        else [str(value) for value in typed[field.name].to_pylist()]
        for field in typed.schema
    }
    rows = read_tsv(tmp_path / f"out/{table}.tsv")
    assert len(rows) == typed.num_rows > 0
    for name, values in columns.items():
        texts = ["" if value in ("None", "nan") else str(value) for value in values]
        assert [row[name] for row in rows] == texts


def test_the_rule_for_contigs_can_be_set(config: Config, tmp_path: Path) -> None:
    config = config.replace(min_called_windows=1000)
    predict(config, "gut", tmp_path)
    reasons = {row["reason"] for row in read_tsv(tmp_path / "contigs.tsv")}
    assert reasons == {"too_few_called_windows", "too_short", "too_ambiguous"}


def test_viral_contigs_are_those_of_the_table(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path)
    text = gzip.decompress((tmp_path / "viral.fa.gz").read_bytes()).decode()
    names = [line[1:].split()[0] for line in text.splitlines() if line.startswith(">")]
    rows = read_tsv(tmp_path / "contigs.tsv")
    assert names == [row["contig"] for row in rows if row["call"] == "virus"] != []


def test_the_log_counts_windows_and_contigs(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    predict(config, "gut", tmp_path)
    calls = [[row["call"] for row in read_tsv(tmp_path / f"{table}.tsv")]
             for table in ("windows", "contigs")]  # fmt: skip
    windows, contigs = calls
    assert (
        f"sample gut: {len(windows)} windows, {len(windows) - windows.count('no_call')} called, "
        f"{windows.count('virus')} of them virus; {len(contigs)} contigs, "
        f"{contigs.count('virus')} of them virus" in caplog.text
    )


def test_the_files_of_the_original_say_the_same(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    frames = read_tsv(tmp_path / "out/orfs.tsv")
    assert read_tsv(tmp_path / "out/prediction_results.txt") == [
        {
            "Sequence_ID": f"{row['contig']}_chunk_{row['window']}{row['frame']}",
            "Prediction": {"virus": "virus", "non_viral": "others"}[row["label"]],
            "score1": row["score_non_viral"],
            "score2": row["score_virus"],
        }
        for row in frames
    ]
    windows = read_tsv(tmp_path / "out/windows.tsv")
    called = [row for row in windows if row["call"] != "no_call"]
    expected = {f"{row['contig']}_chunk_{row['window']}": row["call"] == "virus" for row in called}
    assert read_tsv(tmp_path / "out/prediction_results_highestscore.csv") == [
        {"Modified_ID": name, "Is_Virus": str(expected[name])} for name in sorted(expected)
    ]
    expected_files = {str(path) for path in SampleFolder(Path(), "gut").files()}
    assert set(contents(tmp_path / "out")) == expected_files
    assert tuple(SCHEMAS) == TABLES


def test_two_runs_write_the_same_bytes(config: Config, tmp_path: Path) -> None:
    for run in "ab":
        predict(config, "gut", tmp_path / run)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_sample_without_open_frames(tmp_path: Path) -> None:
    source, config = tmp_path / "gut.fa", configure(tmp_path / "results")
    source.write_text(f">n\n{'N' * 1200}\n>s\nAC\n")
    out = config.run.results / "chunks/gut"
    write_chunks([source], out, sample="gut", chunking=Chunking(window=500, chunk_size=8))
    assert work(config) == Exit.DRAINED
    predict(config, "gut", tmp_path / "out")
    assert read_tsv(tmp_path / "out/orfs.tsv") == []
    reasons = [row["reason"] for row in read_tsv(tmp_path / "out/windows.tsv")]
    assert reasons == ["too_ambiguous", "too_ambiguous", "too_ambiguous", "too_short"]
