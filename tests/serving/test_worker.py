"""One worker in this process, on the untrained models."""

import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chunk_folders import chunk_it, some_contigs
from embedded import worker_of
from harness import BUNDLE, DEMO, UNREADABLE

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.embedding import embed
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import ChunkError
from virnuc_rules.files.atomic import file_sha256
from virnuc_rules.files.made import Made, Seen
from virnuc_rules.planning.lacking import short_results
from virnuc_rules.queue.claims import Claim
from virnuc_rules.queue.store import Store
from virnuc_rules.serving.worker import Exit, Worker
from virnuc_rules.serving.worker_report import Memory, WorkerReport


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A chunked sample: thirteen small chunks."""
    source = some_contigs(tmp_path / "lake.fa", DEMO["lake"], slice(4, 8))
    chunk_it(source, tmp_path / "chunks" / "lake", window=500, chunk_size=4)
    return Config.of(results=tmp_path, bundle=BUNDLE, threads=1, lease_seconds=2)


def worker(config: Config, name: str = "0") -> Worker:
    return worker_of(config, name, Tasks.of(config.run, config.embedding).of_samples(["lake"]))


def report(config: Config, name: str = "0") -> WorkerReport:
    path = Store(config.run.results).workers / f"{name}.json"
    return WorkerReport.model_validate_json(path.read_bytes())


@pytest.mark.parametrize(("chunks", "clears"), [(1, 13), (5, 2), (14, 0)])
def test_caches_are_cleared_every_so_many_chunks(
    config: Config, monkeypatch: pytest.MonkeyPatch, chunks: int, clears: int
) -> None:
    monkeypatch.setattr("virnuc_rules.serving.worker.CHUNKS_BETWEEN_CLEARINGS", chunks)
    assert worker(config).run() == Exit.DRAINED
    assert report(config).cache_clears == clears
    assert [point.chunks for point in report(config).memory] == list(range(1, 14))


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_the_log_says_which_chunk_of_how_many(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
) -> None:
    """Those of other workers are counted; the terminal gets a line after some silence only."""
    monkeypatch.setattr("virnuc_rules.serving.worker._TELLS", (seconds, seconds))
    caplog.set_level(logging.DEBUG, "virnuc_rules")
    every = worker(config).tasks
    assert worker_of(config, "1", dict(list(every.items())[:5])).run() == Exit.DRAINED
    caplog.clear()
    assert worker(config).run() == Exit.DRAINED
    lines = [record for record in caplog.records if ": chunk " in record.getMessage()]
    numbers = [record.getMessage().split(": ")[1] for record in lines]
    assert numbers == [f"chunk {number} of 13" for number in range(6, 14)]
    assert {record.levelno for record in lines} == {logging.DEBUG if seconds else logging.INFO}


def test_what_a_report_says(config: Config) -> None:
    one = worker(config)
    assert one.run() == Exit.DRAINED
    found = report(config)
    assert found == one.report
    assert found.load_count == {"dnabert_s": 1, "esm2": 1}
    assert found.load_seconds.keys() == found.load_count.keys()
    assert found.chunks == len(one.tasks) == 13
    assert found.open_frames == sum(task.entry.open_frames for task in one.tasks.values())
    residues = sum(task.entry.residues for task in one.tasks.values())
    assert found.tokens > residues + 2 * found.open_frames  # ESM-2's, and DNABERT-S's beside
    assert found.exit_reason == f"embedded 13 chunks, {found.open_frames} open frames"
    assert 0 < found.seconds_first_chunk < found.seconds_computing
    assert found.versions["torch"] == torch.__version__


@pytest.mark.usefixtures("as_if_cuda")
def test_what_a_report_says_of_a_gpu(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks are those of a CPU: only what is said is of a GPU."""
    opened, cpu = embed.Networks.open, torch.device("cpu")
    monkeypatch.setattr(
        embed.Networks,
        "open",
        lambda bundle, device, precision, *rest: opened(bundle, cpu, "fp32", *rest),
    )
    assert worker(config, "3").run() == Exit.DRAINED
    found = report(config, "3")
    assert (found.device, found.precision, found.verified) == (
        "cuda:1 (NVIDIA H100)",
        "fp16",
        False,
    )
    assert {point.device for point in found.memory} == {3000}  # MB


def spoil_a_chunk(one: Worker) -> tuple[str, bytes]:
    key, task = next(iter(one.tasks.items()))
    good = task.path.read_bytes()
    task.path.write_bytes(good[: len(good) // 2])
    return key, good


def test_a_failed_chunk_is_tried_twice_in_a_run_and_again_in_the_next(config: Config) -> None:
    one = worker(config)
    key, good = spoil_a_chunk(one)
    store = Store(config.run.results)
    for _ in (1, 2):
        assert worker(config).run() == Exit.FAILED_CHUNKS
        failure = store.failure(key)
        assert failure and failure.attempts == 2 and "damaged" in failure.error
        assert "Traceback" in failure.traceback
        assert not list(store.claims.iterdir())
        assert report(config).failed_chunks == 1
    assert len(store.done(one.tasks)) == 12
    one.tasks[key].path.write_bytes(good)
    restarted = worker_of(config, "0", one.tasks, begins=False)  # in the run that has failed
    assert restarted.run() == Exit.FAILED_CHUNKS
    assert restarted.report.load_count == {}  # for nothing is left to try
    assert worker(config).run() == Exit.DRAINED
    assert store.failure(key) is None and len(store.done(one.tasks)) == 13
    assert report(config).chunks == 1


def drift(monkeypatch: pytest.MonkeyPatch, *drifts: float) -> None:
    """Let the self-checks of a worker give numbers that are off, by a share and absolutely."""
    right, answers = embed.self_check, iter(drifts)

    def drifting(*arguments: object) -> torch.Tensor:
        found = right(*arguments)  # type: ignore[arg-type]
        return found + next(answers) * (1 + found.abs())

    monkeypatch.setattr(embed, "self_check", drifting)


def test_a_bad_device_fails_no_chunk(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the self-check gives other numbers: the device is to blame."""
    one = worker(config)
    spoil_a_chunk(one)
    drift(monkeypatch, 0.0, 0.002)
    assert one.run() == Exit.BAD_DEVICE
    store = Store(config.run.results)
    assert store.failed(one.tasks) == {}
    assert not list(store.claims.iterdir())
    assert report(config).exit_reason == "the device gives wrong numbers"


def test_a_device_that_rounds_otherwise_is_no_bad_one(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = worker(config)
    key, _ = spoil_a_chunk(one)
    drift(monkeypatch, 0.0, 0.0005, 0.0005)
    assert one.run() == Exit.FAILED_CHUNKS
    assert Store(config.run.results).failed(one.tasks).keys() == {key}


def test_a_full_disk_is_no_fault_of_the_chunk(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    one = worker(config)
    monkeypatch.setattr("virnuc_rules.embedding.embedding_file.write_result", full)
    assert one.run() == Exit.TRY_AGAIN
    store = Store(config.run.results)
    assert store.attempts() == {} and store.done(one.tasks) == set()
    assert not list(store.claims.iterdir())
    assert not list(store.embeddings.rglob(".*"))
    (named,) = {key for key in one.tasks if key in (report(config).exit_reason or "")}
    assert f"{store.result(named)}: No space left on device" in (report(config).exit_reason or "")


def test_another_run_that_begins_meanwhile_hides_no_failure(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of what failed are gone, and so is its result: that is no success."""
    one = worker(config)
    spoil_a_chunk(one)
    drain = one.queue.drain

    def then_another_begins(*arguments: Any) -> Iterator[Claim]:
        yield from drain(*arguments)
        Store(config.run.results).begin()

    monkeypatch.setattr(one.queue, "drain", then_another_begins)
    assert one.run() == Exit.TRY_AGAIN
    assert "another run has begun" in (one.report.exit_reason or "")


def test_a_result_that_another_worker_made_again_stays(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker(config).run() == Exit.DRAINED
    store, one = Store(config.run.results), worker(config)
    key = next(iter(one.tasks))
    good = store.result(key).read_bytes()
    looks = iter([b"", good])

    def cut_when_it_is_looked_for(tasks: list[Task], *rest: Any) -> list[Task]:
        store.result(key).write_bytes(next(looks))
        return short_results(tasks, *rest)

    monkeypatch.setattr("virnuc_rules.serving.worker.short_results", cut_when_it_is_looked_for)
    assert one.run() == Exit.DRAINED and not store.damaged.exists()
    assert store.result(key).read_bytes() == good


def test_a_result_that_is_a_link_to_nothing_is_made_again(config: Config) -> None:
    assert worker(config).run() == Exit.DRAINED
    store, one = Store(config.run.results), worker(config)
    path = store.result(next(iter(one.tasks)))
    path.unlink()
    path.symlink_to("archived")
    assert one.run() == Exit.DRAINED
    assert path.is_file() and not path.is_symlink()


def test_a_damaged_manifest_is_named_and_no_result_is(config: Config) -> None:
    assert worker(config).run() == Exit.DRAINED
    folder = RunFolder(config.run.results).chunks("lake")
    folder.made.write_text(made_of(folder.manifest))
    text = folder.manifest.read_text()
    folder.manifest.write_text(text.replace('"open_frames": 4', '"open_frames": 5', 1))
    assert folder.manifest.read_text() != text
    with pytest.raises(ChunkError, match=r"manifest\.json: the content has changed"):
        worker(config)
    assert not RunFolder(config.run.results).damaged.exists()


def made_of(path: Path) -> str:
    """A made.json that knows of one file."""
    return Made(of={}, files={path.name: Seen.of(path, file_sha256(path))}).model_dump_json()


def test_no_space_for_the_report_after_loading(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is named, not the models."""
    one = worker(config)

    def full(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("virnuc_rules.serving.reporter.write_json", full)
    assert one.run() == Exit.TRY_AGAIN
    path = Store(config.run.results).workers / "0.json"
    assert one.report.exit_reason == f"cannot go on: {path}: No space left on device (ENOSPC)"


def test_a_chunk_that_cannot_be_read_fails_nothing(config: Config) -> None:
    """It is tried again, then the worker ends with 75; all others are done."""
    one = worker(config)
    key, task = next(iter(one.tasks.items()))
    task.path.unlink()
    task.path.symlink_to(UNREADABLE)
    assert one.run() == Exit.TRY_AGAIN
    store = Store(config.run.results)
    assert store.attempts() == {} and store.done(one.tasks) == one.tasks.keys() - {key}
    assert str(task.path) in (one.report.exit_reason or "")
    assert "EIO" in (one.report.exit_reason or "") and not list(store.claims.iterdir())


def test_the_memory_series_is_thinned() -> None:
    one = WorkerReport.model_construct(memory=[])
    for chunks in range(1, 5001):
        one.add_memory(Memory(chunks=chunks, resident=1, device=None))
    assert len(one.memory) <= 1000
    assert one.memory[-1].chunks > 4900 and one.memory[0].chunks == 1
