"""Numbers for a monitoring system: Prometheus' own parser reads them, whatever the reports are."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chunk_folders import chunk_it, some_contigs
from embedded import worker_of
from harness import BUNDLE, DEMO, Project, rules, wait_until
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from virnuc_rules.config.model import Config, WorkerSettings
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.embedding import embed
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.queue.claims import Queue
from virnuc_rules.serving.metrics import numbers, prometheus_text
from virnuc_rules.serving.reporter import Reporter
from virnuc_rules.serving.worker import Exit, Worker
from virnuc_rules.serving.worker_report import Memory, WorkerReport

COUNTERS = {
    "chunks", "failed_chunks", "retried_chunks", "lost_workers", "open_frames", "tokens",
    "padding_tokens", "computing_seconds", "waiting_seconds", "publishing_seconds",
    "loading_seconds", "loads",
}  # fmt: skip
GAUGES = {
    "resident_memory_bytes", "device_memory_bytes", "start_time_seconds", "report_time_seconds",
    "ended",
}  # fmt: skip
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
Series = dict[tuple[str, str], dict[str, float]]  # by worker and host: values by name


def parsed(text: str, results: Path) -> Series:
    """Read a file as Prometheus does, and check what it demands of every file."""
    families: list[Metric] = list(text_string_to_metric_families(text))
    assert {f.name.removeprefix("virnuc_worker_") for f in families} == COUNTERS | GAUGES
    found: Series = {}
    for family in families:
        is_counter = family.name.removeprefix("virnuc_worker_") in COUNTERS
        assert family.type == ("counter" if is_counter else "gauge") and family.documentation
        for sample in family.samples:
            assert sample.name == family.name + "_total" * is_counter
            assert sample.timestamp is None  # the textfile collector refuses those
            assert sample.labels.keys() == {"results", "worker", "host"}
            assert sample.labels["results"] == str(results)
            of = found.setdefault((sample.labels["worker"], sample.labels["host"]), {})
            assert sample.name not in of  # a series that is there twice spoils the whole file
            of[sample.name] = sample.value
    return found


def file_of(results: Path) -> Series:
    return parsed(RunFolder(results).metrics.read_text(), results)


def report_of(worker: str = "0", host: str = "n1", **fields: Any) -> WorkerReport:
    always = {"owner": "o", "pid": 1, "precision": "fp32", "versions": {}}
    return WorkerReport(
        worker=worker, host=host, **{"started": EPOCH, "updated": EPOCH, **always, **fields}
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A chunked sample: thirteen small chunks."""
    source = some_contigs(tmp_path / "lake.fa", DEMO["lake"], slice(4, 8))
    chunk_it(source, tmp_path / "chunks" / "lake", window=500, chunk_size=4)
    return Config.of(results=tmp_path, bundle=BUNDLE, threads=1, lease_seconds=0.5)


def worker(config: Config, name: str = "0", part: slice = slice(None)) -> Worker:
    tasks = Tasks.of(config.run, config.embedding).of_samples(["lake"])
    return worker_of(config, name, dict(list(tasks.items())[part]))


def test_what_a_worker_did(config: Config) -> None:
    one = worker(config)
    assert one.run() == Exit.DRAINED
    (found,) = file_of(config.run.results).values()
    report, prefix = one.report, "virnuc_worker_"
    assert found == {
        f"{prefix}chunks_total": 13,
        f"{prefix}failed_chunks_total": 0,
        f"{prefix}retried_chunks_total": 0,
        f"{prefix}lost_workers_total": 0,
        f"{prefix}open_frames_total": report.open_frames,
        f"{prefix}tokens_total": report.tokens,
        f"{prefix}padding_tokens_total": report.padding,
        f"{prefix}computing_seconds_total": report.seconds_computing,
        f"{prefix}waiting_seconds_total": report.seconds_waiting,
        f"{prefix}publishing_seconds_total": report.seconds_publishing,
        f"{prefix}loading_seconds_total": sum(report.load_seconds.values()),
        f"{prefix}loads_total": 2,
        f"{prefix}resident_memory_bytes": 1e6 * report.memory[-1].resident,
        f"{prefix}device_memory_bytes": 0,
        f"{prefix}start_time_seconds": report.started.timestamp(),
        f"{prefix}report_time_seconds": report.updated.timestamp(),
        f"{prefix}ended": 1,
    }
    assert report.seconds_publishing > 0 and 1e7 < found[f"{prefix}resident_memory_bytes"] < 1e11
    assert not list(config.run.results.glob("queue/.*"))


def test_memory_of_a_gpu_is_in_bytes() -> None:
    memory = [Memory(chunks=1, resident=2, device=3), Memory(chunks=2, resident=4, device=5)]
    found = numbers(report_of(memory=memory))
    assert found["virnuc_worker_resident_memory_bytes"] == 4e6
    assert found["virnuc_worker_device_memory_bytes"] == 5e6


def test_a_process_begins_at_zero_with_a_later_start(config: Config) -> None:
    """Which Prometheus takes for a reset of a counter."""
    assert worker(config, part=slice(5)).run() == Exit.DRAINED
    (first,) = file_of(config.run.results).values()
    assert worker(config).run() == Exit.DRAINED
    (second,) = file_of(config.run.results).values()
    chunks, start = "virnuc_worker_chunks_total", "virnuc_worker_start_time_seconds"
    assert (first[chunks], second[chunks]) == (5, 8) and first[start] < second[start]


def fail(monkeypatch: pytest.MonkeyPatch, task: Task, times: int) -> None:
    """Let a chunk fail so many times."""
    ids, embed_chunk, left = task.read().ids, embed.embed_chunk, [None] * times

    def failing(chunk: Any, *others: Any) -> Any:
        if chunk.ids == ids and left:
            left.pop()
            raise ZeroDivisionError
        return embed_chunk(chunk, *others)

    monkeypatch.setattr(embed, "embed_chunk", failing)


def test_retries_and_lost_workers(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(config)
    first, second, *_ = one.tasks
    gone = Queue(config.run.results, "gone", 0.5)  # without a heartbeat
    config.run.results.joinpath("queue/claims").mkdir(parents=True)
    assert gone.claim(first)
    fail(monkeypatch, one.tasks[second], times=1)
    assert one.run() == Exit.DRAINED
    (found,) = file_of(config.run.results).values()
    assert found["virnuc_worker_lost_workers_total"] == 1
    assert found["virnuc_worker_retried_chunks_total"] == 2
    assert found["virnuc_worker_failed_chunks_total"] == 0
    assert found["virnuc_worker_chunks_total"] == 13
    assert found["virnuc_worker_waiting_seconds_total"] > 0


def test_a_chunk_that_failed_for_good(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker(config, part=slice(2))
    fail(monkeypatch, next(iter(one.tasks.values())), times=2)
    assert one.run() == Exit.FAILED_CHUNKS
    (found,) = file_of(config.run.results).values()
    assert found["virnuc_worker_failed_chunks_total"] == 1
    assert found["virnuc_worker_retried_chunks_total"] == 1
    assert found["virnuc_worker_chunks_total"] == 1


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.json").write_text(text)


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(report_of().model_dump_json()) | fields)


ODD = {
    "no json": "{",
    "empty": "",
    "a list": "[1]",
    "deep": "[" * 100_000,
    "null bytes": "\0" * 100,
    "a negative count": changed(chunks=-1),
    "more than a float holds": changed(tokens=10**400),
    "no number": changed(seconds_computing="soon"),
    "not finite": changed().replace('"seconds_waiting": 0.0', '"seconds_waiting": NaN'),
    "negative seconds": changed(load_seconds={"esm2": -1}),
    "negative memory": changed(memory=[{"chunks": 1, "resident": -1, "device": None}]),
    "no time zone": changed(started="2026-01-01T00:00:00"),
    "no time": changed(updated="yesterday"),
    "half a letter": changed().replace('"n1"', r'"\ud800"'),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_damaged_report_is_left_out(tmp_path: Path, odd: str) -> None:
    write(tmp_path, "0", odd)
    write(tmp_path, "1", report_of("1", chunks=7).model_dump_json())
    found = parsed(prometheus_text(tmp_path, tmp_path), tmp_path)
    assert {of: values["virnuc_worker_chunks_total"] for of, values in found.items()} == {
        ("1", "n1"): 7
    }


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("nowhere")
    (tmp_path / "huge.json").touch()
    os.truncate(tmp_path / "huge.json", 1 << 42)  # of which most is a hole
    assert parsed(prometheus_text(tmp_path, tmp_path), tmp_path) == {}


NAMES = ['"', "\\", "\n", '\\"\n\\n', "a\tb\rc\x0bd\x1be\x85f", "ü\u2028x", "", "} 1\n# TYPE x y"]


@pytest.mark.parametrize("name", [*NAMES, "0" * 9999], ids=ascii)
def test_labels_are_read_as_they_were(tmp_path: Path, name: str) -> None:
    results = tmp_path / (name[:50].replace("/", "") or "r")
    write(tmp_path, "0", report_of(worker=name, host=name[::-1], chunks=3).model_dump_json())
    ((of, found),) = parsed(prometheus_text(results, tmp_path), results).items()
    assert of == (name, name[::-1]) and found["virnuc_worker_chunks_total"] == 3


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    results = Path(os.fsdecode(b"/data/caf\xe9"))
    write(tmp_path, "0", report_of().model_dump_json())
    assert 'results="/data/caf\ufffd"' in prometheus_text(results, tmp_path).encode().decode()


def test_two_reports_of_one_name_are_one_series(tmp_path: Path) -> None:
    for name, chunks in (("0", 1), ("copy of 0", 2)):
        write(tmp_path, name, report_of(chunks=chunks).model_dump_json())
    write(tmp_path, "of another host", report_of(host="n2", chunks=3).model_dump_json())
    found = parsed(prometheus_text(tmp_path, tmp_path), tmp_path)
    assert found.keys() == {("0", "n1"), ("0", "n2")}


def test_workers_write_it_in_turn(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees that another one has written it since the last look leaves it as it is."""
    settings, results = config.part(WorkerSettings), config.run.results
    path = RunFolder(results).metrics
    with Queue(results, "0", 60) as first, Queue(results, "1", 60) as second:
        one, two = Reporter(first, settings, True), Reporter(second, settings, True)

        def writes(reporter: Reporter, later: bool = True) -> bool:
            before = path.stat().st_ino, path.stat().st_mtime_ns
            if later:
                reporter._next_look = 0.0
            reporter.save()
            return (path.stat().st_ino, path.stat().st_mtime_ns) != before

        one.save()  # there was none
        assert list(file_of(results)) == [("0", one.report.host)]
        assert not writes(one, later=False)
        assert not writes(two)  # it is new to this one
        assert writes(one)
        assert not writes(two) and writes(two) and not writes(one)
        assert file_of(results).keys() == {("0", one.report.host), ("1", one.report.host)}


def test_the_last_worker_writes_at_its_end(config: Config) -> None:
    settings, results = config.part(WorkerSettings), config.run.results
    with Queue(results, "0", 60) as first, Queue(results, "1", 60) as second:
        one, two = Reporter(first, settings, True), Reporter(second, settings, True)
        one.save()
        claim = second.claim("a" * 64)
        assert claim
        one.finish("not needed")
        assert {of["virnuc_worker_ended"] for of in file_of(results).values()} == {0}
        two.finish("interrupted")  # with its claim, which is released after it
        assert {of["virnuc_worker_ended"] for of in file_of(results).values()} == {1}
        assert len(file_of(results)) == 2


def test_a_worker_does_not_need_it(config: Config) -> None:
    path = RunFolder(config.run.results).metrics
    path.mkdir(parents=True)
    (path / "in the way").touch()
    assert worker(config).run() == Exit.DRAINED
    assert [child.name for child in path.iterdir()] == ["in the way"]


def test_status_has_the_same_numbers(undisturbed: Project) -> None:
    """Of a real run of the demo's samples."""
    results = undisturbed.results
    done = rules("status", "--json", "--results", results)
    assert done.returncode == 0, done.stderr
    shown = {(w["worker"], w["host"]): w["metrics"] for w in json.loads(done.stdout)["workers"]}
    found = file_of(results)
    assert found == shown
    (of,) = found.values()
    assert of["virnuc_worker_chunks_total"] == undisturbed.chunks()
    assert of["virnuc_worker_loads_total"] == 2 and of["virnuc_worker_ended"] == 1


def test_it_is_whole_while_workers_are_killed(chunked: Project) -> None:
    """Read again and again while three workers write it; one is killed, and comes back."""
    path = chunked.paths.metrics
    workers = [chunked.serve(number, forked=True) for number in range(3)]
    wait_until(path.exists)
    seen: dict[tuple[str, str], float] = {}
    while any(process.poll() is None for process in workers):
        for of, values in file_of(chunked.results).items():
            seen[of] = values["virnuc_worker_chunks_total"]
        if chunked.embeddings() and len(workers) == 3:
            os.kill(chunked.workers()[0], signal.SIGKILL)
            workers.append(chunked.serve(3, forked=True))
    for process in workers:
        process.communicate(timeout=200)
    last = file_of(chunked.results)
    assert len(last) == 4 and len(chunked.embeddings()) == chunked.chunks()
    total = sum(values["virnuc_worker_chunks_total"] for values in last.values())
    # What the killed one published last may not be in its report.
    assert chunked.chunks() - 2 <= total <= chunked.chunks() + 1
    assert all(last[of]["virnuc_worker_chunks_total"] >= chunks for of, chunks in seen.items())
    assert chunked.left_over() == []


def test_times_are_those_of_the_report() -> None:
    later = EPOCH + timedelta(hours=1)
    found = numbers(report_of(updated=later, exit_reason=None))
    assert found["virnuc_worker_report_time_seconds"] == later.timestamp()
    assert found["virnuc_worker_start_time_seconds"] == EPOCH.timestamp()
    assert found["virnuc_worker_ended"] == 0
