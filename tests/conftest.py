"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest
from harness import Project
from hypothesis import settings

# CI repeats the same examples, so that it fails for what was changed; others look for new ones.
settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run of the demo samples, which nobody disturbed. Do not change it."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    done = project.run()
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture
def chunked(tmp_path: Path) -> Project:
    """The demo samples, chunked, with nothing embedded yet."""
    project = Project(tmp_path)
    project.chunk()
    return project
