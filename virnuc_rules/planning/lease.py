"""Two runs at once on one folder of results: safe with the same settings, refused with others.

A run keeps a file in `queue/runs` with its settings, and touches it. A second run with other
settings would make of the same files something else, while the first one reads them.
"""

import atexit
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ValidationError

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import write_json
from virnuc_rules.files.made import touch

_BEAT = 10.0  # seconds
_DEAD = 60.0  # seconds without a beat, by the clock of the filesystem


class _Run(BaseModel):
    host: str
    pid: int
    started: float  # of the process, by its machine's clock: another process may get its id
    settings: dict[str, Any]


class Lease:
    """The right to work on a folder of results with some settings."""

    def __init__(self, config: Config) -> None:
        self._folder = RunFolder(config.run.results).runs
        self._results = config.run.results
        process, host = psutil.Process(), socket.gethostname()
        settings = {key: str(value) for key, value in config.flat().items() if key != "results"}
        self._run = _Run(
            host=host, pid=process.pid, started=process.create_time(), settings=settings
        )
        self._path = self._folder / f"{host}.{process.pid}.json"
        self._is_held = False

    def take(self) -> None:
        """Keep the lease until the process ends. Raises VirnucError as `check` does."""
        if self._is_held:
            return
        write_json(self._path, self._run)
        try:
            self.check()
        except VirnucError:
            self.give_up()
            raise
        self._is_held = True
        atexit.register(self.give_up)
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def check(self) -> None:
        """Raise VirnucError where another run is at work with other settings."""
        for path, run in self._others():
            mine, theirs = self._run.settings, run.settings
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    raise VirnucError(
                        f"{self._results}: another run (process {run.pid} on {run.host}) is at "
                        f"work here with `{key}: {theirs.get(key)}`, not {mine.get(key)}; wait for "
                        f"its end, or set other `results` (is it gone? delete {path})"
                    )

    def give_up(self) -> None:
        """Remove the file."""
        self._is_held = False
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while self._is_held:
            time.sleep(_BEAT)
            if self._is_held:
                try:
                    os.utime(self._path)
                except OSError:  # the folder was deleted, or is away for a while
                    continue

    def _others(self) -> Iterator[tuple[Path, _Run]]:
        """Yield the runs that are alive; remove the files of dead ones of this host."""
        for path in self._folder.glob("*.json") if self._folder.is_dir() else ():
            try:
                run, beat = _Run.model_validate_json(path.read_bytes()), path.stat().st_mtime
            except (OSError, ValidationError):
                continue
            is_here = run.host == self._run.host
            if path == self._path:
                continue
            if _is_running(run) if is_here else self._now() - beat < _DEAD:
                yield path, run
            elif is_here:
                path.unlink(missing_ok=True)

    def _now(self) -> float:
        """Return the time of the filesystem, which may have another clock."""
        probe = self._path.with_suffix(".now")
        touch(probe)
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
        return now


def _is_running(run: _Run) -> bool:
    try:
        return abs(psutil.Process(run.pid).create_time() - run.started) < 1
    except psutil.NoSuchProcess:
        return False
