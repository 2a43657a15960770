"""Two runs at once on one folder of results: safe with the same settings, refused with others.

A run keeps a file in `queue/runs` with its settings, and touches it. A second run with other
settings would make of the same files something else, while the first one reads them. Whether a run
is alive, only these beats say: containers share host names and process ids.
"""

import atexit
import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError

logger = logging.getLogger(__name__)

_BEAT = 1.0  # seconds
_DEAD = 15.0  # seconds without a beat, by the clock of the one who waits for it


class _Run(BaseModel):
    host: str  # as the process id, for messages
    pid: int
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"another run (process {self.pid} on {self.host})"


class Lease:
    """The right to work on a folder of results with some settings."""

    def __init__(self, config: Config) -> None:
        self._folder = RunFolder(config.run.results).runs
        self._results = config.run.results
        settings = {key: str(value) for key, value in config.flat().items() if key != "results"}
        self._run = _Run(host=socket.gethostname(), pid=os.getpid(), settings=settings)
        self._path = self._folder / f"{uuid.uuid4().hex}.json"
        self._is_held = False

    def take(self) -> None:
        """Keep the lease until the process ends. Raises VirnucError as `check` does."""
        if self._is_held:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # Before the look at others: of two runs that begin at once, one sees the other's at least.
        self._path.write_text(self._run.model_dump_json(indent=1) + "\n")
        self._is_held = True
        atexit.register(self.give_up)
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        try:
            self.check()
        except VirnucError:
            self.give_up()
            raise

    def check(self) -> None:
        """Raise VirnucError where another run is at work with other settings.

        It is at work if it beats; one that was killed is forgotten after `_DEAD` seconds of it.
        """
        watched: dict[Path, tuple[int, float]] = {}  # first beat, and when we saw it
        while True:
            now = time.monotonic()  # before the beats: a pause of ours is not one of theirs
            others = self._others()
            for path, (run, beat, difference) in others.items():
                if path not in watched:
                    logger.warning("%s: is %s still at work?", self._results, run)
                before, since = watched.setdefault(path, (beat, now))
                if beat != before:
                    raise VirnucError(
                        f"{self._results}: {run} is at work here with {difference}; wait for its "
                        "end, or set other `results`"
                    )
                if now - since > _DEAD:
                    path.unlink(missing_ok=True)
            if not others:
                return
            time.sleep(_BEAT / 4)

    def give_up(self) -> None:
        """Remove the file."""
        self._is_held = False
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while self._is_held:
            # It fails where the folder was deleted, or is away for a while.
            with contextlib.suppress(OSError):
                os.utime(self._path)
            time.sleep(_BEAT)

    def _others(self) -> dict[Path, tuple[_Run, int, str]]:
        """Return runs with other settings: the last beat (ns), and the first that differs."""
        others = {}
        for path in self._folder.glob("*.json"):
            try:
                with path.open("rb") as file:  # opened: NFS then asks the server for the time
                    beat = os.fstat(file.fileno()).st_mtime_ns
                    run = _Run.model_validate_json(file.read())
            except (FileNotFoundError, PermissionError, ValidationError):
                continue
            own, other = self._run.settings, run.settings
            for key in sorted(own.keys() | other.keys()):
                if own.get(key) != other.get(key):
                    difference = f"`{key}: {other.get(key)}`, not {own.get(key)}"
                    others[path] = run, beat, difference
                    break
        return others
