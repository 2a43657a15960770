"""Finished runs for the tests of convergence, and their references."""

import pytest
from convergence import References, new_project
from harness import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Project]:
    """Finished runs, by `persistent_models`. Do not change them."""
    projects = {}
    for persistent in (True, False):
        folder = tmp_path_factory.mktemp(f"finished_{persistent}")
        projects[persistent] = new_project(folder, persistent_models=persistent)
        done = projects[persistent].run()
        assert done.returncode == 0, done.stdout
    return projects


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    return References(tmp_path_factory.mktemp("references"))
