"""A worker's report while it works: what it did, saved after every chunk."""

import os
import platform
import socket
from datetime import UTC, datetime

import psutil

from virnuc_rules import __version__
from virnuc_rules.config.model import WorkerSettings
from virnuc_rules.files.atomic import write_json
from virnuc_rules.queue.claims import Queue
from virnuc_rules.serving.worker_report import Memory, WorkerReport


class Reporter:
    """Keeps the report of the worker of a queue; writes it unless `is_kept` is False."""

    def __init__(self, queue: Queue, settings: WorkerSettings, is_kept: bool) -> None:
        self._queue = queue
        self._path = queue.store.workers / f"{queue.worker}.json" if is_kept else None
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
        if self._path:
            write_json(self._path, self.report)

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
