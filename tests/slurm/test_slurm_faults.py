"""What happens to jobs on clusters: the same command finishes, redoes only what was missing."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from cluster import ON_SLURM, Cluster
from harness import Project, wait_until
from slurm_project import SlurmProject

pytestmark = ON_SLURM


@pytest.fixture
def begun(chunked: SlurmProject) -> Iterator[tuple[SlurmProject, "subprocess.Popen[str]"]]:
    """A run whose two workers both have published something."""
    chunked.retries = 3
    run = chunked.start()
    try:
        wait_until(lambda: len(chunked.workers()) == 2)
        wait_until(lambda: all(_published(chunked, worker) for worker in (0, 1)))
        yield chunked, run
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()


def _published(project: SlurmProject, worker: int) -> bool:
    try:
        return bool(project.report(worker)["chunks"] > 1)
    except (OSError, ValueError):
        return False


def assert_finishes(
    project: SlurmProject,
    run: "subprocess.Popen[str]",
    before: dict[str, int],
    reference: Project,
    twice: int = 0,
) -> str:
    """The run ends well, as if nothing had been, and at most `twice` chunks were redone."""
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output
    assert before.items() <= project.embeddings().items()  # what was done was not touched
    assert 0 <= project.embedded() - project.chunks() <= twice
    assert project.tables() == reference.tables()
    assert project.left_over() == [] and project.workers() == []
    return output


def test_scancel_of_one_worker(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], slurm: Cluster, reference: Project
) -> None:
    project, run = begun
    job = min(slurm.running("serve"))
    slurm.ask("scancel", job)
    wait_until(lambda: len(project.workers()) < 2, 30)
    assert_finishes(project, run, project.embeddings(), reference)
    stopped = [log for worker in (0, 1) for log in project.logs(worker) if "SIGTERM" in log]
    assert len(stopped) == 1  # its log has survived the retry
    assert "interrupted by SIGTERM: stopping" in stopped[0]


def test_scancel_of_all_workers(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], slurm: Cluster, reference: Project
) -> None:
    project, run = begun
    slurm.ask("scancel", *slurm.running("serve"))
    wait_until(lambda: not project.workers(), 30)
    claims = list((project.results / "queue" / "claims").iterdir())
    assert claims == []  # released within seconds, not after the lease
    assert_finishes(project, run, project.embeddings(), reference)
    assert [len(project.logs(worker)) for worker in (0, 1)] == [2, 2]


def test_requeue(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], slurm: Cluster, reference: Project
) -> None:
    project, run = begun
    job = min(slurm.running("serve"))
    slurm.ask("scontrol", "requeue", job)
    wait_until(lambda: len(project.workers()) < 2, 30)
    slurm.hurry(job)
    assert_finishes(project, run, project.embeddings(), reference)


def test_a_node_dies(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], slurm: Cluster, reference: Project
) -> None:
    project, run = begun
    (job,) = (job for job, node in slurm.running("serve").items() if node == "gpu1")
    slurm.lose("gpu1")
    before = project.embeddings()
    try:
        wait_until(lambda: b"down" in slurm.ask("sinfo", "-h", "-N", "-n", "gpu1", "-o", "%T"))
    finally:
        slurm.start("gpu1")
    slurm.hurry(job)
    assert_finishes(project, run, before, reference, twice=2)


def test_the_controller_restarts(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], slurm: Cluster, reference: Project
) -> None:
    project, run = begun
    slurm.stop("slurmctld", signal.SIGKILL)
    time.sleep(3)  # Snakemake asks in vain
    slurm.start("slurmctld")
    assert_finishes(project, run, project.embeddings(), reference)


def test_snakemake_is_killed(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], reference: Project
) -> None:
    project, first = begun
    first.kill()
    first.communicate()
    before = project.embeddings()
    assert_finishes(project, project.start(), before, reference)  # beside the jobs of the first


def test_the_time_of_a_job_ends(chunked: SlurmProject, reference: Project) -> None:
    chunked.runtime, chunked.retries, chunked.settings["workers"] = 1, 4, 1
    run = chunked.start()
    wait_until(lambda: _published(chunked, 0))
    (worker,) = chunked.workers()
    worker.suspend()  # as if its chunk took for ever
    time.sleep(max(0.0, worker.create_time() + 31 - time.time()))
    before = chunked.embeddings()
    worker.resume()
    output = assert_finishes(chunked, run, before, reference)
    first, *others = chunked.logs(0)
    assert "the job's time is over: stopping" in first or "fits into the job's time" in first
    assert others and "SIGTERM" not in first
    assert "--deadline 1" in output
