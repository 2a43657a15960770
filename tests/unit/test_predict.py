"""From embeddings to tables: the original's numbers, and every frame and window exactly once."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from virnuc_rules.chunkfiles import CHUNK_SCHEMA, Chunk, read_chunk, read_manifest
from virnuc_rules.chunks import write_chunks
from virnuc_rules.config import Config
from virnuc_rules.errors import ChunkError, ModelError, ResultError, VirnucError
from virnuc_rules.fasta import read_contigs
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import ClassifierShape
from virnuc_rules.models.classifier import MLPClassifier, open_network
from virnuc_rules.predict import Consensus, predict
from virnuc_rules.results import read_result
from virnuc_rules.server import Exit, Worker
from virnuc_rules.store import Failure, Store
from virnuc_rules.tables import SampleTables, ScoredChunk, highest_score
from virnuc_rules.tasks import Task, read_settings, sample_tasks

ROOT = Path(__file__).parents[2]
VANILLA = ROOT / "tests/data/vanilla_real"
CONTIGS = ("NODE_1109_length_9622_cov_23.163061", "AE015924.1:1-15000", "NC_001422.1")


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


# --- the numbers of the original ---------------------------------------------------------------


def scored(ids: list[str], scores: np.ndarray) -> ScoredChunk:
    """Open frames with names as the original's, `<contig>_chunk_<number><frame>`."""
    rows = []
    for name in ids:
        contig, rest = name.rsplit("_chunk_", 1)
        rows.append([0, contig, int(rest[:-2]), rest[-2:], 0, 3, "ACGT", "T"])
    names = CHUNK_SCHEMA.names
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], CHUNK_SCHEMA)
    return ScoredChunk(ids, table, scores)


def test_the_consensus_of_the_original() -> None:
    rows = read_tsv(VANILLA / "prediction_results.txt")
    windows = list(dict.fromkeys(row["Sequence_ID"][:-2] for row in rows))
    consensus = Consensus(len(windows))
    for row in rows:  # a frame at a time
        scores = np.array([[row["score1"], row["score2"]]], np.float32)
        consensus.add(np.array([windows.index(row["Sequence_ID"][:-2])]), scores)
    assert consensus.frames.tolist() == [2, 2]
    text = highest_score(list(zip(windows, consensus.virus.tolist(), strict=True)))
    assert text.encode() == (VANILLA / "prediction_results_highestscore.csv").read_bytes()


def test_the_score_table_of_the_original(tmp_path: Path) -> None:
    rows = read_tsv(VANILLA / "prediction_results.txt")
    scores = np.array([[row["score1"], row["score2"]] for row in rows], np.float32)
    with SampleTables(tmp_path) as tables:
        tables.add_frames(scored([row["Sequence_ID"] for row in rows], scores))
    written = (tmp_path / "prediction_results.txt").read_bytes()
    assert written == (VANILLA / "prediction_results.txt").read_bytes()


def test_rows_of_the_highest_scores_are_sorted_by_name() -> None:
    text = highest_score([("b_chunk_1", True), ("a_chunk_2", False), ("a_chunk_10", True)])
    assert text.splitlines()[1:] == ["a_chunk_10\tTrue", "a_chunk_2\tFalse", "b_chunk_1\tTrue"]


# --- scores as text, labels, calls -------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SCORES = st.one_of(st.floats(0, 1, width=32), FLOATS)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(SCORES, min_size=1, max_size=50))
def test_scores_are_written_as_the_original_writes_them(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("scores")
    scores = np.array([[value, -value] for value in values], np.float32)
    with SampleTables(folder) as tables:
        tables.add_frames(scored([f"c_chunk_{n}F1" for n in range(len(values))], scores))
    upstream = read_tsv(folder / "prediction_results.txt")
    ours = read_tsv(folder / "predictions.tsv")
    for pair, row, own in zip(scores, upstream, ours, strict=True):
        assert row["score1"] == own["score_others"] == str(np.float32(pair[0]))
        assert row["score2"] == own["score_virus"] == str(np.float32(pair[1]))
        assert np.float32(row["score1"]).tobytes() == pair[0].tobytes()


def test_the_label_is_the_higher_score_and_others_in_a_tie(tmp_path: Path) -> None:
    scores = np.array([[0.5, 0.5], [0.4, 0.6], [0.6, 0.4]], np.float32)
    with SampleTables(tmp_path) as tables:
        tables.add_frames(scored(["a_chunk_1F1", "a_chunk_1R2", "b_chunk_12F3"], scores))
    labels = [row["label"] for row in read_tsv(tmp_path / "predictions.tsv")]
    assert labels == ["others", "virus", "others"]
    upstream = [row["Prediction"] for row in read_tsv(tmp_path / "prediction_results.txt")]
    assert upstream == labels


def test_a_window_is_viral_by_its_best_scores_and_in_a_tie() -> None:
    consensus = Consensus(5)
    windows = np.array([0, 1, 1, 2, 3, 3])
    pairs = [[0.5, 0.5], [0.7, 0.3], [0.4, 0.6], [0.4, 0.6], [0.7, 0.3], [0.3, 0.7]]
    consensus.add(windows, np.array(pairs, np.float32))
    assert consensus.virus.tolist() == [True, False, True, True, False]
    assert consensus.frames.tolist() == [1, 2, 1, 2, 0]
    consensus.add(np.array([1]), np.array([[0.2, 0.8]], np.float32))  # from a later chunk
    assert consensus.virus[1]


# --- the classifier ----------------------------------------------------------------------------


def test_the_classifier_computes_its_formulas(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = ClassifierShape(features=9, hidden=7)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.ndim else tensor
        for name, tensor in MLPClassifier(shape).state_dict().items()
    }
    tensors["bn1.running_var"] = 1e-4 * tensors["bn1.running_var"].abs()  # so that eps counts
    tensors["output_layer.weight"] *= 0.003
    save_file(tensors, tmp_path / "classifier.safetensors")
    dnabert_s, esm2 = torch.randn(20, 9, generator=generator).split([4, 5], dim=1)
    found = open_network(shape, tmp_path / "classifier.safetensors").scores(dnabert_s, esm2)

    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = np.hstack([dnabert_s.numpy(), esm2.numpy()]).astype(np.float64)  # in this order
    hidden = x @ w["hidden_layer.weight"].T + w["hidden_layer.bias"]
    norm = (hidden - w["bn1.running_mean"]) / np.sqrt(w["bn1.running_var"] + 1e-5)
    active = np.maximum(norm * w["bn1.weight"] + w["bn1.bias"], 0)
    logits = active @ w["output_layer.weight"].T + w["output_layer.bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert expected.min() < 0.2 < 0.8 < expected.max()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


# --- a whole sample ----------------------------------------------------------------------------


def configure(results: Path, **more: object) -> Config:
    fields = {"results": results, "bundle": ROOT / "demo/bundle", "device": "cpu", "threads": 1}
    return Config(**fields, **more)


def tasks_of(config: Config) -> list[Task]:
    return list(sample_tasks(config.results, "gut", *read_settings(config)))


def work(config: Config) -> Exit:
    tasks = {task.key: task for task in tasks_of(config)}
    return Worker(config, "0", 0, tasks).run()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder: some of the demo's contigs, and two without bases to go by, embedded."""
    folder = tmp_path_factory.mktemp("embedded")
    with (folder / "gut.fa").open("w") as handle:
        for contig in read_contigs(ROOT / "demo/data/gut.fa.gz", "gut"):
            if contig.id in CONTIGS:
                handle.write(f">{contig.id}\n{contig.bases(0, contig.length).decode()}\n")
        handle.write(f">short\nAC\n>gap|1\n{'N' * 600}\n")
    results = folder / "results"
    write_chunks(folder / "gut.fa", results / "chunks/gut", sample="gut", window=500, chunk_size=8)
    assert work(configure(results)) == Exit.DRAINED
    return results


@pytest.fixture
def config(tmp_path: Path, embedded: Path) -> Config:
    shutil.copytree(embedded, tmp_path / "results")
    return configure(tmp_path / "results")


def chunks_of(config: Config) -> Iterator[Chunk]:
    folder = config.results / "chunks/gut"
    for entry in read_manifest(folder).chunks:
        yield read_chunk(folder / entry.file, entry)


def window_table(config: Config) -> list[dict[str, object]]:
    return pq.read_table(config.results / "chunks/gut/windows.parquet").to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_open_frame_is_there_once_and_in_order(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    rows = read_tsv(tmp_path / "out/predictions.tsv")
    names = ("contig", "window", "frame", "start", "end")
    frames = [frame for chunk in chunks_of(config) for frame in chunk.table.to_pylist()]
    assert len(frames) == read_manifest(config.results / "chunks/gut").open_frames > 40
    assert [[row[name] for name in names] for row in rows] == [
        [str(frame[name]) for name in names] for frame in frames
    ]
    assert {(row["frame"][0], row["strand"]) for row in rows} == {("F", "+"), ("R", "-")}

    classifier = Bundle(config.bundle).open_classifier()
    scores: list[list[float]] = []
    for task, chunk in zip(tasks_of(config), chunks_of(config), strict=True):
        path = config.results / "embeddings" / task.key[:2] / f"{task.key}.safetensors"
        result = read_result(path, task.key, chunk.ids)
        scores += classifier.scores(result.dnabert_s, result.esm2).tolist()
    written = np.array([[row["score_others"], row["score_virus"]] for row in rows], float)
    np.testing.assert_allclose(written, scores, rtol=0, atol=1e-6)
    assert len({row["score_virus"] for row in rows}) == len(rows)
    assert [row["label"] for row in rows] == [
        "virus" if virus > others else "others" for others, virus in scores
    ]
    assert {row["label"] for row in rows} == {"virus", "others"}


def test_every_window_is_there_once_with_a_call_or_a_reason(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    frames = read_tsv(tmp_path / "out/predictions.tsv")
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in frames:
        pair = float(row["score_others"]), float(row["score_virus"])
        scores.setdefault((row["contig"], row["window"]), []).append(pair)
    rows = read_tsv(tmp_path / "out/windows.tsv")
    for row, window in zip(rows, window_table(config), strict=True):
        for name in ("contig", "window", "start", "end", "open_frames"):
            assert row[name] == str(window[name])
        own = scores.pop((row["contig"], row["window"]), [])
        assert len(own) == window["open_frames"]
        if own:
            others, virus = (max(column) for column in zip(*own, strict=True))
            call = "virus" if virus >= others else "others"
            assert (row["call"], row["reason"], float(row["score"])) == (call, "", virus)
        else:
            assert (row["call"], row["reason"], row["score"]) == ("no_call", window["reason"], "")
    assert not scores
    assert {row["call"] for row in rows} == {"virus", "others", "no_call"}
    assert {row["reason"] for row in rows} == {"", "no_open_frame", "too_short", "ambiguous"}


def test_the_files_of_the_original_say_the_same(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "out")
    frames = read_tsv(tmp_path / "out/predictions.tsv")
    assert read_tsv(tmp_path / "out/prediction_results.txt") == [
        {
            "Sequence_ID": f"{row['contig']}_chunk_{row['window']}{row['frame']}",
            "Prediction": row["label"],
            "score1": row["score_others"],
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
    assert set(contents(tmp_path / "out")) == {
        "predictions.tsv",
        "windows.tsv",
        "prediction_results.txt",
        "prediction_results_highestscore.csv",
    }


def test_two_runs_write_the_same_bytes(config: Config, tmp_path: Path) -> None:
    for run in "ab":
        predict(config, "gut", tmp_path / run)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_sample_without_open_frames(tmp_path: Path) -> None:
    source, config = tmp_path / "gut.fa", configure(tmp_path / "results")
    source.write_text(f">n\n{'N' * 1200}\n>s\nAC\n")
    out = config.results / "chunks/gut"
    write_chunks(source, out, sample="gut", window=500, chunk_size=8)
    assert work(config) == Exit.DRAINED
    predict(config, "gut", tmp_path / "out")
    assert read_tsv(tmp_path / "out/predictions.tsv") == []
    reasons = [row["reason"] for row in read_tsv(tmp_path / "out/windows.tsv")]
    assert reasons == ["ambiguous", "ambiguous", "ambiguous", "too_short"]


# --- results that are missing or damaged -------------------------------------------------------


def failure_of(config: Config, out: Path, kind: type[VirnucError] = ResultError) -> str:
    with pytest.raises(kind) as raised:
        predict(config, "gut", out)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("mode", ["error", "report"])
def test_a_missing_result(config: Config, tmp_path: Path, mode: str) -> None:
    """Pending, so an error in both modes."""
    tasks = tasks_of(config)
    path = Store(config.results).result(tasks[2].key)
    path.unlink()
    config = config.model_copy(update={"on_failed_chunks": mode})
    message = failure_of(config, tmp_path / "out")
    assert message.startswith(f"{path}: no such result")
    assert f"1 of {len(tasks)} chunks" in message
    assert not any((tmp_path / "out").iterdir())


def test_damaged_results_are_all_forgotten_and_the_next_run_mends_them(
    config: Config, tmp_path: Path
) -> None:
    out, tasks, store = tmp_path / "out", tasks_of(config), Store(config.results)
    predict(config, "gut", out)
    before = contents(out)
    damaged = [store.result(tasks[index].key) for index in (1, 3, 4)]
    good = [path.read_bytes() for path in damaged]
    damaged[0].write_bytes(good[0][:-1])
    damaged[1].write_bytes(good[2])  # the result of another chunk
    damaged[2].write_bytes(good[2][:-40] + bytes(40))
    stamps = [store.stamps / name for name in ("worker_0.txt", "gut/chunk_000000.txt")]
    for stamp in stamps:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text("7 chunks\n")

    message = failure_of(config, out)
    assert message.startswith(f"{damaged[0]}: ")
    assert f"3 of {len(tasks)} chunks" in message
    assert contents(out) == before
    assert not any(path.exists() for path in [*damaged, *stamps])
    assert store.done(task.key for task in tasks) == {
        task.key for index, task in enumerate(tasks) if index not in (1, 3, 4)
    }

    assert work(config) == Exit.DRAINED
    assert [path.read_bytes() for path in damaged] == good
    predict(config, "gut", out)
    assert contents(out) == before


# --- chunks that failed ------------------------------------------------------------------------


def fail(config: Config, task: Task) -> None:
    """Make it look as if a worker had tried the chunk in vain."""
    store = Store(config.results)
    store.result(task.key).unlink()
    words = {"error": "x", "traceback": "", "worker": "0", "host": "h", "log": ""}
    failure = Failure(key=task.key, task=task.name, attempts=1, **words)
    (store.failures / f"{task.key}.json").write_text(failure.model_dump_json())


def failed_chunk(config: Config) -> tuple[int, set[int], set[int]]:
    """A chunk whose windows have frames in other chunks too: its number, all and those windows."""
    rows = [set(chunk.table["window_row"].to_pylist()) for chunk in chunks_of(config)]
    for number, windows in enumerate(rows):
        others = set().union(*rows[:number], *rows[number + 1 :])
        if windows & others:
            return number, windows, windows & others
    raise AssertionError("choose another chunk_size: no window is in two chunks")


def test_windows_of_failed_chunks_are_reported(config: Config, tmp_path: Path) -> None:
    predict(config, "gut", tmp_path / "whole")
    number, windows, _ = failed_chunk(config)
    fail(config, tasks_of(config)[number])
    assert "1 of" in failure_of(config, tmp_path / "out")  # by default an error
    config = config.model_copy(update={"on_failed_chunks": "report"})
    predict(config, "gut", tmp_path / "out")

    whole = read_tsv(tmp_path / "whole/windows.tsv")
    nothing = {"score": "", "call": "no_call", "reason": "embedding_failed"}
    assert read_tsv(tmp_path / "out/windows.tsv") == [
        {**row, **nothing} if index in windows else row for index, row in enumerate(whole)
    ]
    frames = read_tsv(tmp_path / "whole/predictions.tsv")
    nothing = {"score_others": "", "score_virus": "", "label": "no_call"}
    lost = range(8 * number, 8 * number + 8)
    assert read_tsv(tmp_path / "out/predictions.tsv") == [
        {**row, **nothing} if index in lost else row for index, row in enumerate(frames)
    ]
    upstream = read_tsv(tmp_path / "whole/prediction_results.txt")
    assert read_tsv(tmp_path / "out/prediction_results.txt") == [
        row for index, row in enumerate(upstream) if index not in lost
    ]


def test_windows_without_a_call_are_not_in_the_file_of_the_original(
    config: Config, tmp_path: Path
) -> None:
    number, _, partly = failed_chunk(config)
    fail(config, tasks_of(config)[number])
    predict(config.model_copy(update={"on_failed_chunks": "report"}), "gut", tmp_path)
    table = window_table(config)
    names = {f"{table[row]['contig']}_chunk_{table[row]['window']}" for row in partly}
    rows = read_tsv(tmp_path / "prediction_results_highestscore.csv")
    assert not names & {row["Modified_ID"] for row in rows}


# --- chunks that do not fit --------------------------------------------------------------------


def test_windows_of_another_length_than_the_bundle_s(tmp_path: Path, embedded: Path) -> None:
    config = configure(tmp_path / "results")
    out = config.results / "chunks/gut"
    write_chunks(embedded.parent / "gut.fa", out, sample="gut", window=300, chunk_size=8)
    message = failure_of(config, tmp_path / "out", ModelError)
    assert "sample gut was cut into windows of 300 bases" in message
    assert "virnuc-demo is for 500" in message


def test_a_sample_that_is_not_chunked(tmp_path: Path) -> None:
    message = failure_of(configure(tmp_path / "results"), tmp_path / "out", ChunkError)
    assert message.startswith(f"{tmp_path / 'results/chunks/gut/manifest.json'}: ")


@pytest.mark.parametrize("how", ["missing", "truncated", "a row too few"])
def test_a_window_table_that_is_not_whole(config: Config, tmp_path: Path, how: str) -> None:
    out, path = tmp_path / "out", config.results / "chunks/gut/windows.parquet"
    predict(config, "gut", out)
    before, table = contents(out), pq.read_table(path)
    path.unlink()
    if how == "truncated":
        pq.write_table(table, path)
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "a row too few":
        pq.write_table(table.slice(0, table.num_rows - 1), path)
    message = failure_of(config, out, ChunkError)
    assert str(path.parent) in message
    assert message.endswith(
        ("delete the folder and run again", "delete the sample's chunk folder and run again")
    )
    assert contents(out) == before
