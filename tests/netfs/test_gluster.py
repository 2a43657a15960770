"""Workers on several hosts that share a real network filesystem, which goes away and comes back."""

import gzip
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gluster import Gluster, Unavailable
from harness import DEMO, REPO, forked_environment, rules, sha256, wait_until

from virnuc_rules.config.run_folder import RunFolder

LEASE = 3.0  # seconds
KILLS, OUTAGE = 5, 30.0  # seconds
AWAY = "does its server not answer?"
# There is time to strike in the middle, however fast the machine is; `held` stops it there.
SLOW = """
import os, time
from virnuc_rules.embedding import tasks
read = tasks.Task.read

def read_slowly(task):
    time.sleep(0.3)
    while os.path.exists("hold"):
        open(f"holding.{os.getpid()}", "w").close()
        time.sleep(0.02)
    return read(task)

tasks.Task.read = read_slowly
"""
SOON = "from virnuc_rules.queue import waiting; waiting.LONGEST_OUTAGE = 3.0\n"


@pytest.fixture(scope="module")
def gluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gluster]:
    try:
        with Gluster(tmp_path_factory.mktemp("gluster")) as gluster:
            gluster.mount("one")
            gluster.mount("two")
            yield gluster
    except Unavailable as why:
        pytest.skip(str(why))


@dataclass
class Site:
    """A run whose results have one path on each host; workers are started by hand."""

    folder: Path  # on a local disk
    name: str = "results"
    workers: dict[int, "subprocess.Popen[str]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = gzip.decompress(DEMO["lake"].read_bytes()).decode()
        (self.folder / "few.fa").write_text(">".join(text.split(">")[:4]))
        (self.folder / "samples.tsv").write_text("sample\tpath\nfew\tfew.fa\n")

    def chunk(self, mount: Path) -> None:
        out = RunFolder(mount / self.name).chunks("few").path
        size = ("--window", 500, "--chunk-size", 4)
        rules("chunk", self.folder / "few.fa", "--out", out, *size, check=True)

    def start(self, worker: int, mount: Path, patch: str = "") -> "subprocess.Popen[str]":
        with self.log(worker).open("w") as log:
            self.workers[worker] = subprocess.Popen(
                ["virnuc-rules", "serve", "--worker", str(worker), "--samples=samples.tsv",
                 f"--results={mount / self.name}", f"--bundle={REPO / 'demo/bundle'}",
                 "--threads=1", f"--lease-seconds={LEASE}"],
                cwd=self.folder, env={**forked_environment(), "VIRNUC_PATCH": patch},
                text=True, stderr=log,
            )  # fmt: skip
        return self.workers[worker]

    @contextmanager
    def held(self, *workers: int) -> Iterator[None]:
        """No worker goes on with a chunk in the block, which begins when each has claimed one."""
        hold = self.folder / "hold"
        hold.touch()
        wait_until(lambda: len(list(self.folder.glob("holding.*"))) == len(workers))
        yield
        hold.unlink()

    def log(self, worker: int) -> Path:
        return self.folder / f"worker_{worker}"

    def says(self, worker: int, text: str) -> None:
        """Wait until a worker says this."""
        wait_until(lambda: text in self.log(worker).read_text())

    def ends(self, worker: int, code: int = 0) -> str:
        """Wait for its end; return what it said."""
        ended = self.workers.pop(worker).wait(timeout=300)
        said = self.log(worker).read_text()
        assert ended == code and "Traceback" not in said, said
        return said


def digests(results: Path) -> dict[str, str]:
    return {path.stem: sha256(path) for path in results.glob("embeddings/*/*.safetensors")}


def left(results: Path) -> list[str]:
    """What must not be there when all is done: claims, losses, hidden files."""
    folder = RunFolder(results)
    queue = (folder.claims, folder.lost, folder.failures)
    hidden = [path for path in results.rglob(".*") if not path.name.endswith(".link")]
    return [str(path) for path in [*(p for f in queue for p in f.glob("*")), *hidden]]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one worker makes on a local disk."""
    site = Site(tmp_path_factory.mktemp("local"))
    site.chunk(site.folder)
    site.start(0, site.folder)
    site.ends(0)
    found = digests(site.folder / site.name)
    assert len(found) > 20
    return found


@pytest.fixture
def site(gluster: Gluster, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, tmp_path.name)
    site.chunk(gluster.folder / "one")
    yield site
    for worker in site.workers.values():
        worker.kill()
        worker.wait()


def test_kills_and_a_server_that_goes_away(
    gluster: Gluster, site: Site, expected: dict[str, str]
) -> None:
    """Two hosts, two workers on each; nothing is lost, and nobody ends before all is done."""
    mounts = [gluster.folder / name for name in ("one", "two") for _ in range(2)]
    results, chance = mounts[0] / site.name, random.Random(1)
    for worker, mount in enumerate(mounts):
        site.start(worker, mount, SLOW)
    for done in range(KILLS):
        wait_until(lambda n=done: len(digests(results)) > n)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.3))
        worker = chance.randrange(len(mounts))
        site.workers[worker].kill()
        site.workers[worker].wait()
        site.start(worker, mounts[worker], SLOW)
    with site.held(*range(len(mounts))):
        assert 0 < len(digests(results)) < len(expected)
        gluster.kill_server()
    begun = time.monotonic()
    for worker in range(len(mounts)):
        site.says(worker, AWAY)
    time.sleep(max(0.0, OUTAGE - (time.monotonic() - begun)))
    assert [worker.poll() for worker in site.workers.values()] == [None] * len(mounts)
    gluster.start_server()
    for worker in range(len(mounts)):
        said = site.ends(worker)
        assert re.search(rf"worker {worker}: back after \d+ s", said), said
    assert digests(results) == expected and left(results) == []


def test_a_host_that_is_cut_off(gluster: Gluster, site: Site, expected: dict[str, str]) -> None:
    """For longer than a lease: its claims are taken over, and it goes on when it is back."""
    apart = gluster.mount_apart("apart")
    results = gluster.folder / "one" / site.name
    site.start(0, apart, SLOW)
    wait_until(lambda: len(digests(results)) > 2)
    with site.held(0):
        wait_until(lambda: list(RunFolder(results).claims.glob("[!.]*")))
        gluster.cut()
    site.says(0, AWAY)
    site.start(1, gluster.folder / "one")
    said = site.ends(1)
    assert re.search(r"a worker was lost with it: 0-", said), said
    assert site.workers[0].poll() is None
    assert digests(results) == expected
    before = {path: path.stat().st_mtime_ns for path in results.glob("embeddings/*/*")}
    gluster.mend()
    assert re.search(r"back after \d+ s", site.ends(0))
    assert digests(results) == expected and left(results) == []
    made_again = [path for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns]
    assert len(made_again) <= 2  # those that it held


def test_how_workers_end_while_the_server_is_away(
    gluster: Gluster, site: Site, expected: dict[str, str]
) -> None:
    mount = gluster.folder / "one"
    results = mount / site.name
    for worker, patch in enumerate((SLOW, SLOW + SOON)):
        site.start(worker, mount, patch)
    with site.held(0, 1):
        gluster.kill_server()
    site.says(0, AWAY)
    stopped = time.monotonic()
    site.workers[0].send_signal(signal.SIGTERM)
    said = site.ends(0, 75)
    assert "worker 0: interrupted by SIGTERM; " in said.splitlines()[-1], said
    assert time.monotonic() - stopped < 60  # seconds: without other work it is one
    said = site.ends(1, 75)
    assert "worker 1: cannot go on: " in said.splitlines()[-1] and "ENOTCONN" in said, said
    site.start(2, mount)
    said = site.ends(2, 75)
    assert "Transport endpoint is not connected" in said.splitlines()[-1], said
    gluster.start_server()
    wait_until(lambda: answers(results))
    site.start(3, mount)
    site.ends(3)
    assert digests(results) == expected and left(results) == []


def answers(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        return False
