"""A GlusterFS of a test's own: a server in a network namespace, and mounts as of several hosts.

Its daemons have namespaces, folders and sockets of their own, so that other GlusterFS on this
machine stay as they are. Namespaces are entered by `nsenter`: `ip netns exec` would make mounts
that nobody else sees.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness import wait_until

PROGRAMS = ("glusterd", "glusterfsd", "glusterfs", "gluster", "ip", "nsenter", "umount")
SERVER, CLIENT, ROUTER = "10.77.0.1", "10.77.1.2", "10.77.1.1"
VOLUME = "v"
PING_TIMEOUT = 4  # seconds until a client that hears nothing gives up; the default is 42
SETTINGS = """
volume management
    type mgmt/glusterd
    option working-directory {folder}/state
    option run-directory {folder}/run
    option glusterd-sockfile {folder}/run/glusterd.socket
    option transport-type socket
    option transport.socket.listen-port 24007
    option ping-timeout 0
end-volume
"""


class Unavailable(Exception):
    """GlusterFS cannot be used here; the message says why."""


class Gluster:
    """One server with one brick, a mount beside it, and hosts that are cut off on demand.

    A context manager: at its end nothing of it is left, whatever happened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, f"virnuc{os.getpid()}s"
        self.namespaces: list[str] = []
        self.mounts: list[Path] = []

    def __enter__(self) -> "Gluster":
        missing = [program for program in PROGRAMS if not shutil.which(program)]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")
        if os.geteuid():
            raise Unavailable("mounting needs root")
        try:
            self._start()
        except (subprocess.SubprocessError, OSError) as error:
            self.close()
            said = getattr(error, "stderr", "") or getattr(error, "stdout", "") or ""
            raise Unavailable(f"GlusterFS cannot be set up here: {error} {said}".strip()) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        for name in ("brick", "state", "run", "logs"):
            (self.folder / name).mkdir()
        self._add_namespace(self.server)
        run("ip", "-n", self.server, "address", "add", f"{SERVER}/32", "dev", "lo")
        settings = self.folder / "glusterd.vol"
        settings.write_text(SETTINGS.format(folder=self.folder))
        log = self.folder / "logs/glusterd.log"
        self._inside("glusterd", "--volfile", settings, "--log-file", log,
                     "--pid-file", self.folder / "run/glusterd.pid")  # fmt: skip
        brick = f"{SERVER}:{self.folder}/brick"
        self._until(lambda: self.gluster("create", VOLUME, "transport", "tcp", brick, "force"))
        self.gluster("set", VOLUME, "network.ping-timeout", str(PING_TIMEOUT))
        self.gluster("start", VOLUME)

    @staticmethod
    def _until(call: Callable[[], object], seconds: float = 30) -> None:
        """Call until it does not fail: a daemon takes a moment to answer."""
        end = time.monotonic() + seconds
        while True:
            try:
                call()
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def _add_namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _inside(self, *command: object, namespace: str = "") -> None:
        run("nsenter", f"--net=/var/run/netns/{namespace or self.server}", *command)

    def gluster(self, *words: str) -> None:
        socket = f"--glusterd-sock={self.folder}/run/glusterd.socket"
        log = f"--log-file={self.folder}/logs/cli.log"
        self._inside("gluster", "--mode=script", socket, log, "volume", *words)

    def mount(self, name: str, namespace: str = "") -> Path:
        """Mount the volume as a host of that name does; return the folder."""
        path = self.folder / name
        path.mkdir()
        self._inside(
            "glusterfs", f"--volfile-server={SERVER}", f"--volfile-id=/{VOLUME}",
            "--log-file", self.folder / f"logs/{name}.log", path, namespace=namespace,
        )  # fmt: skip
        self.mounts.append(path)
        try:
            wait_until(path.is_mount, 30)
        except TimeoutError:
            log = (self.folder / f"logs/{name}.log").read_text().strip().splitlines()[-3:]
            raise OSError(f"the volume cannot be mounted: {' '.join(log)}") from None
        return path

    def mount_apart(self, name: str) -> Path:
        """Mount the volume on a host with a network of its own; see `cut` and `mend`."""
        self.apart = f"virnuc{os.getpid()}c"
        self._add_namespace(self.apart)
        run("ip", "link", "add", "name", "virnuc0", "netns", self.server,
            "type", "veth", "peer", "name", "virnuc1", "netns", self.apart)  # fmt: skip
        run("ip", "-n", self.server, "address", "add", f"{ROUTER}/24", "dev", "virnuc0")
        run("ip", "-n", self.server, "link", "set", "virnuc0", "up")
        run("ip", "-n", self.apart, "address", "add", f"{CLIENT}/24", "dev", "virnuc1")
        self.mend()
        return self.mount(name, self.apart)

    def cut(self) -> None:
        """Take the link of the host apart down."""
        run("ip", "-n", self.apart, "link", "set", "virnuc1", "down")

    def mend(self) -> None:
        """Set the link up; taking it down has removed the route."""
        run("ip", "-n", self.apart, "link", "set", "virnuc1", "up")
        run("ip", "-n", self.apart, "route", "replace", f"{SERVER}/32", "via", ROUTER)

    def kill_server(self) -> None:
        """Kill the daemon that has the files."""
        bricks = [pid for pid in self.processes() if is_called(pid, "glusterfsd")]
        assert bricks
        for pid in bricks:
            os.kill(pid, signal.SIGKILL)

    def start_server(self) -> None:
        self.gluster("start", VOLUME, "force")

    def processes(self) -> list[int]:
        """Ids of all processes in our namespaces: they are ours."""
        found = [run("ip", "netns", "pids", name).split() for name in self.namespaces]
        return [int(pid) for pids in found for pid in pids]

    def close(self) -> None:
        """Unmount, end what was started, remove the namespaces."""
        for path in self.mounts:
            subprocess.run(["umount", "--lazy", path], check=False, capture_output=True, timeout=60)
        with contextlib.suppress(subprocess.SubprocessError):
            while processes := self.processes():
                for pid in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        for name in self.namespaces:
            command = ["ip", "netns", "delete", name]
            subprocess.run(command, check=False, capture_output=True, timeout=60)
        self.mounts, self.namespaces = [], []


def run(*command: object) -> str:
    words = list(map(str, command))
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def is_called(pid: int, name: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return Path(os.fsdecode(words[0])).name == name
