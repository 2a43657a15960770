"""What a run is doing, read from its files: nothing is asked of the workers."""

import time

from pydantic import BaseModel, ValidationError
from rich.console import Group
from rich.table import Table

from virnuc_rules.config import Config, read_samples
from virnuc_rules.store import Store, listing
from virnuc_rules.tasks import all_tasks, chunk_folder, read_settings
from virnuc_rules.worker_report import WorkerReport


class WorkerStatus(BaseModel):
    """One worker: what it has done, and whether it is at work."""

    worker: str
    host: str
    pid: int
    device: str
    working: bool  # it holds a claim with a fresh heartbeat
    chunks: int
    open_frames: int
    open_frames_per_second: float
    state: str


class Status(BaseModel):
    """Chunks by state, of the samples that are chunked; and the workers."""

    samples: int
    samples_not_chunked: int
    pending: int
    running: int
    done: int
    failed: int
    stalled: int  # claimed, but the heartbeat has stopped; counted as pending too
    open_frames_left: int
    seconds_left: float | None  # None where no worker is at work
    failures: list[str]
    workers: list[WorkerStatus]


def read_status(config: Config) -> Status:
    """Read the state of a run. Raises VirnucError for a wrong sample sheet or bundle."""
    samples = list(read_samples(config.samples))
    ready = [s for s in samples if (chunk_folder(config.results, s) / "manifest.json").exists()]
    tasks = all_tasks(config.results, ready, *read_settings(config))
    store = Store(config.results)
    done = store.done(tasks)
    beats = _heartbeats(store, config.lease_seconds)
    running = {key for key in tasks if beats.get(key) and key not in done}
    stalled = {key for key in tasks if beats.get(key) is None and key in beats and key not in done}
    failures = store.failed(task for task in tasks if task not in done and task not in running)
    failed = set(failures)
    at_work = {owner for owner in beats.values() if owner}
    workers = [_worker(report, at_work) for report in _reports(store)]
    left = sum(task.entry.open_frames for key, task in tasks.items() if key not in done | failed)
    rate = sum(worker.open_frames_per_second for worker in workers if worker.working)
    return Status(
        samples=len(samples),
        samples_not_chunked=len(samples) - len(ready),
        pending=len(tasks) - len(done) - len(running) - len(failed),
        running=len(running),
        done=len(done),
        failed=len(failed),
        stalled=len(stalled - failed),
        open_frames_left=left,
        seconds_left=round(left / rate, 1) if rate else None,
        failures=[f"{f.task}: {f.error} (log: {f.log})" for f in failures.values()],
        workers=workers,
    )


def _heartbeats(store: Store, lease_seconds: float) -> dict[str, str | None]:
    """Return the claimed keys with their owner; None where the heartbeat has stopped.

    For display only: it compares a file's time with our clock, as a claim's owner never is judged.
    """
    beats: dict[str, str | None] = {}
    for name in listing(store.claims):
        path = store.claims / name
        try:
            age, content = time.time() - path.stat().st_mtime, path.read_text()
        except OSError:
            continue  # released meanwhile
        if not name.startswith("."):
            beats[name] = content.split(" ")[0] if age < lease_seconds else None
    return beats


def _reports(store: Store) -> list[WorkerReport]:
    reports = []
    for path in sorted(store.workers.glob("*.json")):
        try:
            reports.append(WorkerReport.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue  # of another version
    return reports


def _worker(report: WorkerReport, at_work: set[str]) -> WorkerStatus:
    working = any(report.owner in owner for owner in at_work)
    seconds = report.seconds_computing + report.seconds_waiting
    return WorkerStatus(
        worker=report.worker,
        host=report.host,
        pid=report.pid,
        device=report.device,
        working=working,
        chunks=report.chunks,
        open_frames=report.open_frames,
        open_frames_per_second=round(report.open_frames / seconds, 2) if seconds else 0.0,
        state=report.exit_reason or ("working" if working else "starting, waiting, or killed"),
    )


def render(status: Status) -> Group:
    """Lay a status out for a terminal."""
    chunks = Table(title="chunks")
    for name in ("pending", "running", "done", "failed"):
        chunks.add_column(name, justify="right")
    chunks.add_column("open frames left", justify="right")
    chunks.add_column("time left", justify="right")
    counts = (status.pending, status.running, status.done, status.failed, status.open_frames_left)
    chunks.add_row(*(f"{count:,}" for count in counts), _duration(status.seconds_left))
    workers = Table(title="workers")
    for name in ("worker", "host", "device", "chunks", "open frames/s", "state"):
        workers.add_column(name)
    for w in status.workers:
        rate = f"{w.open_frames_per_second:,.1f}"
        workers.add_row(w.worker, w.host, w.device, f"{w.chunks:,}", rate, w.state)
    notes = []
    if status.samples_not_chunked:
        notes.append(
            f"{status.samples_not_chunked} of {status.samples} samples are not chunked yet"
        )
    if status.stalled:
        notes.append(f"{status.stalled} claims without a heartbeat: their workers are gone")
    notes += [f"failed: {line}" for line in status.failures]
    return Group(chunks, workers, *notes)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
