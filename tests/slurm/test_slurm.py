"""`snakemake --profile slurm` on a real Slurm of two nodes, undisturbed."""

import re

from cluster import ON_SLURM, Cluster
from harness import Project, wait_until
from slurm_project import SlurmProject

pytestmark = ON_SLURM


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
