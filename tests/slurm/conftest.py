"""A cluster for all tests of this folder, and projects that run on it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Cluster, why_not
from harness import BIN, REPO, Project

REASON = why_not()
SETTINGS = {"chunk_size": 5, "workers": 2}  # some 200 chunks: there is time to disturb


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is here, with one visible line, where there can be no Slurm; else: one cluster."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("slurm"))
            if REASON:
                item.add_marker(pytest.mark.skip(reason=REASON))


class SlurmProject(Project):
    """What a user types on a cluster: the literal profile, and a site's own on top of it."""

    runtime = 30  # minutes that a worker's job may last
    retries = 1

    def command(self, *arguments: str) -> list[str]:
        (self.folder / "config.yaml").write_text(json.dumps(self.settings))
        gpu = {"slurm_partition": "gpu", "gpu": 1, "mem_mb": 2000, "runtime": self.runtime}
        profile = {
            "default-resources": {"slurm_partition": "cpu", "mem_mb": 1000, "runtime": 30},
            "set-resources": {"serve": gpu},
            "retries": self.retries,
            "latency-wait": 10,
            "seconds-between-status-checks": 1,
            "slurm-init-seconds-before-status-checks": 1,
        }
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "config.v9+.yaml").write_text(json.dumps(profile))
        link = self.folder / "slurm"
        if not link.exists():
            link.symlink_to(REPO / "slurm")
        return [
            str(BIN / "snakemake"), "--profile", "slurm", "--workflow-profile", "site",
            "--snakefile", str(REPO / "workflow" / "Snakefile"), "--configfile", "config.yaml",
            *arguments,
        ]  # fmt: skip

    def copy_chunks(self, other: Project) -> None:
        """Begin where the samples are chunked."""
        shutil.copytree(other.results / "chunks", self.results / "chunks")
        targets = [f"results/chunks/{sample}/manifest.json" for sample in self.samples]
        touched = self.run("--touch", *targets)
        assert touched.returncode == 0, touched.stdout

    def logs(self, worker: int) -> list[str]:
        """Return what each attempt of a worker logged, the first attempt first."""
        return [path.read_text() for path in sorted(self.results.glob(f"logs/serve/{worker}.a*"))]

    def embedded(self) -> int:
        """Count the chunks that were embedded, in all attempts of all workers."""
        logs = (path.read_text() for path in self.results.glob("logs/serve/*.attempt-*.log"))
        return sum(len(re.findall(r"chunk \S+: [\d.]+ s$", log, re.MULTILINE)) for log in logs)

    def workers(self) -> list[psutil.Process]:
        """Return the workers of this project that live."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if words[1:3] == [str(BIN / "virnuc-rules"), "serve"]:
                found.append(process)
        return [process for process in found if process.cwd() == str(self.folder)]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An undisturbed run without Slurm."""
    project = Project(tmp_path_factory.mktemp("without_slurm"), **SETTINGS)
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture
def project(slurm: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A project with two workers; no job of it stays in Slurm."""
    yield SlurmProject(tmp_path, **SETTINGS)
    subprocess.run(["scancel", "--full", "--user=root"], check=False)
    slurm.wait_idle()


@pytest.fixture
def chunked(project: SlurmProject, reference: Project) -> SlurmProject:
    project.copy_chunks(reference)
    return project
