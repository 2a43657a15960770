"""Numbers on workers for a monitoring system: in `queue/metrics.prom` and in `status --json`.

The file is in Prometheus' text format, for the textfile collector of its node exporter. A counter
begins at 0 with each process of a worker, as Prometheus expects: `rate` and `increase` see it.
"""

import os
from collections.abc import Callable
from pathlib import Path

from virnuc_rules.serving.worker_report import WorkerReport, read_reports

# What ends with `_total` is a counter, the others are gauges.
_METRICS: dict[str, tuple[str, Callable[[WorkerReport], float]]] = {
    "chunks_total": ("chunks published", lambda r: r.chunks),
    "failed_chunks_total": ("chunks that failed in their last attempt", lambda r: r.failed_chunks),
    "retried_chunks_total": ("chunks begun that another attempt had", lambda r: r.retried_chunks),
    "lost_workers_total": ("claims taken over from lost workers", lambda r: r.lost_workers),
    "open_frames_total": ("open frames published", lambda r: r.open_frames),
    "tokens_total": ("tokens published, of both networks, no padding", lambda r: r.tokens),
    "padding_tokens_total": ("tokens that only filled micro-batches up", lambda r: r.padding),
    "computing_seconds_total": ("time in chunks", lambda r: r.seconds_computing),
    "waiting_seconds_total": ("time without a chunk", lambda r: r.seconds_waiting),
    "publishing_seconds_total": ("time of writing results", lambda r: r.seconds_publishing),
    "loading_seconds_total": ("time of loading", lambda r: sum(r.load_seconds.values())),
    "loads_total": ("networks loaded", lambda r: sum(r.load_count.values())),
    "resident_memory_bytes": (
        "memory after the last chunk",
        lambda r: sum(1e6 * point.resident for point in r.memory[-1:]),
    ),
    "device_memory_bytes": (
        "memory of a GPU that torch held after the last chunk",
        lambda r: sum(1e6 * (point.device or 0) for point in r.memory[-1:]),
    ),
    "start_time_seconds": ("when the process began, Unix time", lambda r: r.started.timestamp()),
    "report_time_seconds": ("when it last wrote, Unix time", lambda r: r.updated.timestamp()),
    "ended": ("1 where it has said why it ended", lambda r: int(r.exit_reason is not None)),
}


def numbers(report: WorkerReport) -> dict[str, float]:
    """Return the numbers of a worker by name."""
    return {f"virnuc_worker_{name}": value(report) for name, (_, value) in _METRICS.items()}


def prometheus_text(results: Path, folder: Path) -> str:
    """Return the numbers of all workers with a report in `folder`, by run, worker and host."""
    run, lines = os.fsencode(results.absolute()).decode(errors="replace"), list[str]()
    workers = {  # of two reports with the same labels only one may be there
        _labels(results=run, worker=r.worker, host=r.host): numbers(r) for r in read_reports(folder)
    }
    for short, (text, _) in _METRICS.items():
        name, kind = f"virnuc_worker_{short}", "counter" if short.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{{{labels}}} {found[name]}" for labels, found in workers.items()]
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels.items())
