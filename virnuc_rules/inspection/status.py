"""What a run is doing, read from its files: nothing is asked of the workers."""

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial

from pydantic import BaseModel
from rich.console import Group
from rich.live import Live
from rich.table import Table

from virnuc_rules.config.model import Config
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import ChunkError, VirnucError
from virnuc_rules.files.made import read_made
from virnuc_rules.planning.lacking import with_results
from virnuc_rules.queue.claim_text import ClaimText, name_and_pid
from virnuc_rules.queue.store import Store
from virnuc_rules.queue.watched import Watched
from virnuc_rules.serving.metrics import numbers
from virnuc_rules.serving.worker_report import WorkerReport, read_reports
from virnuc_rules.terminal import Terminal

_WORKER_COLUMNS = (
    "worker", "host", "device", "chunks", "open frames/s", "computing", "waiting", "state",
)  # fmt: skip
_LONG = 60  # seconds without a step that are worth a word


class WorkerStatus(BaseModel):
    """One worker: what it has done, and whether it is at work."""

    worker: str
    host: str
    pid: int
    device: str
    working: bool  # it holds a claim with a fresh heartbeat
    seconds_still: int | None  # since the last step of its work; None: it is not at work
    chunks: int
    open_frames: int
    open_frames_per_second: float
    computing: float  # fraction of its time, until its last report; the rest is loading
    waiting: float
    metrics: dict[str, float] = {}  # as in `queue/metrics.prom`; empty without a report
    state: str


class Status(BaseModel):
    """Chunks by state, of the samples that are chunked; and the workers."""

    samples: int
    samples_not_chunked: int
    samples_with_tables: int
    unusable: list[str]  # why the files of samples cannot be used
    pending: int
    running: int
    done: int
    failed: int
    stalled: int  # claimed, but the heartbeat has stopped; counted as pending too
    open_frames_left: int
    seconds_left: float | None  # None where no worker is at work
    seconds_left_with_all: float | None  # with `workers` as fast as those seen so far
    still: list[str]  # chunks without progress for a minute, and their workers
    failures: list[str]
    workers: list[WorkerStatus]


class Observer:
    """Looks at a run, once or again and again."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.watched = Watched(config.serving.lease_seconds)

    def read(self) -> Status:
        """Read the state of the run.

        Raises VirnucError where there is none, and for a wrong sample sheet or bundle.
        """
        run = self.config.run
        if not run.results.is_dir():
            raise VirnucError(
                f"{run.results}: no such folder: nothing has been run there; name one with "
                "--results, or the settings of the run with --configfile"
            )
        samples = read_samples(self.config.inputs.samples)
        every, store = Tasks.of(run, self.config.embedding), Store(run.results)
        tasks, chunked = _tasks(every, samples)
        claims, lease = self.watched.all(store), self.watched.lease_seconds
        fresh = {key: seen for key, seen in claims.items() if not seen.is_lost(lease)}
        at_work = {key: seen.claim for key, seen in fresh.items() if seen.claim}
        # After the claims: what is released is done. `train` embeds also what has scores.
        done = with_results(tasks.values(), store) - (at_work.keys() - store.done(at_work))
        running = {key for key in tasks if key in at_work and key not in done}
        stalled = {k for k in tasks if k in claims and k not in at_work and k not in done}
        failures = store.failed(task for task in tasks if task not in done and task not in running)
        still: dict[str, int] = {}  # seconds, by owner
        for claim in at_work.values():
            still[claim.owner] = max(claim.still, still.get(claim.owner, 0))
        workers = _workers(read_reports(store.workers), still)
        ended = done | set(failures)
        left = sum(task.entry.open_frames for key, task in tasks.items() if key not in ended)
        working = [w.open_frames_per_second for w in workers if w.working]
        known = [w.open_frames_per_second for w in workers if w.open_frames_per_second]
        of_all = self.config.workflow.workers * sum(known) / max(1, len(known))
        made = {name: read_made(every.folder.chunks(name).made) for name in samples}
        problems = {name: each.problem for name, each in made.items() if each and each.problem}
        return Status(
            samples=len(samples),
            samples_not_chunked=len(samples) - chunked,
            samples_with_tables=sum(
                every.folder.sample(name).done.exists() and name not in problems for name in samples
            ),
            unusable=list(problems.values()),
            pending=len(tasks) - len(done) - len(running) - len(failures),
            running=len(running),
            done=len(done),
            failed=len(failures),
            stalled=len(stalled - set(failures)),
            open_frames_left=left,
            seconds_left=_seconds(left, sum(working)),
            seconds_left_with_all=_seconds(left, of_all),
            still=_still({tasks[key].name: at_work[key] for key in sorted(running)}),
            failures=[f"{f.task}: {f.error} (log: {f.log})" for f in failures.values()],
            workers=workers,
        )


def _seconds(open_frames: int, rate: float) -> float | None:
    return round(open_frames / rate, 1) if rate else None


def _still(running: dict[str, ClaimText]) -> list[str]:
    """Say which chunks, by name, have made no step for long."""
    long = {name: claim for name, claim in running.items() if claim.still >= _LONG}
    return [f"{name} of {c.owner} for {_duration(c.still)}" for name, c in long.items()]


def _tasks(every: Tasks, samples: Iterable[str]) -> tuple[dict[str, Task], int]:
    """Return the tasks of the samples that are chunked, and the number of these samples."""
    tasks: dict[str, Task] = {}
    chunked = 0
    for sample in samples:
        try:
            tasks |= every.of_samples([sample])
            chunked += 1
        except ChunkError:
            if every.folder.chunks(sample).manifest.exists():
                raise  # it is there but damaged
    return tasks, chunked


def _workers(reports: list[WorkerReport], still: dict[str, int]) -> list[WorkerStatus]:
    """Join reports with the owners of fresh claims; jobs for single chunks have no report.

    still: seconds since the last step of each worker that holds a fresh claim.
    """
    known = {report.owner for report in reports}
    workers = [_worker(report, still.get(report.owner)) for report in reports]
    for owner in sorted(still.keys() - known):
        name, pid = name_and_pid(owner)
        workers.append(
            WorkerStatus(
                worker=name, host="", pid=pid, device="", working=True, chunks=0,
                open_frames=0, open_frames_per_second=0.0, computing=0.0, waiting=0.0,
                seconds_still=still[owner], state=_at_work(still[owner]),
            )
        )  # fmt: skip
    return workers


def _at_work(still: int) -> str:
    return f"working, no progress for {_duration(still)}" if still >= _LONG else "working"


def _worker(report: WorkerReport, still: int | None) -> WorkerStatus:
    idle = "starting, waiting, or killed"
    seconds = report.seconds_computing + report.seconds_waiting
    lived = max(seconds, (report.updated - report.started).total_seconds()) or 1.0
    return WorkerStatus(
        worker=report.worker,
        host=report.host,
        pid=report.pid,
        device=report.device,
        working=still is not None,
        seconds_still=still,
        chunks=report.chunks,
        open_frames=report.open_frames,
        open_frames_per_second=round(report.open_frames / seconds, 2) if seconds else 0.0,
        computing=round(report.seconds_computing / lived, 3),
        waiting=round(report.seconds_waiting / lived, 3),
        metrics=numbers(report),
        state=report.exit_reason or (idle if still is None else _at_work(still)),
    )


def watch(observer: Observer, console: Terminal, pause: float | None = None) -> None:
    """Show the status until all is done or Ctrl-C; nothing is written.

    On a terminal in place, elsewhere in blocks, one below the other. pause: seconds between looks;
    None: 2 on a terminal, else 30.
    """
    pause = pause or (2.0 if console.is_terminal else 30.0)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        show: Callable[[Group], None] = console.print
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False))
            show = partial(live.update, refresh=True)
        while True:
            now = observer.read()
            show(render(now))
            if not (now.pending or now.running or now.samples_not_chunked):
                break
            time.sleep(pause)


def render(status: Status) -> Group:
    """Lay a status out for a `Terminal`."""
    chunks = Table(title="chunks")
    for name in ("pending", "running", "done", "failed"):
        chunks.add_column(name, justify="right")
    chunks.add_column("open frames left", justify="right")
    chunks.add_column("time left", justify="right")
    chunks.add_column("with all workers", justify="right")
    counts = (status.pending, status.running, status.done, status.failed, status.open_frames_left)
    left = (_duration(status.seconds_left), _duration(status.seconds_left_with_all))
    chunks.add_row(*(f"{count:,}" for count in counts), *left)
    workers = Table(title="workers")
    for name in _WORKER_COLUMNS:
        workers.add_column(name)
    for w in status.workers:
        rate, parts = f"{w.open_frames_per_second:,.1f}", (f"{w.computing:.0%}", f"{w.waiting:.0%}")
        cells = (w.worker, w.host, w.device, f"{w.chunks:,}", rate, *parts, w.state)
        workers.add_row(*cells)
    ready = status.samples - status.samples_not_chunked
    notes = [
        f"{time.strftime('%H:%M:%S')}: {ready:,} of {status.samples:,} samples are chunked, "
        f"{status.samples_with_tables:,} have tables"
    ]
    if status.stalled:
        notes.append(f"{status.stalled} claims without a heartbeat: their workers are gone")
    notes += [f"cannot be used: {line}" for line in status.unusable]
    notes += [f"no progress: {line}" for line in status.still]
    notes += [f"failed: {line}" for line in status.failures]
    return Group(chunks, workers, *notes)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
