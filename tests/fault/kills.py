"""Workers are killed at random moments: `python kills.py FOLDER KILLS`, FOLDER with a chunked run.

A Python that has imported torch forks the workers: they start at once, so there is time for many
kills. In each short run two workers share a fresh queue, each replaced when it was killed; then the
same two workers run undisturbed. Half of the kills come after a random time; the other half before
a random step on the filesystem, so that claims and half-published results are there. What happened
is printed as JSON.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virnuc_rules.config.model import Config, WorkerSettings
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.embedding import scoring  # noqa: F401 - before the fork: they import torch
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.models import bundle, device  # noqa: F401
from virnuc_rules.queue.store import Store
from virnuc_rules.serving.worker import Exit, Worker

SEED = 20240229
WORKERS, KILLS_A_RUN = 2, 10
LEASE = 0.5  # seconds
LIFE = 0.6  # seconds until a kill, at most: some five chunks on an idle machine
STEPS = 120  # until a kill, at most: a chunk takes about twenty
GENEROUS = 120.0  # seconds for a short run; only a hang reaches it
STEP_EVENTS = ("open", "os.rename", "os.link", "os.remove")


@dataclass
class Child:
    """A forked worker, and when it is to be killed by us (never, if it does that itself)."""

    pid: int
    end: float = float("inf")


class Run:
    """A short run with results of its own, over the chunks of the project."""

    def __init__(self, project: Path, number: int, chance: random.Random) -> None:
        self.results = project / f"run_{number}"
        self.results.mkdir()
        RunFolder(self.results).chunk_folders.symlink_to(
            RunFolder(project / "results").chunk_folders
        )
        settings = json.loads((project / "config.json").read_text())
        self.config = Config.of(
            **settings, results=self.results, threads=1, lease_seconds=LEASE,
            keep_embeddings=keeps_embeddings(number),
        )  # fmt: skip
        every = Tasks.of(self.config.run, self.config.embedding)
        self.tasks: dict[str, Task] = every.of_samples(read_samples(self.config.inputs.samples))
        self.store, self.chance = Store(self.results), chance
        self.deadline = time.monotonic() + GENEROUS
        self.seen = Counter[str]()
        self.children: dict[int, Child] = {}  # by number of worker

    def start(self, worker: int, *, steps: int = 0, seconds: float = float("inf")) -> None:
        """Fork a worker that dies after so many steps or seconds, if at all."""
        pid = os.fork()
        if pid == 0:
            code = 70
            with contextlib.suppress(BaseException):
                if steps:
                    die_at_step(self.results, steps)
                code = Worker(
                    self.config.part(WorkerSettings), str(worker), worker, self.tasks
                ).run()
            os._exit(code)
        self.children[worker] = Child(pid, time.monotonic() + seconds)

    def start_doomed(self, worker: int) -> None:
        """Fork a worker that will not live long."""
        if self.chance.random() < 0.5:
            self.start(worker, steps=self.chance.randint(1, STEPS))
        else:
            self.start(worker, seconds=self.chance.uniform(0, LIFE))

    def disturb(self, kills: int) -> int:
        """Kill workers until so many have died or the queue is drained; returns how many died."""
        died = 0
        while died < kills and self.seen["drained"] == 0:
            for worker in set(range(WORKERS)) - self.children.keys():
                self.start_doomed(worker)
            died += self.look()
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)
        while self.children:
            died += self.look()
        return died

    def look(self) -> int:
        """Kill who is due; returns how many were found killed."""
        time.sleep(0.001)
        assert time.monotonic() < self.deadline, f"{self.results}: it hangs"
        died = 0
        for worker, child in list(self.children.items()):
            if time.monotonic() > child.end:
                os.kill(child.pid, signal.SIGKILL)
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                died += self.ended(worker, os.waitstatus_to_exitcode(status))
        return died

    def ended(self, worker: int, code: int) -> bool:
        """Note how a worker ended; True if it was killed."""
        child = self.children.pop(worker)
        if code == Exit.DRAINED:
            self.seen["drained"] += 1
            return False
        assert code == -signal.SIGKILL, f"{self.results}: a worker ended by itself: {code}"
        mine = f"-{child.pid}-"
        claims = [path for path in self.store.claims.glob("*") if mine in read(path)]
        partial = list(self.store.embeddings.glob(f"*/.*{mine}*.partial"))
        report = list(self.store.workers.glob(f".{worker}.json.*.partial"))
        self.seen["kills"] += 1
        self.seen["with a claim"] += bool(claims)
        self.seen["with two claims"] += len(claims) > 1
        self.seen["amid publishing"] += bool(partial)
        self.seen["amid reporting"] += bool(report)
        return True

    def finish(self) -> None:
        """Let the same workers run undisturbed."""
        for worker in range(WORKERS):
            self.start(worker)
        self.seen["drained"] = 0
        while self.children:
            died = self.look()
            assert not died, f"{self.results}: nobody killed a worker, but it was killed"

    def close(self) -> None:
        """Leave no process behind, whatever happened."""
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)

    def found(self) -> dict[str, tuple[str, int]]:
        """Hash and inode of every result in place."""
        paths = self.store.embeddings.glob("*/*.safetensors")
        return {path.stem: (sha256(path), path.stat().st_ino) for path in paths}

    def left_over(self) -> list[Path]:
        folders = (self.store.claims, self.store.failures)
        files = itertools.chain(*(folder.iterdir() for folder in folders))
        return [*files, *self.results.rglob(".*")]


def die_at_step(folder: Path, steps: int) -> None:
    """Make this process kill itself just before its n-th step on files in a folder."""
    left, prefix = itertools.count(steps - 1, -1), str(folder / "")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEP_EVENTS and str(arguments[0]).startswith(prefix) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def keeps_embeddings(number: int) -> bool:
    """Whether a run keeps embeddings: every second one keeps scores only."""
    return number % 2 == 1


def read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""  # a living worker removed it


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def short_runs(project: Path, kills: int) -> Iterator[Counter[str]]:
    """Yield what was seen in each of many short runs, with so many kills in all."""
    chance, expected = random.Random(SEED), dict[bool, dict[str, str]]()
    for number in range(2):
        with contextlib.closing(Run(project, number, chance)) as undisturbed:
            undisturbed.finish()
        results = {key: digest for key, (digest, _) in undisturbed.found().items()}
        assert results.keys() == undisturbed.tasks.keys()
        expected[keeps_embeddings(number)] = results
    for number in itertools.count(2):
        if kills <= 0:
            return
        with contextlib.closing(Run(project, number, chance)) as run:
            kills -= run.disturb(min(kills, KILLS_A_RUN))
            before = run.found()
            right = expected[keeps_embeddings(number)]
            torn = [key for key, (digest, _) in before.items() if digest != right[key]]
            assert not torn, f"{run.results}: torn results {torn}"
            run.finish()
        after = run.found()
        assert {key: digest for key, (digest, _) in after.items()} == right
        assert before.items() <= after.items(), f"{run.results}: a result was made again"
        assert run.left_over() == []
        run.seen["published before the last kill"] = len(before)
        run.seen["short runs"] = 1
        yield run.seen
        shutil.rmtree(run.results)


def main(project: Path, kills: int) -> None:
    logging.disable()
    total = Counter[str]()
    for seen in short_runs(project, kills):
        total += seen
    print(json.dumps(total))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
