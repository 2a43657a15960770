"""Scale: what waits leaves the filesystem alone, a claim costs the same among more tasks, and the
benchmark and the simulation that docs/scale.md quotes do work and count right."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_claims import LEASE, Clock, claimed, publish, work, worker

from virnuc_rules.queue.claims import Claim, Queue

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
KEYS = [f"{shard:02x}{0:062x}" for shard in range(4)]


def load(name: str) -> ModuleType:
    """Import a benchmark, which is a script."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


speed, simulation = load("queue_speed"), load("simulation")


def crowded(tmp_path: Path) -> tuple[Queue, Queue]:
    """Two workers, the first of which holds all keys."""
    a, b = worker(tmp_path, "a"), worker(tmp_path, "b")
    for key in KEYS:
        claimed(a, key)
    return a, b


class TestWaiting:
    def test_rests_while_others_make_progress(self, tmp_path: Path, clock: Clock) -> None:
        a, b = crowded(tmp_path)
        steps = b.steps(KEYS)
        pauses = [next(steps)]
        for key in KEYS[1:]:
            publish(a, a.held[key])
            pauses.append(next(steps))
        assert pauses == [0.05, 0.1, 0.2, 0.4]
        publish(a, a.held[KEYS[0]])
        assert list(steps) == []

    def test_looks_again_at_once_if_it_got_something(self, tmp_path: Path, clock: Clock) -> None:
        """What another held at the first look is free at the second: no pause is between."""
        a, b = worker(tmp_path, "a"), worker(tmp_path, "b")
        first = next(b.steps(KEYS))
        assert isinstance(first, Claim)
        b.release(first)
        held = claimed(a, first.key)
        steps = b.steps(KEYS)  # in the same order
        for _ in KEYS[1:]:
            claim = next(steps)
            assert isinstance(claim, Claim)
            publish(b, claim)
        a.release(held)
        claim = next(steps)
        assert isinstance(claim, Claim)
        assert claim.key == held.key

    @pytest.mark.parametrize("look, pause", [(0.1, 0.9), (0.2, 1.8), (LEASE, LEASE)])
    def test_rests_longer_after_a_slow_look(
        self,
        tmp_path: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        look: float,
        pause: float,
    ) -> None:
        _, b = crowded(tmp_path)
        claim = b.claim

        def slow(key: str) -> object:
            clock.now += look / len(KEYS)
            return claim(key)

        monkeypatch.setattr(b, "claim", slow)
        assert next(b.steps(KEYS)) == pytest.approx(pause)

    def test_looks_only_where_something_is_open(
        self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = crowded(tmp_path)
        steps = b.steps(KEYS)
        next(steps)
        for key in KEYS[1:]:
            publish(a, a.held[key])
        next(steps)  # forgets the others
        assert {folder.name for folder in listed(monkeypatch, lambda: next(steps))} == {
            "claims",
            "failed",
            "finished",
            "lost",
        }
        assert len(listed(monkeypatch, lambda: next(steps))) == 4


def listed(monkeypatch: pytest.MonkeyPatch, do: object) -> list[Path]:
    """Return the folders that are listed meanwhile."""
    folders, listdir = [], os.listdir

    def spy(folder: Path) -> list[str]:
        folders.append(folder)
        return listdir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", spy)
        do()  # type: ignore[operator]
    return folders


def test_a_task_costs_the_same_listings_among_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, failures and losses, none of which has more names than there are workers."""
    counts = []
    for tasks in (40, 160):
        queue = worker(tmp_path / str(tasks))
        keys = [f"{number % 4:02x}{number:062x}" for number in range(tasks)]
        counts.append(len(listed(monkeypatch, lambda q=queue, k=keys: work(q, k))))
        assert queue.store.done(keys) == set(keys)
    assert counts[1] - counts[0] == 4 * (160 - 40)


class TestBenchmark:
    @pytest.mark.parametrize("what", [speed.live, speed.claim_and_release])
    def test_every_task_is_one_life(self, tmp_path: Path, what: object) -> None:
        runs = speed.together(tmp_path, 3, speed.make_keys(60), what)
        assert len(runs) == 3
        assert sum(run.lives for run in runs) == 60
        rate, in_fsync = speed.rate(runs)
        assert rate > 0
        assert 0 <= in_fsync <= 1
        assert (in_fsync > 0) == (what is speed.live)
        assert list(tmp_path.iterdir()) == []

    def test_cost_of_a_life(self, tmp_path: Path) -> None:
        cost = speed.cost(tmp_path, 40, 10)
        assert min(cost.first, cost.mean, cost.median) > 0

    def test_script(self, tmp_path: Path) -> None:
        small = ["--processes", "2", "--shared-tasks", "20", "--tasks", "20"]
        printed = script("queue_speed.py", "--folders", tmp_path, *small)
        assert "lives/s" in printed
        assert "first claim" in printed


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / name, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def simulate(workers: int, ratio: int) -> object:
    done = simulation.Simulation(workers, ratio * workers, mean=60)
    done.run()
    return done


class TestSimulation:
    def test_every_chunk_ends_and_the_books_balance(self) -> None:
        run = simulate(50, 20)
        world = run.world
        assert world.done | set(world.failures) == set(run.keys)
        assert world.claims == {}
        assert len(world.done) > 0.99 * len(run.keys)
        parts = sum(seconds for kind, seconds in run.seconds.items() if kind != "held")
        assert parts == pytest.approx(run.seconds["held"])
        assert {"useful", "loading", "waiting", "failed", "killed"} <= set(run.seconds)
        assert run.failed() == len(run.keys) - len(world.done)

    def test_efficiency_grows_with_chunks_per_worker(self) -> None:
        found = [simulate(20, ratio).efficiency() for ratio in (5, 20, 100)]
        assert found == sorted(found)
        assert 0.3 < found[0] < 0.8
        assert 0.9 < found[-1] < 1

    def test_is_the_same_each_time(self) -> None:
        assert simulate(20, 10).seconds == simulate(20, 10).seconds

    def test_script(self) -> None:
        assert "efficiency" in script("simulation.py", "--workers", 5, "--chunks-per-worker", 3)
