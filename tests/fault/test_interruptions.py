"""Snakemake or a worker is ended in the middle: the same command goes on where they were."""

import os
import signal
from pathlib import Path

import pytest
from harness import Project, assert_finished_like, embedded_chunks, wait_until


def run_again(project: Project, reference: Project) -> None:
    """The same command finishes the job, and embeds only what was missing."""
    before = project.embeddings()
    assert 5 < len(before) < project.chunks()
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert before.items() < project.embeddings().items()
    assert embedded_chunks(done.stdout) == project.chunks() - len(before)
    assert_finished_like(project, reference)


def attempts(project: Project) -> list[Path]:
    return list((project.results / "logs" / "serve").glob("0.attempt-*.log"))


def test_a_worker_is_killed(project: Project, reference: Project) -> None:
    first = project.start(forked=True)
    wait_until(lambda: len(project.embeddings()) > 5)
    for pid in project.workers():
        os.kill(pid, signal.SIGKILL)
    output, _ = first.communicate(timeout=200)
    assert first.returncode != 0, output
    assert 1 <= len(project.claims()) <= 2  # what it embedded, and what it published
    run_again(project, reference)
    assert len(attempts(project)) == 2


def test_snakemake_and_all_that_it_started_are_killed(project: Project, reference: Project) -> None:
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    os.killpg(first.pid, signal.SIGKILL)  # like a lost node
    first.communicate(timeout=200)
    run_again(project, reference)


def test_only_snakemake_is_killed(project: Project, reference: Project) -> None:
    """Nobody sees its worker any more: it stops, soon and in good order."""
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    first.kill()
    wait_until(lambda: not project.workers())
    first.communicate(timeout=200)
    assert project.report()["exit_reason"] == "Snakemake is gone"
    assert project.claims() == [] and project.left_over() == []
    run_again(project, reference)


def test_ctrl_c(project: Project, reference: Project) -> None:
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    os.killpg(first.pid, signal.SIGINT)  # a terminal sends it to all
    output, _ = first.communicate(timeout=200)
    assert first.returncode != 0
    assert "Traceback" not in output
    assert project.report()["exit_reason"] == "interrupted by SIGINT"
    assert project.claims() == [] and project.left_over() == []
    assert project.processes() == []
    run_again(project, reference)


def test_sigterm_to_all(project: Project, reference: Project) -> None:
    """As a system that shuts down, or Slurm at the end of the job that Snakemake runs in."""
    first = project.start()
    wait_until(lambda: len(project.embeddings()) > 5)
    os.killpg(first.pid, signal.SIGTERM)
    output, _ = first.communicate(timeout=200)
    assert first.returncode != 0
    assert "Traceback" not in output
    assert project.report()["exit_reason"] == "interrupted by SIGTERM"
    assert project.claims() == [] and project.left_over() == []
    assert project.processes() == []
    run_again(project, reference)


def test_sigterm_to_snakemake(project: Project, reference: Project) -> None:
    """It waits for its jobs and starts no other: all is embedded then, and only that."""
    first = project.start(forked=True)
    wait_until(lambda: len(project.embeddings()) > 5)
    first.terminate()
    output, _ = first.communicate(timeout=200)
    assert first.returncode != 0, output
    assert not (project.results / "lake" / "windows.tsv").exists()
    before = project.embeddings()
    assert len(before) == project.chunks()
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert project.embeddings() == before and "loaded" not in done.stdout
    assert_finished_like(project, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_worker_soon(many: Project, number: signal.Signals) -> None:
    worker = many.serve(forked=True)
    wait_until(lambda: len(many.embeddings()) > 2)
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == 75
    assert f"{number.name}: stopping" in errors and "Traceback" not in errors
    assert 2 < len(many.embeddings()) < many.chunks()
    assert many.claims() == [] and many.left_over() == []
    assert many.report()["exit_reason"] == f"interrupted by {number.name}"
