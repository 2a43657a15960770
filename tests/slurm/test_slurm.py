"""`snakemake --profile slurm` on a real Slurm of two nodes: undisturbed, and what befalls jobs.

After each mishap the same command finishes, redoes only what was missing, and gives the same bytes.
One file, so that tests that run side by side share one cluster.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import Cluster, why_not
from harness import BUNDLE, DEMO, REPO, Project, rules, wait_until
from slurm_project import SlurmProject

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def test_a_job_with_a_gpu_of_slurm_sees_none_of_this_machine(slurm: Cluster) -> None:
    shown = slurm.ask("srun", "--gpus=1", "--mem=100", "printenv", "CUDA_VISIBLE_DEVICES")
    assert shown == b"\n"


def test_two_workers_two_nodes_the_same_bytes(
    project: SlurmProject, slurm: Cluster, reference: Project
) -> None:
    run = project.start()
    wait_until(lambda: len(slurm.running("serve")) == 2)
    assert set(slurm.running("serve").values()) == {"gpu0", "gpu1"}
    for job in slurm.running("serve"):
        assert re.search(rb"Tres\S*=\S*gpu:1", slurm.ask("scontrol", "show", "job", job))
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert project.tables() == reference.tables()
    assert project.embedded() == project.chunks() and project.left_over() == []
    assert all(project.report(worker)["load_count"]["esm2"] == 1 for worker in (0, 1))
    assert "--deadline 30" in output


def test_the_run_begins_with_the_first_gpu(
    chunked: SlurmProject, slurm: Cluster, reference: Project
) -> None:
    slurm.ask("scontrol", "update", "nodename=gpu1", "state=drain", "reason=test")
    try:
        run = chunked.start("--until", "serve")
        wait_until(lambda: len(chunked.embeddings()) == chunked.chunks())
        wait_until(lambda: len(slurm.jobs()) == 1)  # the other worker's, which may wait for days
        assert not slurm.running("serve")
    finally:
        slurm.ask("scontrol", "update", "nodename=gpu1", "state=resume")
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    logs = chunked.logs(0) + chunked.logs(1)
    assert sum("no model was loaded" in log for log in logs) == 1
    assert chunked.embedded() == chunked.chunks()


def test_what_slurm_accepts(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\nlake\t{DEMO['lake']}\n")
    options = ("--samples", tmp_path / "samples.tsv", "--results", tmp_path, "--bundle", BUNDLE)
    profile = yaml.safe_load((REPO / "slurm" / "config.v9+.yaml").read_text())
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
        for rule in ("serve", "embed_chunk"):
            profile["set-resources"][rule]["mem_mb"] = 4000  # our nodes are small
        (folder / "config.v9+.yaml").write_text(yaml.safe_dump(profile))
        profile["set-resources"]["serve"] |= {"gpu": 5}
        profile["set-resources"]["embed_chunk"] = {"slurm_partition": "a100"}

    fine = rules("doctor", *options, "--profile", good)
    assert fine.returncode == 0, fine.stdout
    assert fine.stdout.count("accepted") == 3

    wrong = rules("doctor", *options, "--profile", bad)
    assert wrong.returncode == 1
    refused = [line for line in wrong.stdout.splitlines() if "refused" in line]
    assert len(refused) == 2
    assert "invalid partition" in refused[0] and "--gpus=5" in refused[1]


@pytest.fixture
def begun(chunked: SlurmProject) -> Iterator[tuple[SlurmProject, "subprocess.Popen[str]"]]:
    """A run whose two workers both have published something."""
    chunked.retries = 3
    run = chunked.start("--until", "serve")
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
    """The workers' jobs end well, as if nothing had been; at most `twice` chunks were redone."""
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output
    assert before.items() <= project.embeddings().items()  # what was done was not touched
    assert 0 <= project.embedded() - project.chunks() <= twice
    assert project.digests() == reference.digests()
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
    with pytest.warns(UserWarning, match="slurmctld ended by itself"):
        slurm.daemons["slurmctld"].kill()  # the tests' own supervisor starts it again
        assert_finishes(project, run, project.embeddings(), reference)


def test_snakemake_is_killed(
    begun: tuple[SlurmProject, "subprocess.Popen[str]"], reference: Project
) -> None:
    project, first = begun
    first.kill()
    first.communicate()
    before = project.embeddings()
    second = project.start("--until", "serve")
    assert_finishes(project, second, before, reference)  # beside the jobs of the first


def test_the_time_of_a_job_ends(chunked: SlurmProject, reference: Project) -> None:
    chunked.runtime, chunked.retries, chunked.settings["workers"] = 1, 4, 1
    run = chunked.start("--until", "serve")
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
