"""A cluster for all tests of this folder, and projects that run on it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from harness import Project
from slurm_project import SlurmProject

SETTINGS = {"chunk_size": 5, "workers": 2}  # some 200 chunks: there is time to disturb


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
