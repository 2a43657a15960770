"""A worker's report while it works: what it did, saved after every chunk."""

import contextlib
import os
import platform
import socket
import time
from datetime import UTC, datetime

import psutil

from virnuc_rules import __version__
from virnuc_rules.config.model import WorkerSettings
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.files.atomic import replacing, write_json
from virnuc_rules.queue.claims import Queue
from virnuc_rules.serving.metrics import prometheus_text
from virnuc_rules.serving.worker_report import Memory, WorkerReport

_PAUSE = 30.0  # seconds between two looks at the metrics


class Reporter:
    """Keeps the report of the worker of a queue; writes it unless `is_kept` is False."""

    def __init__(self, queue: Queue, settings: WorkerSettings, is_kept: bool) -> None:
        self._queue = queue
        self._path = queue.store.workers / f"{queue.worker}.json" if is_kept else None
        self._folder = RunFolder(settings.run.results)
        self._next_look, self._seen = 0.0, 0  # at the metrics; their time at the last look
        now = datetime.now(UTC)
        self.report = WorkerReport(
            worker=queue.worker,
            owner=queue.owner,
            pid=os.getpid(),
            host=socket.gethostname(),
            precision=settings.embedding.precision,
            versions={"virnuc_rules": __version__, "python": platform.python_version()},
            started=now,
            updated=now,
        )

    def save(self) -> None:
        """Write the report. Raises OSError."""
        self.report.updated = datetime.now(UTC)
        self.report.seconds_waiting = self._queue.seconds_waiting
        self.report.seconds_publishing = self._queue.seconds_publishing
        self.report.lost_workers = self._queue.lost_workers
        if self._path:
            write_json(self._path, self.report)
            with contextlib.suppress(OSError):  # no reason to end a worker
                self._save_metrics()

    def _save_metrics(self) -> None:
        """Replace `queue/metrics.prom` where nobody has done so since this worker last looked.

        So a thousand workers write it as often as one. The last worker writes it at its end.
        """
        path, store = self._folder.metrics, self._queue.store
        is_last = self.report.exit_reason and store.claimed() <= self._queue.held.keys()
        if time.monotonic() < self._next_look and not is_last:
            return
        self._next_look = time.monotonic() + _PAUSE
        if is_last or not path.exists() or path.stat().st_mtime_ns == self._seen:
            with replacing(path) as file:
                file.write(prometheus_text(self._folder.results, store.workers))
        self._seen = path.stat().st_mtime_ns

    def chunk_done(self) -> None:
        """Add a point to the memory series, and write the report. Raises OSError."""
        import torch

        on_device = torch.cuda.memory_reserved() / 1e6 if torch.cuda.is_available() else None
        resident = psutil.Process().memory_info().rss / 1e6
        self.report.add_memory(
            Memory(chunks=self.report.tried, resident=resident, device=on_device)
        )
        self.save()

    def finish(self, reason: str) -> str:
        """Write why the worker ends; return a note where that is not possible."""
        self.report.exit_reason = reason
        try:
            self.save()
        except OSError as error:
            where = error.filename or self._path
            return f"; the report cannot be written: {where}: {error.strerror or error}"
        return ""
