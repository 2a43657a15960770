"""Fixtures of the fault tests."""

from pathlib import Path

import pytest
from harness import DEMO, Project

MANY = {
    "samples": {"lake": DEMO["lake"]},
    "chunk_size": 5,
}  # about a hundred chunks: there is time to strike in the middle


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An undisturbed run with many small chunks. Do not change it."""
    project = Project(tmp_path_factory.mktemp("reference"), **MANY)
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """What `reference` was before it ran."""
    return Project(tmp_path, **MANY)


@pytest.fixture
def many(project: Project) -> Project:
    """As `project`, chunked, with nothing embedded yet."""
    project.chunk()
    return project
