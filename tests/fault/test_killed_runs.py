"""Snakemake and all it started are killed at random moments of each rule, also two runs at once.

Then one run gives what a run from nothing gives.
"""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from harness import Project, assert_finished_like, jobs, wait_until

RULES = {"chunk": "chunk/*", "serve": "serve/*", "predict": "predict/*", "report": "report.*"}
LONGEST = 0.6  # seconds into the job


def kill_all(project: Project) -> None:
    """Kill every process that works in the project's folder."""
    while pids := project.processes():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def killed_in(project: Project, rule: str, delay: float, at_once: int) -> None:
    """Start runs; kill them and their jobs some time after a job of the rule has begun."""
    logs = project.results / "logs"
    before = len(list(logs.glob(RULES[rule])))
    runs = [project.start(forked=True) for _ in range(at_once)]
    ended = [False]

    def begun() -> bool:
        ended[0] = all(run.poll() is not None for run in runs)
        return ended[0] or len(list(logs.glob(RULES[rule]))) > before

    wait_until(begun)
    time.sleep(delay)
    kill_all(project)
    for run in runs:
        run.communicate(timeout=100)


@pytest.mark.parametrize("rule", RULES)
def test_killed_in_a_rule(project: Project, reference: Project, rule: str) -> None:
    moments = random.Random(rule)
    killed_in(project, rule, moments.uniform(0, LONGEST), 1)
    killed_in(project, rule, moments.uniform(0, LONGEST), 2)
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert_finished_like(project, reference)
    assert jobs(project.run("--dry-run").stdout) == {}


def test_two_runs_at_once_then_one(project: Project, reference: Project) -> None:
    both = [project.start(forked=True) for _ in range(2)]
    outputs = [run.communicate(timeout=400)[0] for run in both]
    print(*outputs, sep="\n--- the other ---\n")  # an assertion would show the first lines only
    assert [run.returncode for run in both] == [0, 0]
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert_finished_like(project, reference)


def test_other_settings_while_a_run_is_at_work(project: Project, tmp_path: Path) -> None:
    run = project.start(forked=True)
    wait_until(lambda: list(project.paths.runs.glob("*.json")))
    project.settings["min_score"] = 0.9
    refused = project.run()
    kill_all(project)
    run.communicate(timeout=100)
    assert refused.returncode == 1
    assert "another run (process" in refused.stdout
    assert "with `min_score: 0.5`, not 0.9" in refused.stdout
    assert not list(project.results.glob("*/contigs.tsv"))
