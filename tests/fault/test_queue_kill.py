"""Eight processes work on one queue while we kill and freeze them: all is done, once, and whole.

As a script this file is one worker: `python test_queue_kill.py RESULTS LOG`.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virnuc_rules.queue.claims import Queue
from virnuc_rules.queue.store import Store, listing

TASKS, WORKERS, KILLS, FREEZES = 2000, 8, 48, 6
LEASE = 1.0
FROZEN = 2.5 * LEASE  # long enough to lose what it holds
SEED = 20240229
GENEROUS = 300.0  # seconds; only a hang reaches it
KEYS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(TASKS)]


def payload(key: str) -> bytes:
    """32 kB that only this key gives: a chain of hashes."""
    links = [key.encode()]
    for _ in range(1024):
        links.append(hashlib.sha256(links[-1]).digest())
    return b"".join(links[1:])


def work(results: Path, log: Path) -> None:
    """Drain the queue and sweep. The log gets a line for each result that was computed."""
    with Queue(results, str(os.getpid()), LEASE) as queue, log.open("ab", buffering=0) as lines:

        def write(path: Path) -> None:
            with path.open("wb") as handle:
                for part in (content[:20_000], content[20_000:]):
                    handle.write(part)
                    handle.flush()
                    time.sleep(0.02)
            lines.write(line(claim.key, os.getpid()))

        for claim in queue.drain(KEYS):
            content = payload(claim.key)
            queue.publish(claim, write)
        queue.store.sweep(KEYS)


def line(key: str, pid: int) -> bytes:
    return f"{key} {pid:>10}\n".encode()


class Crowd:
    """The workers, what we do to them, and what we saw."""

    def __init__(self, folder: Path) -> None:
        self.store, self.log = Store(folder / "results"), folder / "log"
        self.log.touch()
        self.random = random.Random(SEED)
        self.workers = [self.start() for _ in range(WORKERS)]
        self.frozen: dict[subprocess.Popen[bytes], float] = {}  # when it wakes
        self.seen = Counter[str]()
        self.deadline = time.monotonic() + GENEROUS

    def start(self) -> subprocess.Popen[bytes]:
        results = self.store.embeddings.parent
        return subprocess.Popen([sys.executable, __file__, str(results), str(self.log)])

    def check_time(self) -> None:
        time.sleep(0.002)
        assert time.monotonic() < self.deadline, f"it hangs: {self.progress()} tasks computed"
        codes = {worker.poll() for worker in self.workers}
        assert codes <= {None, 0}, f"a worker failed by itself: {codes}"

    def progress(self) -> int:
        return self.log.stat().st_size // len(line(KEYS[0], 0))

    def computed(self) -> list[tuple[str, int]]:
        """Keys, and the process ids of their workers, in the order in which they were computed."""
        lines = (text.split() for text in self.log.read_text().splitlines())
        return [(key, int(pid)) for key, pid in lines]

    def busy(self) -> list[subprocess.Popen[bytes]]:
        """Workers that have begun; to kill one that still imports Python proves nothing."""
        begun = {pid for _, pid in self.computed()[-20 * WORKERS :]}
        return [w for w in self.workers if w.pid in begun and w not in self.frozen]

    def kill(self, victim: subprocess.Popen[bytes]) -> None:
        victim.kill()
        victim.wait()
        self.seen["kills"] += 1
        self.seen["claims of the killed"] += self.left_behind(victim.pid)
        self.workers[self.workers.index(victim)] = self.start()

    def left_behind(self, pid: int) -> bool:
        """Tell whether a killed worker still has a claim. (It may be taken over any moment.)"""
        for name in listing(self.store.claims):
            try:
                if f".{pid}-" in (self.store.claims / name).read_text():
                    return True
            except FileNotFoundError:
                continue
        return False

    def freeze(self, victim: subprocess.Popen[bytes]) -> None:
        victim.send_signal(signal.SIGSTOP)
        self.frozen[victim] = time.monotonic() + FROZEN
        self.seen["freezes"] += 1

    def thaw(self) -> None:
        for worker in [w for w, end in self.frozen.items() if time.monotonic() > end]:
            worker.send_signal(signal.SIGCONT)
            del self.frozen[worker]

    def read_one(self) -> None:
        """Open whatever is visible in some folder: it is a result, and it is whole."""
        folder = self.store.embeddings / self.random.choice(KEYS)[:2]
        names = sorted(name for name in listing(folder) if not name.startswith("."))
        if names:
            name = self.random.choice(names)
            assert_whole(folder / name)
            self.seen["reads"] += 1

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Leave no process behind, whatever happens."""
        try:
            yield
        finally:
            for worker in self.workers:
                worker.kill()
                worker.wait()


def assert_whole(path: Path) -> None:
    content, key = path.read_bytes(), path.stem
    assert path.name == f"{key}.safetensors"
    assert key in KEYS
    assert content == payload(key), f"{path}: {len(content)} bytes are not the result"


def disturb(crowd: Crowd) -> None:
    """Kill and freeze random workers, at random moments of the work, and read all the while."""
    moments = sorted(crowd.random.sample(range(TASKS * 9 // 10), KILLS + FREEZES))
    freezes = set(crowd.random.sample(moments, FREEZES))
    while moments:
        crowd.read_one()
        crowd.thaw()
        if crowd.progress() >= moments[0] and (busy := crowd.busy()):
            hit = crowd.freeze if moments.pop(0) in freezes else crowd.kill
            hit(crowd.random.choice(busy))
        crowd.check_time()


def finish(crowd: Crowd) -> None:
    """Let the workers come to their end; read on."""
    while any(worker.poll() is None for worker in crowd.workers):
        crowd.read_one()
        crowd.thaw()
        crowd.check_time()


def test_killed_and_frozen_workers(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path)
    with crowd.alive():
        disturb(crowd)
        finish(crowd)
    assert_done_once(crowd.store)
    assert_worth_it(crowd)


def assert_done_once(store: Store) -> None:
    """Every task has its result, and nothing else is left."""
    found = [path for path in store.embeddings.rglob("*") if path.is_file()]
    assert sorted(path.name for path in found) == sorted(f"{key}.safetensors" for key in KEYS)
    for path in found:
        assert_whole(path)
    assert listing(store.claims) == set()
    assert listing(store.failures) == set()


def assert_worth_it(crowd: Crowd) -> None:
    """The test did what it says; and claims kept the workers from doing the same work."""
    computed = crowd.computed()
    assert {key for key, _ in computed} == set(KEYS)
    assert crowd.seen["kills"] == KILLS
    assert crowd.seen["freezes"] == FREEZES
    assert crowd.seen["claims of the killed"] > KILLS // 4
    assert crowd.seen["reads"] > KILLS
    # What a frozen worker lost is done twice. The rest is for machines that starve a heartbeat.
    assert len(computed) - TASKS < KILLS + FREEZES + TASKS // 20


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
