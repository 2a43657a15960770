"""A real Slurm of two nodes with one GPU each, on this machine, for the time of the tests.

munge, slurmctld and two slurmd run in the foreground as children of the tests, on free ports, with
everything they write in one folder. Two links lie outside it, /etc/slurm/slurm.conf and gres.conf:
Snakemake's job step drops SLURM_* variables, so its `srun` looks only there. A machine that has a
configuration of its own is left alone. A daemon that ends without being asked is started again, as
a service manager would do (Slurm 22.05's controller crashed once in CI), and named at the end.
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
NODES = ("gpu0", "gpu1")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

CONFIG = r"""
ClusterName=virnuc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=300
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={names} NodeAddr=127.0.0.1 NodeHostname={host} Port={ports} \
  CPUs=4 RealMemory=16000 Gres=gpu:1
PartitionName=cpu Nodes={names} Default=YES State=UP
PartitionName=gpu Nodes={names} State=UP
"""


def why_not() -> str | None:
    """Return why no cluster can be started here, None if one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if missing:
        return f"no Slurm here ({missing[0]} is missing): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    if (ETC / "slurm.conf").exists():
        return "/etc/slurm/slurm.conf is there: this machine has a Slurm of its own"
    return None


class Cluster:
    """Daemons that tests may stop and start; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.links = [ETC / "slurm.conf", ETC / "gres.conf"]
        self._lock = threading.Lock()  # held while daemons are started or stopped
        self._closed = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            self._start_munge()
            self.start("slurmctld")
            for node in NODES:
                self.start(node)
            self._supervisor.start()
            self.wait_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for name in reversed(list(self.daemons)):
            self.stop(name)
        self._kill_steps()
        for link in self.links:
            if link.is_symlink() and link.readlink().parent == self.folder:
                link.unlink()

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        port, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        config = CONFIG.format(
            host=host,
            port=port,
            ports=",".join(map(str, ports)),
            folder=self.folder,
            names=",".join(NODES),
        )
        (self.folder / "slurm.conf").write_text(config)
        # A job keeps the CUDA_VISIBLE_DEVICES of the tests: it sees no GPU of this machine.
        devices = [
            f"NodeName={node} Name=gpu Flags=no_gpu_env File={self._device(node)}" for node in NODES
        ]
        (self.folder / "gres.conf").write_text("\n".join(devices) + "\n")
        ETC.mkdir(exist_ok=True)
        for link in self.links:
            if link.exists():
                raise RuntimeError(f"{link} is there: another Slurm is at work")
            link.unlink(missing_ok=True)  # a dead one, of tests that were killed
            link.symlink_to(self.folder / link.name)

    def _device(self, node: str) -> Path:
        """Make a character device that looks like a GPU: /dev/null under another name."""
        device = self.folder / f"device.{node}"
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        return device

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{what}-file={self.folder}/munge.{what}" for what in ("log", "pid", "seed")]
        self._spawn(
            "munge", "munged", "--foreground", "--force", f"--key-file={key}", *files,
            f"--socket={self.folder}/munge.socket",
        )  # fmt: skip
        wait((self.folder / "munge.socket").exists)

    def start(self, name: str) -> None:
        """Start the controller or a node."""
        config = str(self.folder / "slurm.conf")
        if name == "slurmctld":
            self._spawn(name, "slurmctld", "-D", "-f", config)
            wait(lambda: b"UP" in self.ask("scontrol", "ping"))
        else:
            self._spawn(name, "slurmd", "-D", "-N", name, "-f", config)

    def _spawn(self, name: str, *command: str) -> None:
        with self._lock, (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, stdout=out, stderr=out, env={**os.environ, "PATH": _path()},
                cwd=self.folder,  # a crash of Slurm's leaves its memory there
            )  # fmt: skip

    def _supervise(self) -> None:
        """Start daemons again that ended by themselves: the controller crashes at times."""
        crashed = False
        while not self._closed.wait(0.5):
            if crashed:
                self._mend()
            with self._lock:
                ended = {name: d for name, d in self.daemons.items() if d.poll() is not None}
            for name, daemon in ended.items():
                out = (self.folder / f"{name}.out").read_text(errors="replace")
                last = "\n".join(out.splitlines()[-30:])
                warnings.warn(
                    f"{name} ended by itself ({daemon.returncode}), started again:\n{last}",
                    stacklevel=1,
                )
                self._spawn(name, *daemon.args)
                crashed |= name == "slurmctld"

    def _mend(self) -> None:
        """Let a controller that crashed use all nodes and jobs again: it finds them in disorder."""
        drained = self.ask("sinfo", "--Node", "--noheader", "--states=drain", "--format=%N")
        for node in set(drained.decode().split()):
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")
        for line in self.ask("squeue", "--noheader", "--format=%i %r").splitlines():
            if b"requeued held" in line:
                self.ask("scontrol", "release", line.split()[0].decode())

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop a daemon; with SIGKILL, as when its host dies."""
        with self._lock:
            daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def lose(self, node: str) -> None:
        """Let a node die as it stands: its daemon, its job steps and all they started."""
        self.stop(node, signal.SIGKILL)
        self._kill_steps(node)

    def _kill_steps(self, node: str = "") -> None:
        """Kill the job steps of a node: first their daemons, which report what is killed."""
        daemons, jobs = list[psutil.Process](), list[psutil.Process]()
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if not words or not words[0].startswith("slurmstepd"):
                continue
            with contextlib.suppress(psutil.Error):  # it has just ended by itself
                if self._ours(process, node):
                    jobs += process.children(recursive=True)
                    daemons.append(process)
        for process in [*daemons, *jobs]:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _ours(self, step: psutil.Process, node: str) -> bool:
        """Tell whether a slurmstepd is of this cluster, and of that node, by its open log."""
        wanted = f"{self.folder}/slurmd.{node}"
        return any(file.path.startswith(wanted) for file in step.open_files())

    def ask(self, *command: str) -> bytes:
        """Run a client and return what it prints."""
        return subprocess.run(command, capture_output=True, timeout=60, check=False).stdout

    def jobs(self) -> dict[str, str]:
        """Return the comment of each job that waits or runs: its rule and wildcards."""
        lines = self.ask("squeue", "-h", "-o", "%i %k").decode().splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def running(self, rule: str) -> dict[str, str]:
        """Return the nodes of the running jobs of a rule, by job id."""
        lines = self.ask("squeue", "-h", "-t", "R", "-o", "%i %N %k").decode().splitlines()
        found = (line.split(" ", 2) for line in lines)
        return {job: node for job, node, comment in found if rule in comment}

    def hurry(self, job: str) -> None:
        """Start a job that was requeued now, unless it runs already.

        Slurm may let it wait for two minutes. On a busy machine it may have begun before we look.
        """
        states = (b"PENDING", b"RUNNING")
        wait(lambda: self.ask("squeue", "-h", "-j", job, "-o", "%T").strip() in states)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait_idle(self) -> None:
        """Wait until both nodes are up and no job is left."""
        idle = b"idle\n" * len(NODES)
        wait(lambda: not self.jobs())
        wait(lambda: self.ask("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T") == idle)


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the cluster did not come to the state that was waited for")
        time.sleep(0.1)


def _path() -> str:
    return f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
