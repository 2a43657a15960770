"""Running the real workflow and the real command line in a folder of a test's own."""

import contextlib
import csv
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fork_server import ForkServer

from virnuc_rules.config.run_folder import RunFolder

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEMO = {name: REPO / "demo" / "data" / f"{name}.fa.gz" for name in ("lake", "gut")}
BUNDLE = REPO / "tests" / "data" / "bundle"  # random weights
Environment = dict[str, str]
# A regular file that can be opened, of which each read fails with EIO, also for root.
UNREADABLE = Path("/proc/self/mem")


class Project:
    """A folder with a sample sheet and a config; `run` is what a user types."""

    said = ""  # by the run that a fixture has made
    forked = True  # whether `run` uses the fork server
    shown = ("--quiet", "rules", "host")  # in place of the profile's: `jobs` reads the table

    def __init__(self, folder: Path, samples: dict[str, Path] = DEMO, **settings: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.results = folder / "results"
        self.paths = RunFolder(self.results)
        self.settings: dict[str, Any] = {
            "samples": "samples.tsv",
            "bundle": str(BUNDLE),
            "chunk_size": 40,
            "threads": 1,
            "lease_seconds": 2,
            **settings,
        }
        self.set_samples(samples)

    def set_samples(self, samples: dict[str, Path]) -> None:
        self.samples = samples
        rows = "".join(f"{name}\t{path}\n" for name, path in samples.items())
        (self.folder / "samples.tsv").write_text("sample\tpath\n" + rows)

    def command(self, *arguments: str) -> list[str]:
        config = self.folder / "config.yaml"
        config.write_text(json.dumps(self.settings))  # JSON is YAML
        return [
            "snakemake", *self.shown, "--snakefile", str(REPO / "workflow" / "Snakefile"),
            "--profile", str(REPO / "profiles" / "local"), "--configfile", str(config),
            "--cores", "2", *arguments,
        ]  # fmt: skip

    def start(self, *arguments: str, forked: bool = False) -> subprocess.Popen[str]:
        """Start what a test disturbs."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=forked_environment() if forked else environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        process = self.start(*arguments, forked=self.forked)
        output, _ = process.communicate(timeout=400)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def chunk(self) -> None:
        """Chunk all samples by hand, as rule `chunk` does."""
        for name, path in self.samples.items():
            size = ("--chunk-size", str(self.settings["chunk_size"]))
            out = self.paths.chunks(name).path
            rules("chunk", path, "--out", out, "--window", 500, *size, check=True)

    def serve_command(self, worker: int, **settings: Any) -> list[str]:
        values = {**self.settings, **settings}
        keys = (
            "samples", "bundle", "threads", "lease_seconds", "load_timeout", "device", "precision",
            "batch_tokens", "stage_bundle",
        )  # fmt: skip
        options = [f"--{k.replace('_', '-')}={values[k]}" for k in keys if k in values]
        return ["virnuc-rules", "serve", "--worker", str(worker), *options]

    def serve(
        self, worker: int = 0, *, forked: bool = False, patch: str = "", **settings: Any
    ) -> subprocess.Popen[str]:
        """Start a worker by hand. patch: Python that is run in the process before."""
        command = self.serve_command(worker, **settings)
        if patch and os.environ.get("VIRNUC_FORK") == "0":
            script = f"{patch}\nfrom virnuc_rules.cli import main; main.main()"
            command = [sys.executable, "-c", script, *command[1:]]
        variables = forked_environment() if forked or patch else environment()
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**variables, "VIRNUC_PATCH": patch} if patch else variables,
            text=True,
            stderr=subprocess.PIPE,
        )

    def embeddings(self) -> dict[str, int]:
        """Inodes of the results by key: a result that was made again has another."""
        found = self.paths.embeddings.glob("*/*.safetensors")
        return {path.stem: path.stat().st_ino for path in found}

    def digests(self) -> dict[str, str]:
        """sha256 of the results by key."""
        found = self.paths.embeddings.glob("*/*.safetensors")
        return {path.stem: sha256(path) for path in found}

    def chunks(self) -> int:
        manifests = [self.paths.chunks(sample).manifest for sample in self.samples]
        return sum(
            len(json.loads(path.read_text())["chunks"]) for path in manifests if path.exists()
        )

    def report(self, worker: int = 0) -> dict[str, Any]:
        path = self.paths.worker_reports / f"{worker}.json"
        return json.loads(path.read_text())  # type: ignore[no-any-return]

    def tables(self) -> dict[str, str]:
        """sha256 of every table of every sample."""
        return {
            str(path.relative_to(self.results)): sha256(path)
            for sample in self.samples
            for path in self.paths.sample(sample).files()
        }

    def claims(self) -> list[Path]:
        return list(self.paths.claims.glob("*"))

    def failures(self) -> list[Path]:
        return list(self.paths.failures.glob("*"))

    def processes(self) -> list[int]:
        """Ids of the processes whose working directory is the project's folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                here = (process / "cwd").samefile(self.folder)
                ended = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if here and not ended:
                found.append(int(process.name))
        return found

    def workers(self) -> list[int]:
        """Ids of the processes that are this project's workers."""
        return [pid for pid in self.processes() if is_worker(pid)]

    def kill(self) -> None:
        """Kill all that runs here, forked or not, as a lost node."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def left_over(self) -> list[Path]:
        """Files that must not be there once all is done."""
        return self.claims() + [p for p in self.results.rglob("*") if p.name.startswith(".")]


def rules(*arguments: object, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `virnuc-rules` and capture what it prints, but for where its settings are from."""
    done = run("virnuc-rules", *arguments)
    if check:
        done.check_returncode()
    done.stderr = without_settings(done.stderr)
    return done


def run(
    *command: object, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a folder, with more variables; capture what it prints."""
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**forked_environment(), **variables},
        text=True,
        capture_output=True,
        timeout=400,
    )


def without_settings(text: str) -> str:
    """Drop the line that says where the settings of a command are from."""
    return re.sub(r"^settings: .*\n", "", text)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: it stands for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_more_open_files() -> Iterator[None]:
    """Let this process open no more files (EMFILE); the right and whole files are there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_worker(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"serve" in arguments and b"python" in arguments[0]


def embedded_chunks(text: str) -> int:
    """How many chunks a log says were embedded."""
    return sum(int(number) for number in re.findall(r"embedded (\d+) chunks", text))


def jobs(text: str) -> dict[str, int]:
    """What Snakemake says that it has to do: number of jobs by rule."""
    table = re.search(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", text, re.MULTILINE)
    if not table:
        assert "Nothing to be done" in text, text
        return {}
    rows = (line.split() for line in table[1].splitlines())
    return {rule: int(count) for rule, count in rows if rule != "total"}


def spoil(path: Path) -> bytes:
    """Flip one bit in the middle of a file, which keeps its time; returns the good bytes."""
    good, times = path.read_bytes(), path.stat()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0x10
    path.write_bytes(bytes(bad))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return good


def assert_finished_like(project: Project, reference: Project) -> None:
    """The same tables and results, and no claim, failure, partial file or process is left."""
    assert project.tables() == reference.tables()
    assert project.digests() == reference.digests()
    assert project.left_over() == project.failures() == []
    wait_until(lambda: not project.processes())


def environment() -> Environment:
    """The environment of a user who has activated the virtual environment."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def forked_environment() -> Environment:
    """The same, with a `snakemake` and a `virnuc-rules` that start at once: see fork_server.py.

    With VIRNUC_FORK=0 all tests use the real ones.
    """
    real = environment()
    if os.environ.get("VIRNUC_FORK") == "0":
        return real
    return {**real, "PATH": f"{fork_server().folder}{os.pathsep}{real['PATH']}"}


@functools.cache
def fork_server() -> ForkServer:
    """The fork server of this process of tests."""
    return ForkServer(environment())


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Poll; a generous limit that only a hang reaches."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not become true")
        time.sleep(0.02)


def copy_bundle(folder: Path) -> Path:
    copy = folder / "bundle"
    shutil.copytree(BUNDLE, copy)
    return copy
