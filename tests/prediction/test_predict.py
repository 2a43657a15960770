"""From embeddings to tables: the original's numbers, and every frame and window exactly once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from embedded import (
    chunks_of,
    configure,
    contents,
    folder_of,
    predict,
    tasks_of,
    window_table,
    work,
)
from harness import UNREADABLE, copy_bundle, files_of_at_most, read_tsv
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.embedding.embedding_file import read_result, write_result
from virnuc_rules.embedding.tasks import Task
from virnuc_rules.errors import (
    ChunkError,
    EnvironmentProblem,
    ModelError,
    ResultError,
    VirnucError,
)
from virnuc_rules.files import environment
from virnuc_rules.models.bundle import rewrite_card
from virnuc_rules.models.card import ClassifierShape
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.weights import load_network
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.queue.store import ATTEMPTS, Failure, Store
from virnuc_rules.serving.worker import Exit

ROOT = Path(__file__).parents[2]
CONTIGS = ("NODE_1109_length_9622_cov_23.163061", "AE015924.1:1-15000", "NC_001422.1")


# --- calls of windows --------------------------------------------------------------------------


def test_a_window_is_viral_by_its_best_scores_and_in_a_tie() -> None:
    consensus = Consensus.empty(5)
    windows, frames = np.array([0, 1, 1, 2, 3, 3]), np.array([2, 0, 3, 1, 4, 5], np.int8)
    pairs = [[0.5, 0.5], [0.7, 0.3], [0.4, 0.6], [0.4, 0.6], [0.7, 0.3], [0.3, 0.7]]
    consensus.add(windows, frames, np.array(pairs, np.float32))
    assert consensus.virus.tolist() == [True, False, True, True, False]
    assert consensus.frames.tolist() == [1, 2, 1, 2, 0]
    later = np.array([1]), np.array([5], np.int8), np.array([[0.2, 0.8]], np.float32)
    consensus.add(*later)  # from a later chunk
    assert consensus.virus[1]


@settings(max_examples=50)
@given(data=st.data(), size=st.integers(1, 30))
def test_the_best_frame_is_the_first_with_the_best_score(data: st.DataObject, size: int) -> None:
    every = [(window, frame) for window in range(size // 3 + 1) for frame in range(6)]
    rows = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=size, unique=True))
    score = data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(rows),
                               max_size=len(rows)))  # fmt: skip
    consensus = Consensus.empty(size // 3 + 1)
    cut = data.draw(st.integers(0, len(rows)))
    for part in (slice(0, cut), slice(cut, None)):  # of two chunks
        windows, frames = np.array(rows[part], np.int64).reshape(-1, 2).T
        pairs = np.array([[1 - s, s] for s in score[part]], np.float32).reshape(-1, 2)
        consensus.add(windows, frames.astype(np.int8), pairs)
    for window in {window for window, _ in rows}:
        own = [(-s, f) for (w, f), s in zip(rows, score, strict=True) if w == window]
        assert consensus.best[window] == min(own)[1]
        assert consensus.score2[window] == np.float32(-min(own)[0])


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
    path = tmp_path / "classifier.safetensors"
    network = load_network(MLPClassifier, shape, path, "cpu", torch.float32)
    found = network.scores(dnabert_s, esm2)

    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = np.hstack([dnabert_s.numpy(), esm2.numpy()]).astype(np.float64)  # in this order
    hidden = x @ w["hidden_layer.weight"].T + w["hidden_layer.bias"]
    norm = (hidden - w["bn1.running_mean"]) / np.sqrt(w["bn1.running_var"] + 1e-5)
    active = np.maximum(norm * w["bn1.weight"] + w["bn1.bias"], 0)
    logits = active @ w["output_layer.weight"].T + w["output_layer.bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert expected.min() < 0.2 < 0.8 < expected.max()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


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
    path = Store(config.run.results).result(tasks[2].key)
    path.unlink()
    config = config.replace(on_failed_chunks=mode)
    message = failure_of(config, tmp_path / "out")
    assert message.startswith(f"{path}: no such result")
    assert f"1 of {len(tasks)} chunks" in message
    assert not (tmp_path / "out").exists()


def test_damaged_results_are_all_moved_aside_and_the_next_run_mends_them(
    config: Config, tmp_path: Path
) -> None:
    out, tasks, store = tmp_path / "out", tasks_of(config), Store(config.run.results)
    predict(config, "gut", out)
    before = contents(out)
    damaged = [store.result(tasks[index].key) for index in (1, 3, 4)]
    good = [path.read_bytes() for path in damaged]
    damaged[0].write_bytes(good[0][:-1])
    damaged[1].write_bytes(good[2])  # the result of another chunk
    damaged[2].write_bytes(good[2][:-40] + bytes(40))
    bad = [path.read_bytes() for path in damaged]

    message = failure_of(config, out)
    assert message.startswith(f"{damaged[0]}: ")
    assert f"3 of {len(tasks)} chunks" in message
    assert contents(out) == before
    assert not any(path.exists() for path in damaged)
    aside = {path.name.split(".")[0]: path for path in store.damaged.iterdir()}
    assert f"; moved to {aside[damaged[0].stem]}; " in message
    assert [aside[path.stem].read_bytes() for path in damaged] == bad
    assert store.done(task.key for task in tasks) == {
        task.key for index, task in enumerate(tasks) if index not in (1, 3, 4)
    }

    assert work(config) == Exit.DRAINED
    assert [path.read_bytes() for path in damaged] == good
    predict(config, "gut", out)
    assert contents(out) == before


def test_a_result_of_other_networks_is_damaged(config: Config, tmp_path: Path) -> None:
    """Its hashes are right, but the two matrices are swapped."""
    task = tasks_of(config)[0]
    path = Store(config.run.results).result(task.key)
    was = read_result(path, task.key, task.read().ids)
    swapped = replace(was, dnabert_s=was.esm2.clone(), esm2=was.dnabert_s.clone())
    write_result(path, task.key, config.embedding, swapped)
    assert "of other networks" in failure_of(config, tmp_path / "out")
    assert not path.exists()


@pytest.mark.parametrize("mode", ["error", "report"])
@pytest.mark.parametrize("which", ["result", "chunk", "two damaged before it"])
def test_what_cannot_be_read_is_left_where_it_is(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, which: str
) -> None:
    """Nothing is known of it: it is neither damaged nor, with `report`, without a call."""
    monkeypatch.setattr(environment, "_PAUSES", (0, 0))
    config, task = config.replace(on_failed_chunks=mode), tasks_of(config)[3]
    path = task.path if which == "chunk" else Store(config.run.results).result(task.key)
    good = path.with_name("good")
    path.rename(good)
    path.symlink_to(UNREADABLE)
    if which == "two damaged before it":
        for task in tasks_of(config)[:2]:
            Store(config.run.results).result(task.key).write_bytes(b"odd")
    before = {path: path.lstat().st_ino for path in config.run.results.rglob("*.*")}
    message = failure_of(config, tmp_path / "out", EnvironmentProblem)
    assert message == f"{path}: Input/output error (EIO)"
    assert not (tmp_path / "out").exists()
    if not which.startswith("two"):
        assert before == {path: path.lstat().st_ino for path in config.run.results.rglob("*.*")}
        good.rename(path)
        predict(config, "gut", tmp_path / "out")


# --- chunks that failed ------------------------------------------------------------------------


def fail(config: Config, task: Task) -> None:
    """Make it look as if a worker had tried the chunk in vain."""
    store = Store(config.run.results)
    store.result(task.key).unlink()
    words = {"error": "x", "traceback": "", "worker": "0", "host": "h", "log": ""}
    failure = Failure(key=task.key, task=task.name, attempts=ATTEMPTS, **words)
    store.attempt(task.key, ATTEMPTS).write_text(failure.model_dump_json())


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
    config = config.replace(on_failed_chunks="report")
    predict(config, "gut", tmp_path / "out")

    whole = read_tsv(tmp_path / "whole/windows.tsv")
    scores = dict.fromkeys(("best_frame", "score_non_viral", "score_virus", "margin"), "")
    nothing = {**scores, "call": "no_call", "reason": "embedding_failed"}
    assert read_tsv(tmp_path / "out/windows.tsv") == [
        {**row, **nothing} if index in windows else row for index, row in enumerate(whole)
    ]
    frames = read_tsv(tmp_path / "whole/orfs.tsv")
    nothing = {"score_non_viral": "", "score_virus": "", "label": "no_call"}
    lost = range(8 * number, 8 * number + 8)
    assert read_tsv(tmp_path / "out/orfs.tsv") == [
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
    predict(config.replace(on_failed_chunks="report"), "gut", tmp_path)
    table = window_table(config)
    names = {f"{table[row]['contig']}_chunk_{table[row]['window']}" for row in partly}
    rows = read_tsv(tmp_path / "prediction_results_highestscore.csv")
    assert not names & {row["Modified_ID"] for row in rows}


# --- chunks that do not fit --------------------------------------------------------------------


def test_windows_of_another_length_than_the_bundle_s(tmp_path: Path, embedded: Path) -> None:
    config = configure(tmp_path / "results")
    out = config.run.results / "chunks/gut"
    write_chunks(
        [embedded.parent / "gut.fa"], out, sample="gut", chunking=Chunking(window=300, chunk_size=8)
    )
    message = failure_of(config, tmp_path / "out", ModelError)
    assert "sample gut was cut into windows of 300 bases" in message
    assert "virnuc-untrained is for 500" in message


def test_a_classifier_that_gives_no_numbers(config: Config, tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path)
    weights = load_file(bundle / "classifier.safetensors")
    weights["bn1.running_var"] *= -1
    save_file(weights, bundle / "classifier.safetensors")
    rewrite_card(bundle)
    config = config.replace(bundle=bundle)
    message = failure_of(config, tmp_path / "out", ModelError)
    assert message.startswith(f"{bundle}: the classifier's scores of ")
    assert "not finite" in message and not (tmp_path / "out").exists()


def test_a_sample_that_is_not_chunked(tmp_path: Path) -> None:
    message = failure_of(configure(tmp_path / "results"), tmp_path / "out", ChunkError)
    assert message.startswith(f"{tmp_path / 'results/chunks/gut/manifest.json'}: ")


@pytest.mark.parametrize("how", ["missing", "truncated", "a row too few"])
def test_a_window_table_that_is_not_whole(config: Config, tmp_path: Path, how: str) -> None:
    out, path = tmp_path / "out", config.run.results / "chunks/gut/windows.parquet"
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


@pytest.mark.parametrize("how", ["order", "gap", "one more", "open frames", "reason"])
def test_a_window_table_that_does_not_fit(config: Config, tmp_path: Path, how: str) -> None:
    path = config.run.results / "chunks/gut/windows.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    if how == "order":
        rows = rows[::-1]
    for row in rows:
        if how == "gap":
            row["contig_index"] += row["contig_index"] > 1
        elif how == "open frames":
            row["open_frames"] += row["open_frames"] > 0
        elif how == "reason" and row["reason"]:
            row["reason"] = "unheard of"
    rows[-1]["contig_index"] += how == "one more"
    path.unlink()
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    message = failure_of(config, tmp_path / "out", ChunkError)
    assert str(path.parent) in message and message.endswith("delete the folder and run again")


def test_a_contig_table_that_is_not_whole(config: Config, tmp_path: Path) -> None:
    path = config.run.results / "chunks/gut/contigs.parquet"
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.slice(1), path)
    assert str(path.parent) in failure_of(config, tmp_path / "out", ChunkError)


# --- nothing half-written ----------------------------------------------------------------------


def test_the_input_is_not_needed_again(
    config: Config, tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is archived, and the working folder is another."""
    predict(config, "gut", tmp_path / "before")
    source = tmp_path / "other.fa"
    source.write_bytes((embedded.parent / "gut.fa").read_bytes())
    settings = Chunking(window=500, chunk_size=8)
    write_chunks([source], folder_of(config).path, settings, sample="gut")
    source.unlink()
    monkeypatch.chdir("/")
    predict(config, "gut", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "before")
    assert contents(tmp_path / "out")["viral.fa.gz"]


@pytest.mark.parametrize("how", ["missing", "damaged", "of another sample"])
def test_bases_that_are_not_those_of_the_sample_leave_what_was_there(
    config: Config, tmp_path: Path, how: str
) -> None:
    out, path = tmp_path / "out", config.run.results / "chunks/gut/bases.parquet"
    predict(config, "gut", out)
    before, whole = contents(out), path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    elif how == "of another sample":
        (tmp_path / "other.fa").write_text(">a\nACGT\n")
        write_chunks(
            [tmp_path / "other.fa"], tmp_path / "other", Chunking(window=500), sample="other"
        )
        path.write_bytes((tmp_path / "other/bases.parquet").read_bytes())
    message = failure_of(config, out, ChunkError)
    assert message.startswith(f"{path}: ")
    assert message.endswith("delete the sample's chunk folder and run again")
    assert contents(out) == before


@pytest.mark.parametrize("size", [100, 1200, 4500, 7000])
def test_a_full_disk_leaves_nothing_half_written(config: Config, tmp_path: Path, size: int) -> None:
    """Other files are too large at each size."""
    out = tmp_path / "out"
    predict(config, "gut", out)
    before = contents(out)
    assert any(size < len(content) for content in before.values())
    other = config.replace(min_called_windows=2)
    with pytest.raises(VirnucError, match="File too large"), files_of_at_most(size):
        predict(other, "gut", out)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "results"]
