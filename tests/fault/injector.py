"""Faults for commands: the settings of injector.c, the faults that it had, and forked commands."""

import ctypes
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from fork_server import import_library

SOURCE = Path(__file__).with_suffix(".c")
LONGEST = 120.0  # seconds of a command; only a hang reaches it
LATE = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "pandas",
    "torch._inductor",  # when it is to be deterministic, as in `train`: 2.5 s
)


def compiled(folder: Path) -> Path:
    """Compile the library. Raises FileNotFoundError where there is no compiler."""
    library = folder / "injector.so"
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    subprocess.run([compiler, *options, "-o", library, SOURCE, "-ldl"], check=True, timeout=100)
    return library


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The settings of the library."""

    below: Path
    log: Path
    calls: str = ""
    probability: float = 0.0
    seed: int = 0
    errno: int = 0
    kill_at: int = 0

    def variables(self) -> dict[str, str]:
        return {f"FAULTS_{f.name.upper()}": str(getattr(self, f.name)) for f in fields(self)}


class Fault(NamedTuple):
    call: str
    number: int  # errno
    is_lost: bool  # only the reply
    path: str

    def __str__(self) -> str:
        reply = ", reply lost" if self.is_lost else ""
        return f"{self.call} {self.path}: {os.strerror(self.number)}{reply}"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    errors: str
    faults: list[Fault]


def import_everything() -> None:
    """Import what commands import, so that a forked one begins at once."""
    import_library(LATE)
    from virnuc_rules.files import environment
    from virnuc_rules.queue import waiting
    from virnuc_rules.serving import worker

    for waits in (environment, worker):  # pauses before another try
        waits._PAUSES = tuple(0.0 for _ in waits._PAUSES)
    waiting._PAUSE = 0.0
    gc.freeze()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads must not fork"


def command(folder: Path, words: Sequence[str], faults: Faults | None = None) -> Ended:
    """Fork `virnuc-rules` in a folder. This process was started with the library."""
    errors = folder.parent / "errors"
    if faults:
        faults.log.write_text("")
    pid = os.fork()
    if not pid:
        _become(folder, words, errors, faults)
    end, code = time.monotonic() + LONGEST, None
    while code is None:
        time.sleep(0.002)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > end:
            os.kill(pid, signal.SIGQUIT)
    lines = faults.log.read_text().splitlines() if faults else []
    parts = (line.split("\t", 3) for line in lines)
    injected = [Fault(call, int(number), lost == "1", path) for call, number, lost, path in parts]
    return Ended(code, errors.read_text(errors="replace"), injected)


def _become(folder: Path, words: Sequence[str], errors: Path, faults: Faults | None) -> None:
    """Be the command in this forked process, and end."""
    from virnuc_rules.cli.main import main

    code: object = 1
    try:
        os.chdir(folder)
        file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = ["virnuc-rules", *words]
        if faults:
            os.environ.update(faults.variables())
            ctypes.CDLL(None).faults_begin()
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
