"""The status of a run of several workers on several hosts, from synthetic claims and reports."""

import contextlib
import io
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from harness import BUNDLE, DEMO, Project, environment, wait_until

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.errors import ChunkError
from virnuc_rules.files.made import Product
from virnuc_rules.inspection.status import Observer, Status, render, watch
from virnuc_rules.queue.claim_text import ClaimText
from virnuc_rules.queue.store import ATTEMPTS, Failure, Store
from virnuc_rules.queue.watched import Watched
from virnuc_rules.serving.worker_report import WorkerReport
from virnuc_rules.terminal import Terminal


class Run:
    """A chunked run; claims, results and reports are written as workers of any host would."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.config = Config.of(
            samples=folder / "samples.tsv", results=self.results, bundle=BUNDLE, lease_seconds=60
        )
        self.store = Store(self.results)
        for folder in (self.store.claims, self.store.failures, self.store.workers):
            folder.mkdir(parents=True)
        self.tasks = Tasks.of(self.config.run, self.config.embedding).of_samples(("lake", "gut"))
        self.keys = sorted(self.tasks)

    def claim(self, key: str, owner: str, beats: int = 1, age: float = 0, still: int = 0) -> None:
        path = self.store.claims / key
        claim = ClaimText(key=key, owner=owner, index=7, life=beats, still=still, limit=600)
        path.write_bytes(claim.content())
        os.utime(path, (time.time() - age,) * 2)

    def finish(self, *keys: str) -> None:
        for key in keys:
            path = self.store.result(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            (self.store.claims / key).unlink(missing_ok=True)

    def fail(self, key: str, error: str) -> None:
        failure = Failure(key=key, task="lake/chunk_000000.parquet", error=error, traceback="",
                          worker="0", host="n1", log="w0.log", attempts=2)  # fmt: skip
        self.store.attempt(key, ATTEMPTS).write_text(failure.model_dump_json())

    def report(self, worker: str, host: str, owner: str, reason: str | None = None) -> None:
        now = datetime.now(UTC)
        report = WorkerReport(
            worker=worker, owner=owner, pid=11, host=host, device="cuda:0", precision="fp16",
            versions={}, started=now, updated=now, chunks=3, open_frames=120,
            seconds_computing=10, seconds_waiting=2, exit_reason=reason,
        )  # fmt: skip
        (self.store.workers / f"{worker}.json").write_text(report.model_dump_json())

    def observer(self) -> Observer:
        return Observer(self.config)

    def read(self) -> Status:
        return self.observer().read()


@pytest.fixture(scope="module")
def chunked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Project(tmp_path_factory.mktemp("status"))
    for name, path in project.samples.items():
        out = project.results / "chunks" / name
        write_chunks([path], out, Chunking(window=500, chunk_size=40), sample=name)
    return project.folder


@pytest.fixture
def run(chunked_once: Path, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(chunked_once, tmp_path / "run")))


def drawn(status: Status) -> str:
    console = Terminal(file=io.StringIO(), width=200)
    console.print(render(status))
    return console.file.getvalue()


def owner(worker: str, host: str, pid: int = 11) -> str:
    return f"{worker}-{host}-{pid}-0123456789ab"


def test_a_chunk_with_scores_that_is_embedded_for_train_is_running(run: Run) -> None:
    first, second = (run.tasks[key] for key in run.keys[:2])
    for task in (first, second):
        (scores,) = (each.key for each in task.outputs if each != task.output)
        run.finish(scores)
    now = run.read()
    assert (now.running, now.done) == (0, 2)
    run.claim(first.key, owner("0", "gpu-1"))
    now = run.read()
    assert (now.running, now.done, now.pending) == (1, 1, len(run.keys) - 2)


def test_two_workers_on_two_hosts(run: Run) -> None:
    run.report("0", "gpu-1", owner("0", "gpu-1"))
    run.report("1", "gpu-11", owner("1", "gpu-11"))
    run.report("11", "gpu-1", owner("11", "gpu-1"))  # ends as the second one does
    run.claim(run.keys[0], owner("0", "gpu-1"))
    run.claim(run.keys[1], owner("11", "gpu-1"))
    run.finish(*run.keys[2:5])
    now = run.read()
    assert {w.worker: (w.host, w.working, w.state) for w in now.workers} == {
        "0": ("gpu-1", True, "working"),
        "1": ("gpu-11", False, "starting, waiting, or killed"),
        "11": ("gpu-1", True, "working"),
    }
    assert (now.running, now.done, now.failed, now.stalled) == (2, 3, 0, 0)
    assert now.pending == len(run.keys) - 5
    left = sum(run.tasks[key].entry.open_frames for key in run.keys if key not in run.keys[2:5])
    assert now.open_frames_left == left
    assert now.seconds_left == round(left / 20, 1)  # two workers, ten open frames a second each
    assert now.seconds_left_with_all == round(left / 10, 1)  # `workers` is 1
    assert {(w.computing, w.waiting) for w in now.workers} == {(0.833, 0.167)}
    table = drawn(now)
    assert all(word in table for word in ("gpu-11", "cuda:0", "10.0", "83%", "17%"))


def test_the_same_number_on_two_hosts(run: Run) -> None:
    """The later report replaced the other's; its claim still shows that it is at work."""
    run.report("0", "n2", owner("0", "n2"))
    run.claim(run.keys[0], owner("0", "n1", 5))
    run.claim(run.keys[1], owner("0", "n2"))
    found = [(w.worker, w.host, w.pid, w.working) for w in run.read().workers]
    assert found == [("0", "n2", 11, True), ("0-n1", "", 5, True)]


def test_claims_of_the_dead(run: Run) -> None:
    run.report("0", "n1", owner("0", "n1"))
    run.claim(run.keys[0], owner("0", "n1"), age=61)
    run.claim(run.keys[1], owner("1", "n2"), age=3600)
    run.claim(run.keys[2], owner("2", "n2"), age=59)
    (run.store.claims / f".{run.keys[3]}.{owner('3', 'n3')}-1").write_text("being made")
    now = run.read()
    assert (now.running, now.stalled, now.pending) == (1, 2, len(run.keys) - 1)
    assert [(w.worker, w.working) for w in now.workers] == [("0", False), ("2-n2", True)]
    assert now.seconds_left is None
    assert "2 claims without a heartbeat" in drawn(now)


def test_a_watcher_trusts_the_counter_more_than_the_clock(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server whose clock is wrong makes the living look dead, and the dead alive."""
    now = [1000.0]
    monkeypatch.setattr("virnuc_rules.queue.watched.time.monotonic", lambda: now[0])
    living, dead = run.keys[0], run.keys[1]
    watched = Watched(60)

    def at_work() -> dict[str, str | None]:
        claims = watched.all(run.store)
        return {
            key: seen.claim.owner if seen.claim and not seen.is_lost(60) else None
            for key, seen in claims.items()
        }

    run.claim(living, owner("0", "n1"), beats=1, age=3600)
    run.claim(dead, owner("1", "n2"), beats=1, age=-3600)
    assert at_work() == {living: None, dead: owner("1", "n2")}
    now[0] += 12
    run.claim(living, owner("0", "n1"), beats=2, age=3600)
    assert set(at_work().values()) == {owner("0", "n1"), owner("1", "n2")}
    for _ in range(2):
        now[0] += 25
        run.claim(living, owner("0", "n1"), beats=3, age=3600)
        at_work()
    assert at_work() == {living: owner("0", "n1"), dead: None}
    run.claim(dead, owner("2", "n3"), age=3600)  # taken over
    assert at_work()[dead] == owner("2", "n3")


def test_how_long_a_chunk_has_stood_still(run: Run) -> None:
    run.report("0", "n1", owner("0", "n1"))
    run.claim(run.keys[0], owner("0", "n1"), still=59)
    run.claim(run.keys[1], owner("1", "n2"), still=754)
    now = run.read()
    assert [(w.seconds_still, w.state) for w in now.workers] == [
        (59, "working"),
        (754, "working, no progress for 0:12:34"),
    ]
    name = run.tasks[run.keys[1]].name
    assert now.still == [f"{name} of {owner('1', 'n2')} for 0:12:34"]
    assert "no progress for 0:12:34" in drawn(now) and f"no progress: {name} of 1-n2" in drawn(now)


def test_odd_files_beside_reports(run: Run) -> None:
    run.report("0", "n1", owner("0", "n1"))
    good = (run.store.workers / "0.json").read_text()
    odd = {
        "half": good[: len(good) // 2],
        "other": "[1, 2]",
        "nan": good.replace('"seconds_computing":10.0', '"seconds_computing":NaN'),
        "text": "\x00\xff",
    }
    assert good not in odd.values()
    for name, text in odd.items():
        (run.store.workers / f"{name}.json").write_text(text)
    os.mkfifo(run.store.workers / "pipe.json")  # reading it would wait for ever
    (run.store.workers / "folder.json").mkdir()
    assert [worker.worker for worker in run.read().workers] == ["0"]


def test_failed_chunks_and_odd_texts(run: Run) -> None:
    run.fail(run.keys[0], "[bold]not markup[/bold] [/]")
    run.report("0", "[red]host", owner("0", "[red]host"), reason="a [/b] reason")
    now = run.read()
    assert (now.failed, now.pending) == (1, len(run.keys) - 1)
    table = drawn(now)
    assert "failed: lake/chunk_000000.parquet: [bold]not markup[/bold] [/] (log: w0.log)" in table
    assert "[red]host" in table and "a [/b] reason" in table


def test_a_failed_chunk_is_neither_stalled_nor_left(run: Run) -> None:
    """Its worker was killed between writing why it failed and releasing the claim."""
    run.fail(run.keys[0], "bad")
    run.claim(run.keys[0], owner("0", "n1"), age=3600)
    run.claim(run.keys[1], owner("0", "n1"), age=3600)
    now = run.read()
    assert (now.failed, now.stalled, now.running) == (1, 1, 0)
    assert now.pending == len(run.keys) - 1
    assert now.open_frames_left == sum(run.tasks[key].entry.open_frames for key in run.keys[1:])


def test_a_chunk_that_is_tried_again_is_running(run: Run) -> None:
    run.fail(run.keys[0], "bad")
    run.claim(run.keys[0], owner("0", "n1"))
    now = run.read()
    assert (now.failed, now.running) == (0, 1)


def test_samples_that_are_not_chunked(run: Run) -> None:
    (run.results / "chunks" / "gut" / "manifest.json").unlink()
    now = run.read()
    assert (now.samples, now.samples_not_chunked) == (2, 1)
    assert "1 of 2 samples are chunked, 0 have tables" in drawn(now)
    (run.results / "chunks" / "gut" / "manifest.json").write_text("{}")
    with pytest.raises(ChunkError, match="not a manifest"):
        run.read()


def test_watching_ends_when_all_is_done_and_only_reads(run: Run) -> None:
    run.fail(run.keys[0], "bad")
    run.claim(run.keys[1], owner("0", "n1"))
    console = Terminal(file=io.StringIO(), width=200)
    thread = threading.Thread(target=watch, args=(run.observer(), console, 0.01))
    before = sorted(run.results.rglob("*"))
    thread.start()
    run.report("0", "n1", owner("0", "n1"))
    run.finish(*run.keys[2:])
    thread.join(0.3)
    assert thread.is_alive()  # one is still running
    run.finish(run.keys[1])
    thread.join(60)
    assert not thread.is_alive()
    new = {path.name for path in set(run.results.rglob("*")) - set(before)}
    written = {f"{key}.safetensors" for key in run.keys[1:]} | {key[:2] for key in run.keys[1:]}
    assert new == written | {"0.json", "embeddings"}
    last = console.file.getvalue()
    assert f"{len(run.keys) - 1} " in last and "failed: lake" in last


def test_watching_a_real_worker(tmp_path: Path) -> None:
    project = Project(tmp_path, {"lake": DEMO["lake"]}, chunk_size=60)
    project.chunk()
    settings = {**project.settings, "samples": tmp_path / "samples.tsv", "results": project.results}
    console = Terminal(file=io.StringIO(), width=200)
    worker = project.serve(forked=True)
    watch(Observer(Config.of(**settings)), console, 0.05)
    assert worker.wait(timeout=300) == 0
    blocks = re.split(r"^ *chunks *$", console.file.getvalue(), flags=re.M)[1:]
    count, report, last = project.chunks(), project.report(), blocks[-1]
    for block in blocks:
        numbers = re.search(r"^│ +(\d+) │ +(\d+) │ +(\d+) │ +0 │", block, flags=re.M)
        assert numbers and sum(map(int, numbers.groups())) == count, block
    assert re.search(rf"│ +0 │ +0 │ +{count} │ +0 │ +0 │ +(-|0:00:00) │ +0:00:00 │", last), last
    assert report["host"] in last and "1 of 1 samples are chunked, 0 have tables" in last
    done = Observer(Config.of(**settings)).read()
    assert 0 < done.workers[0].computing < 1 and done.still == done.failures == []


def test_a_sample_that_cannot_be_used_has_no_tables(run: Run) -> None:
    before = run.observer().read()
    assert before.unusable == []
    sample, *_ = read_samples(run.config.inputs.samples)
    folder = RunFolder(run.results)
    for made in (folder.chunks(sample).made, folder.sample(sample).made):
        Product(made, made.with_name("done"), {}).finish(
            [], [], made.with_name("done"), problem="sample a: broken"
        )
    now = run.observer().read()
    assert now.unusable == ["sample a: broken"]
    assert now.samples_with_tables == before.samples_with_tables == 0
    console = Terminal(file=io.StringIO(), width=200)
    console.print(render(now))
    assert "cannot be used: sample a: broken" in console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_watching(run: Run, terminal: bool) -> None:
    """On a terminal the table is drawn in place; a pipe gets plain text."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    options = ("--samples", run.config.inputs.samples, "--results", run.results, "--bundle", BUNDLE)
    words = ["virnuc-rules", "status", "--watch", *map(str, options)]
    variables = {**environment(), "TERM": "xterm", "COLUMNS": "150"}
    # In the background of a shell it is ignored, also by what is started there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, stdout=theirs, stderr=subprocess.PIPE, env=variables)
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    printed = b""
    while b"samples are chunked" not in printed:
        printed += os.read(ours, 1 << 16)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # how Linux says that the other end of a terminal is closed
        while part := os.read(ours, 1 << 16):
            printed += part
    os.close(ours)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and b"Traceback" not in errors and b"Abort" not in errors
    assert (b"\x1b" in printed) == terminal
    if terminal:
        assert (
            printed.count(b"\x1b[?25l") == printed.count(b"\x1b[?25h") == 1
        )  # cursor hidden, shown
    assert b"2 of 2 samples are chunked, 0 have tables" in printed


def test_a_pipe_gets_a_block_for_each_look(run: Run) -> None:
    run.claim(run.keys[0], owner("0", "n1"))
    console = Terminal(file=io.StringIO(), width=200)
    thread = threading.Thread(target=watch, args=(run.observer(), console, 0.01))
    thread.start()
    wait_until(lambda: console.file.getvalue().count("2 of 2 samples are chunked") > 1)
    run.finish(*run.keys)
    thread.join(60)
    assert not thread.is_alive()
    *_, last = console.file.getvalue().split("chunks\n┏")
    assert f" {len(run.keys)} " in last


def test_the_verb_watches(run: Run, command: Callable[..., Any]) -> None:
    run.finish(*run.keys)
    options = ("--samples", run.config.inputs.samples, "--results", run.results, "--bundle", BUNDLE)
    done = command("status", "--watch", *options)
    assert done.returncode == 0, done.stderr
    assert f" {len(run.keys)} " in done.stdout
    assert len(done.stdout.splitlines()) > 5
    assert Path(run.results / "queue").is_dir()
