"""Claims a second by number of processes, cost of a claim by number of tasks, calls of a claim.

    python benchmarks/queue_speed.py [--folders DIR ...] [--processes 1 8 64] [--tasks 1000 ...]

Everything goes through `Queue`, in folders under each DIR, such as a mount of a network filesystem;
by default where temporary files go, and /dev/shm, which costs no disk. A life is what a worker does
for a chunk, with a tiny result: `drain`, `publish` (with fsync of file and folder), release. Prints
- lives a second, and `claim` and `release` alone, by number of processes that share the tasks; and
  the fraction of the processes' time that they spent in fsync;
- by number of tasks, half of them done: the time until the first claim, and that of a life;
- the calls to the filesystem of one life, where strace is installed.
"""

import argparse
import hashlib
import itertools
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from virnuc_rules.queue.claims import Queue
from virnuc_rules.queue.store import Store

LEASE = 60.0
PAYLOAD = b"0123456789abcdef" * 4
STRACED = 100  # lives of the shorter of the two runs that are compared


@dataclass
class Run:
    """What one process did."""

    lives: int
    begun: float  # by the monotonic clock, which the processes of a machine share
    ended: float  # its last life; that the queue is empty it may notice later
    fsync: float  # seconds in it


Work = Callable[[Queue, list[str], int, int], Iterator[None]]  # yields after each life


def make_keys(count: int) -> list[str]:
    return [hashlib.sha256(b"%d" % index).hexdigest() for index in range(count)]


def write(path: Path) -> None:
    path.write_bytes(PAYLOAD)


def live(queue: Queue, keys: list[str], *_: int) -> Iterator[None]:
    """Drain the queue together with the other processes."""
    for claim in queue.drain(keys):
        queue.publish(claim, write)
        yield


def claim_and_release(queue: Queue, keys: list[str], rank: int, processes: int) -> Iterator[None]:
    """Only claim and release. Each process has its own keys, since no task becomes done."""
    for key in keys[rank::processes]:
        claim = queue.claim(key)
        assert claim
        queue.release(claim)
        yield


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Provide a temporary folder; the time to remove it is not measured."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="virnuc-queue-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def together(parent: Path, processes: int, keys: list[str], work: Work) -> list[Run]:
    """Start processes at the same moment that share the tasks."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes), context.SimpleQueue()

    def child(rank: int) -> None:
        seconds = _time_fsync()
        with Queue(folder, str(rank), LEASE) as queue:
            barrier.wait(600)
            run = Run(0, time.monotonic(), time.monotonic(), 0.0)
            for _ in work(queue, keys, rank, processes):
                run.lives, run.ended, run.fsync = run.lives + 1, time.monotonic(), sum(seconds)
                seconds[:] = [run.fsync]
        answers.put(run)

    with scratch(parent) as folder:
        children = [context.Process(target=child, args=(rank,)) for rank in range(processes)]
        for process in children:
            process.start()
        for process in children:
            process.join()
        if any(process.exitcode for process in children):
            raise SystemExit("a process failed")
        return [answers.get() for _ in children]


def _time_fsync() -> list[float]:
    """Record the seconds of each fsync from now on."""
    fsync, seconds = os.fsync, []

    def timed(descriptor: int) -> None:
        start = time.perf_counter()
        fsync(descriptor)
        seconds.append(time.perf_counter() - start)

    os.fsync = timed
    return seconds


def rate(runs: list[Run]) -> tuple[float, float]:
    """Lives a second of all processes together, and the fraction of their time in fsync."""
    seconds = max(run.ended for run in runs) - min(run.begun for run in runs)
    in_fsync = sum(run.fsync for run in runs)
    fraction = in_fsync / max(1e-9, sum(run.ended - run.begun for run in runs))
    return sum(run.lives for run in runs) / seconds, fraction


def by_processes(parent: Path, processes: list[int], tasks: int) -> None:
    keys = make_keys(tasks)
    print(f"\n{parent}: {tasks:,} tasks")
    print(f"{'processes':>10} {'lives/s':>10} {'in fsync':>10} {'claim+release/s':>16}")
    for count in processes:
        lives, in_fsync = rate(together(parent, count, keys, live))
        claims, _ = rate(together(parent, count, keys, claim_and_release))
        print(f"{count:>10} {lives:>10,.0f} {in_fsync:>10.0%} {claims:>16,.0f}", flush=True)


@dataclass
class Cost:
    """Seconds of a worker that starts when half of the tasks are done."""

    first: float  # until it has its first claim
    mean: float  # of a life after that, with the listing of folders
    median: float


def cost(parent: Path, tasks: int, lives: int) -> Cost:
    keys = make_keys(tasks)
    with scratch(parent) as folder, Queue(folder, "a", LEASE) as queue:
        _mark_done(queue.store, keys[::2])
        times = [time.perf_counter()]
        drain = queue.drain(keys)
        for _ in range(min(lives, tasks // 2)):
            queue.publish(next(drain), write)
            times.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(times[1:])]
    return Cost(times[1] - times[0], statistics.fmean(seconds), statistics.median(seconds))


def _mark_done(store: Store, keys: list[str]) -> None:
    for shard in {key[:2] for key in keys}:
        (store.embeddings / shard).mkdir(parents=True)
    for key in keys:
        store.result(key).touch()
    os.sync()  # else the first fsync of a worker would write all of this


def by_tasks(parent: Path, tasks: list[int], lives: int) -> None:
    print(f"\n{parent}: one process, half of the tasks done")
    print(f"{'tasks':>10} {'first claim, s':>15} {'a life, ms':>11} {'median':>8}")
    for count in tasks:
        measured = cost(parent, count, lives)
        print(
            f"{count:>10,} {measured.first:>15.3f} {1e3 * measured.mean:>11.3f} "
            f"{1e3 * measured.median:>8.3f}",
            flush=True,
        )


def calls(parent: Path) -> Counter[str]:
    """Count the calls of one life that name a file of the queue, by strace."""
    counted: list[Counter[str]] = []
    for lives in (STRACED, 2 * STRACED):
        with scratch(parent) as folder:
            log = folder / "log"
            command = ["strace", "-f", "-y", "-o", log, sys.executable, __file__]
            results = folder / "results"
            subprocess.run([*command, "--lives", str(lives), results], check=True, timeout=300)
            lines = (line for line in log.read_text().splitlines() if str(results) in line)
            names = (re.match(r"\d+ +(\w+)\(", line) for line in lines)
            counted.append(Counter(name[1] for name in names if name))
    shorter, longer = counted
    return Counter({name: round((longer[name] - shorter[name]) / STRACED) for name in longer})


def straced(lives: int, results: Path) -> None:
    """Do so many lives in one shard: its listing costs both runs the same."""
    with Queue(results, "a", LEASE) as queue:
        list(live(queue, [f"{n:064x}" for n in range(lives)]))


def print_calls(parent: Path) -> None:
    counted = +calls(parent)
    names = ", ".join(f"{name} {count}" for name, count in counted.most_common())
    print(f"\ncalls of a life: {counted.total()} ({names})")


def main() -> None:
    shared = [folder for folder in (Path("/dev/shm"),) if folder.is_dir()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folders", type=Path, nargs="+", default=[Path(tempfile.gettempdir()), *shared]
    )
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--shared-tasks", type=int, default=20_000, help="tasks of all processes")
    parser.add_argument("--tasks", type=int, nargs="*", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--lives-timed", type=int, default=2_000)
    parser.add_argument("--lives", nargs=2, help=argparse.SUPPRESS)  # traced by strace
    options = parser.parse_args()
    if options.lives:
        straced(int(options.lives[0]), Path(options.lives[1]))
        return
    for folder in options.folders:
        by_processes(folder, options.processes, options.shared_tasks)
        by_tasks(folder, options.tasks, options.lives_timed)
    if shutil.which("strace"):
        print_calls(options.folders[0])


if __name__ == "__main__":
    main()
