"""A thousand workers on one queue, in simulated time: which fraction of the GPU time is useful?

    python benchmarks/simulation.py [--workers 1000] [--chunks-per-worker 160]
        [--chunk-size 10000] [--tokens-per-frame 51] [--tokens-per-second 60000]

Each worker uses the library's own `Queue.steps` (its order, looks, pauses, leases). Only the
folders are in memory and the clock is simulated: a call to the filesystem takes 1 ms. The events
are drawn from a fixed seed:
- GPUs are granted within the first 10 minutes; loading the models takes 60 to 120 s;
- a chunk takes open frames x tokens / (tokens a second), log-normal with sigma 0.25. By default
  8.5 s: 10,000 frames of reads of 150 bp, 51 tokens of ESM-2 each, and the 60,000 tokens a second
  that VirNuc 0.1 reached with ESM-2 3B in fp16 on an H100;
- 2 % of the workers are three times slower; 1 % of the attempts fail, at a random moment; 2 % of
  the workers are killed and come back after 1 to 5 minutes; their chunk is free after the lease of
  60 s;
- a chunk that failed is tried a second time, when a worker finds nothing else: by another worker
  than before, where one is free. A worker ends when no chunk is left.

efficiency = seconds of attempts whose result was published first
             / seconds from the grant of a GPU to the exit of its worker, over all workers
Waste is loading, failed and lost attempts, calls, pauses and the wait for the last chunk.
Prints it, the waste by its cause, the chunks that failed twice, and the calls a second.
"""

import argparse
import hashlib
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from virnuc_rules.queue import claims, pace, rounds, watched
from virnuc_rules.queue.claim_text import ClaimText
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.queue.store import ATTEMPTS, Store

LEASE, BEAT = 60.0, 12.0
CALL = 0.001  # seconds
# Calls of each step, about as `queue_speed.py` counts them; a listing has one more per 1,000 names.
LISTING, READING, LOOKING, CLAIMING, PUBLISHING, FAILING = 4, 3, 1, 15, 26, 25
SIGMA = 0.25  # of the logarithm of a chunk's seconds
SLOW, TIMES = 0.02, 3.0
FAIL, KILL = 0.01, 0.02
GRANTS, LOADING, REQUEUED = 600.0, (60.0, 120.0), (60.0, 300.0)
BIN = 10.0  # seconds over which calls are averaged


class Clock:
    """Stands in for the module `time` in the queue."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Holder:
    """The owner of a claim. The counter of its heartbeat rises until the owner is killed."""

    name: str
    since: float
    killed: float = float("inf")

    def content(self, now: float) -> bytes:
        beats = int((min(now, self.killed) - self.since) / BEAT)
        claim = ClaimText(key="0", owner=self.name, index=0, life=beats, work=beats, limit=3600)
        return claim.content()


@dataclass
class World:
    """The folders, and the calls to them."""

    clock: Clock = field(default_factory=Clock)
    names: Counter[str] = field(default_factory=Counter)  # results by shard
    done: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    claims: dict[str, Holder] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)  # names of shards
    calls: Counter[int] = field(default_factory=Counter)  # by BIN

    def ask(self, calls: int) -> None:
        self.calls[int(self.clock.now / BIN)] += calls
        self.clock.now += calls * CALL

    def finish(self, key: str) -> None:
        self.failures.pop(key, None)
        self.names[key[:2]] += key not in self.done
        self.done.add(key)


@dataclass
class ClaimFile:
    """`claims/<key>`."""

    world: World
    key: str = ""

    def is_symlink(self) -> bool:
        return False

    def __truediv__(self, key: str) -> "ClaimFile":
        return ClaimFile(self.world, key)

    @property
    def name(self) -> str:
        return self.key

    def read_bytes(self) -> bytes:
        if self.key not in self.world.claims:
            self.world.ask(LOOKING)
            raise FileNotFoundError(self.key)
        self.world.ask(READING)
        return self.world.claims[self.key].content(self.world.clock.now)


class MemoryStore(Store):
    """The results and failures of a world."""

    def __init__(self, world: World) -> None:
        super().__init__(Path())
        self.world, self.claims = world, ClaimFile(world)

    def is_done(self, key: str) -> bool:
        self.world.ask(LOOKING)
        return key in self.world.done

    def done(self, keys: Iterable[str]) -> set[str]:
        keys = list(keys)
        for shard in {key[:2] for key in keys}:
            self.world.ask(LISTING + self.world.names[shard] // 1000)
        return self.world.done.intersection(keys)

    def claimed(self) -> set[str]:
        self.world.ask(LISTING + len(self.world.claims) // 1000)
        return set(self.world.claims)

    def attempts(self) -> dict[str, int]:
        self.world.ask(LISTING + len(self.world.failures) // 1000)
        return dict(self.world.failures)

    def finished_shards(self) -> set[str]:
        self.world.ask(LISTING)
        return self.world.finished

    def finish(self, name: str) -> None:
        self.world.ask(2)
        self.world.finished.add(name)

    def losses(self) -> dict[str, int]:
        self.world.ask(LISTING)
        return {}  # the few that are lost are lost once


class SimulatedQueue(Queue):
    """`Queue` with the methods that change files replaced."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(Path(), name, LEASE)
        self.world, self.owner, self.store = world, name, MemoryStore(world)

    def claim(self, key: str) -> Claim | None:
        if not self._take_over(key):
            return None
        self.world.ask(CLAIMING)
        if key in self.world.done:
            return None
        self.world.claims[key] = Holder(self.owner, self.world.clock.now)
        return Claim(
            key=key, owner=self.owner, index=0, descriptor=-1,
            attempts=self.world.failures.get(key, 0),
        )  # fmt: skip

    def _remove(self, key: str, beginning: bytes, keep: bool = False) -> bool:
        return bool(self.world.claims.pop(key, None))

    def release(self, claim: Claim) -> None:
        self.world.claims.pop(claim.key, None)


@dataclass
class Worker:
    """One process, from the grant of its GPU to its exit."""

    index: int
    name: str
    slow: float
    granted: float
    killed: float  # at this time; mostly never, which is infinity
    claim: str = ""  # the key that it holds


Life = Iterator[tuple[str, float]]  # the kind of each step, and its seconds


class Simulation:
    """Runs workers until none is left; `seconds` of GPU time by kind of step."""

    def __init__(self, workers: int, chunks: int, mean: float, seed: int = 1) -> None:
        self.random, self.world = random.Random(seed), World()
        self.mean = mean  # seconds of a chunk
        self.keys = [hashlib.sha256(b"%d" % index).hexdigest() for index in range(chunks)]
        self.seconds: Counter[str] = Counter()
        self.events: list[tuple[float, int, Worker, Life]] = []
        self.counter = itertools.count()
        self.length = mean * chunks / workers
        for index in range(workers):
            slow = TIMES if self.random.random() < SLOW else 1.0
            is_killed = self.random.random() < KILL
            self.start(index, slow, self.random.uniform(0, GRANTS), is_killed)

    def start(self, index: int, slow: float, granted: float, is_killed: bool = False) -> None:
        killed = granted + self.random.uniform(0, self.length) if is_killed else float("inf")
        name = f"{index}-{next(self.counter)}"
        worker = Worker(index, name, slow, granted, killed)
        self.push(granted, worker, self.life(worker))

    def push(self, when: float, worker: Worker, life: Life) -> None:
        heapq.heappush(self.events, (when, next(self.counter), worker, life))

    def run(self) -> None:
        with ExitStack() as stack:
            for module in (claims, pace, rounds, watched):
                stack.enter_context(patch.object(module, "time", self.world.clock))
            stack.enter_context(patch.object(watched, "read_regular", ClaimFile.read_bytes))
            while self.events:
                now, _, worker, life = heapq.heappop(self.events)
                self.world.clock.now = now
                self.step(worker, life)

    def step(self, worker: Worker, life: Life) -> None:
        """Do a worker's next step: calls, which move the clock, then work that takes time."""
        begun, clock = self.world.clock.now, self.world.clock
        kind, seconds = next(life, ("", 0.0))
        spent = self.seconds
        spent["calls"] += clock.now - begun
        if clock.now + seconds > worker.killed:
            self.kill(worker)
        elif kind:
            spent[kind] += seconds
            self.push(clock.now + seconds, worker, life)
        else:
            spent["held"] += clock.now - worker.granted

    def kill(self, worker: Worker) -> None:
        now, spent = max(self.world.clock.now, worker.killed), self.seconds
        spent["killed"] += now - self.world.clock.now
        spent["held"] += now - worker.granted
        if worker.claim in self.world.claims:
            self.world.claims[worker.claim].killed = now
        self.start(worker.index, worker.slow, now + self.random.uniform(*REQUEUED))

    def life(self, worker: Worker) -> Life:
        if len(self.world.done) == len(self.keys):
            return
        yield "loading", self.random.uniform(*LOADING)
        queue = SimulatedQueue(self.world, worker.name)
        for step in queue.steps(self.keys, worker.index):
            if isinstance(step, Claim):
                worker.claim = step.key
                yield from self.work_on(step.key, worker, queue)
                self.world.claims.pop(step.key, None)
                worker.claim = ""
            else:
                yield "waiting", step
        self.world.ask(3 * LISTING)  # what `sweep` looks at

    def work_on(self, key: str, worker: Worker, queue: SimulatedQueue) -> Life:
        seconds = worker.slow * self.mean * self.random.lognormvariate(-(SIGMA**2) / 2, SIGMA)
        if self.random.random() < FAIL:
            yield "failed", seconds * self.random.random()
            self.world.ask(FAILING)
            self.world.failures[key] = self.world.failures.get(key, 0) + 1
            queue.postponed.add(key)
            return
        # No other worker can publish it first: a claim with a heartbeat is not taken over.
        yield "useful", seconds
        self.world.ask(PUBLISHING)
        self.world.finish(key)

    def efficiency(self) -> float:
        """Useful seconds as a fraction of those held."""
        return self.seconds["useful"] / self.seconds["held"]

    def failed(self) -> int:
        """Chunks that failed for good."""
        return sum(attempts == ATTEMPTS for attempts in self.world.failures.values())

    def busiest(self) -> tuple[float, float]:
        """Calls a second to the filesystem: the median of the bins, and the maximum."""
        rates = sorted(self.world.calls.values())
        return rates[len(rates) // 2] / BIN, rates[-1] / BIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--chunks-per-worker", type=int, nargs="+", default=[160])
    parser.add_argument("--chunk-size", type=int, default=10_000)
    parser.add_argument("--tokens-per-frame", type=float, default=51)
    parser.add_argument("--tokens-per-second", type=float, default=60_000)
    options = parser.parse_args()
    mean = options.chunk_size * options.tokens_per_frame / options.tokens_per_second
    kinds = ("loading", "waiting", "calls", "failed", "killed")
    print(
        f"{options.workers:,} workers, {mean:.1f} s a chunk; waste by cause, in % of the GPU time"
    )
    heads = ("chunks/worker", "efficiency", *kinds, "failed twice", "calls/s", "maximum")
    print(" ".join(f"{head:>13}" for head in heads))
    for ratio in options.chunks_per_worker:
        simulation = Simulation(options.workers, ratio * options.workers, mean)
        simulation.run()
        spent = simulation.seconds
        waste = [f"{spent[kind] / spent['held']:.2%}" for kind in kinds]
        calls = [f"{rate:,.0f}" for rate in simulation.busiest()]
        row = (f"{simulation.efficiency():.1%}", *waste, simulation.failed(), *calls)
        print(" ".join(f"{cell!s:>13}" for cell in (ratio, *row)), flush=True)


if __name__ == "__main__":
    main()
