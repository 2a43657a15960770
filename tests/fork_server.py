"""A process that has imported everything, and forks each `virnuc-rules` and `snakemake`.

Tests start hundreds of commands, and a command imports torch, pyarrow or Snakemake for seconds
before it works for a tenth of one. A `ForkServer` has a folder with these two commands, to come
first on PATH. Each is a small client (fork_client.py), for which the server forks a real process:
with the client's arguments, environment, working folder and open files 0 to 2, in a session of its
own. It calls the `main` that the real script calls. The client passes signals on, and ends with
the exit code or signal of the process; if the client is killed, so is the process. For psutil the
client is the parent of the process, so that a worker finds its Snakemake.

What differs from a process of its own: modules are imported already, all processes of a server have
the same PYTHONHASHSEED, and resource limits, cgroup and process group are not the client's. Tests
of such things, of loading and of killing use the real scripts.
"""

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

Main = Callable[[], Any]
CLIENT = Path(__file__).with_name("fork_client.py")
LATE = (  # what others import when they run
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "pandas",  # pyarrow's
    "pyarrow.dataset",
    "smart_open",
    "snakemake.cli",  # before its parts, which import each other
    "snakemake.profiles",
    "snakemake.report.html_reporter",
    "snakemake.scheduling.milp",
    "snakemake.storage",
    "torch._inductor",  # when it is to be deterministic, as in `train`: 2.5 s
)


class ForkServer:
    """A fork server, which ends with this process. `folder` has the commands."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fork"))  # short: it has a socket
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.folder],
            env={**environment, "OMP_NUM_THREADS": "1"},  # no threads of OpenBLAS
            stdin=subprocess.PIPE,  # closed when this process ends
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout and self._process.stdout.readline() == b"ready\n"


class Server:
    """The loop of the server. In a process that it forked, `run` returns what to call there."""

    def __init__(self, folder: Path, mains: dict[str, Main]) -> None:
        self.folder, self.mains = folder, mains
        self.clients: dict[int, int] = {}  # ids: of a process, of its client
        show_clients_as_parents(self.clients)
        for name in mains:
            script = folder / name
            script.write_text(f"#!{sys.executable} -IS\n{CLIENT.read_text()}")
            script.chmod(0o755)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps messages apart
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(100)
        self.poll = selectors.DefaultSelector()
        self.poll.register(0, selectors.EVENT_READ, self.stop)
        self.poll.register(self.listener, selectors.EVENT_READ, self.accept)

    def run(self) -> Main:
        while True:
            key, _ = self.poll.select()[0]  # only one: it may close others
            if main := key.data():
                return main  # type: ignore[no-any-return]

    def stop(self) -> NoReturn:
        """End: the process of the tests has ended."""
        shutil.rmtree(self.folder)
        sys.exit()

    def accept(self) -> Main | None:
        """Fork a process for a client."""
        connection, _ = self.listener.accept()
        _, files, _, _ = socket.recv_fds(connection, 1, 3)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        client, _, _ = struct.unpack("3i", credentials)
        pid = os.fork()
        self.clients[pid or os.getpid()] = client
        if not pid:
            connection.close()
            return self.become(Path("/proc", str(client)), files)
        for file in files:
            os.close(file)
        process = FileIO(os.pidfd_open(pid))
        gone, ended = partial(self.gone, pid), partial(self.ended, pid, process)
        self.poll.register(connection, selectors.EVENT_READ, partial(gone, connection))
        self.poll.register(process, selectors.EVENT_READ, partial(ended, connection))
        tell(connection, pid)
        return None

    def become(self, client: Path, files: list[int]) -> Main:
        """Make this forked process what its client is."""
        for key in self.poll.get_map().values():
            if not isinstance(key.fileobj, int):
                key.fileobj.close()
        self.poll.close()
        os.setsid()
        os.chdir(client / "cwd")
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environb.clear()
        variables = (client / "environ").read_bytes().split(b"\0")[:-1]
        os.environb.update(variable.split(b"=", 1) for variable in variables)
        words = (client / "cmdline").read_bytes().split(b"\0")[:-1]
        sys.argv = [os.fsdecode(word) for word in words[2:]]  # without `python -IS`
        return self.mains[Path(sys.argv[0]).name]

    def gone(self, pid: int, connection: socket.socket) -> None:
        """Kill the process of a client that was killed."""
        self.poll.unregister(connection)
        os.kill(pid, signal.SIGKILL)  # a zombie at least: `ended` has not waited for it

    def ended(self, pid: int, process: FileIO, connection: socket.socket) -> None:
        """Tell a client how its process ended."""
        _, status = os.waitpid(pid, 0)
        tell(connection, os.waitstatus_to_exitcode(status))
        del self.clients[pid]
        for file in (process, connection):
            with contextlib.suppress(KeyError):
                self.poll.unregister(file)
            file.close()


def tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the client was killed
        connection.sendall(str(number).encode())


def show_clients_as_parents(clients: dict[int, int]) -> None:
    import psutil

    ppid = psutil.Process.ppid
    psutil.Process.ppid = lambda process: clients.get(process.pid) or ppid(process)


def import_library(late: Iterable[str]) -> Main:
    """Import all that `virnuc-rules` does, and modules that others import late; return its main."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pyarrow's: a thread
    import virnuc_rules
    from virnuc_rules.cli import main

    sys.argv = ["virnuc-rules", "--help"]
    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
        main.main()  # it sets variables that torch and pyarrow read when they are imported
    for module in pkgutil.walk_packages(virnuc_rules.__path__, "virnuc_rules."):
        importlib.import_module(module.name)
    for name in late:
        importlib.import_module(name)
    return main.main


def import_everything() -> dict[str, Main]:
    """Import as the commands do; return their functions."""
    main = import_library(LATE)
    import snakemake.cli

    assert "huggingface_hub" not in sys.modules, "it reads the environment when it is imported"
    return {"virnuc-rules": main, "snakemake": snakemake.cli.main}


def end(main: Main) -> NoReturn:
    """Call `main`, and end as Python does, but for tearing modules down: it copies shared pages."""
    if code := os.environ.get("VIRNUC_PATCH"):  # of a test: what goes wrong in this process
        exec(code, {})
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code
    if not isinstance(code, int | None):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    sys.path[0] = str(Path(sys.executable).parent)  # as that of a script
    server = Server(Path(sys.argv[1]), import_everything())
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a process with threads must not fork"
    gc.freeze()  # collections do not touch, and so copy, pages that are shared
    print("ready", flush=True)
    end(server.run())
