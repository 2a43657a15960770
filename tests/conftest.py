"""Fixtures that several test folders share."""

import logging
import os

# Before torch is imported: tests run side by side, and threads that wait would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from embedded import configure, work
from harness import DEMO, Project, without_settings
from hypothesis import HealthCheck, settings

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.cli.main import main
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.serving.worker import Exit

# CI repeats the same examples, so that it fails for what was changed; others look for new ones.
# No test depends on how fast the machine is.
patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("virnuc", derandomize=bool(os.environ.get("CI")), **patient)
settings.load_profile("virnuc")

GPU_TESTS = Path(__file__).parent / "gpu"
CONTIGS = ("NODE_1109_length_9622_cov_23.163061", "AE015924.1:1-15000", "NC_001422.1")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from this process and all that it starts, unless it runs only tests/gpu."""
    paths = [Path(config.invocation_params.dir, name.split("::")[0]) for name in config.args]
    if not all(path.is_relative_to(GPU_TESTS) for path in paths):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture
def as_if_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says on a machine with two GPUs: for tests of reports, which compute nothing."""
    answers = {
        "is_available": True,
        "device_count": 2,
        "get_device_name": "NVIDIA H100",
        "mem_get_info": (70 * 10**9, 80 * 10**9),
        "memory_reserved": 3 * 10**9,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run of the demo samples, which nobody disturbed. Do not change it."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    project.shown = ()  # as a user sees it
    done = project.run()
    assert done.returncode == 0, done.stdout
    project.said = done.stdout
    del project.shown
    return project


@pytest.fixture
def chunked(tmp_path: Path) -> Project:
    """The demo samples, chunked, with nothing embedded yet."""
    project = Project(tmp_path)
    project.chunk()
    return project


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder: some of the demo's contigs, and two without bases to go by, embedded."""
    folder = tmp_path_factory.mktemp("embedded")
    with (folder / "gut.fa").open("w") as handle:
        for contig in Sequences([DEMO["gut"]], "gut").contigs():
            if contig.id in CONTIGS:
                handle.write(f">{contig.id}\n{contig.bases(0, contig.length).decode()}\n")
        handle.write(f">short\nAC\n>gap|1\n{'N' * 600}\n")
    results = folder / "results"
    write_chunks(
        [folder / "gut.fa"],
        results / "chunks/gut",
        sample="gut",
        chunking=Chunking(window=500, chunk_size=8),
    )
    assert work(configure(results)) == Exit.DRAINED
    return results


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """`virnuc-rules` in this process, for tests that are not about processes."""
    logger = logging.getLogger("virnuc_rules")
    handlers, level, said = logger.handlers, logger.level, logging.raiseExceptions
    for name in (
        "PYTORCH_ALLOC_CONF",
        "OMP_WAIT_POLICY",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
        "LRU_CACHE_CAPACITY",
        "ARROW_DEFAULT_MEMORY_POOL",
    ):  # `main` sets them where they are not set
        if name not in os.environ:
            monkeypatch.setenv(name, "")  # so that it is taken away at the end
            monkeypatch.delenv(name)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        # A command that starts no log has this one, were it not for pytest's.
        logger.handlers = [logging.lastResort] if logging.lastResort else []
        argv = ["virnuc-rules", *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        code = ended.value.code or 0
        return subprocess.CompletedProcess(argv, code, out, without_settings(errors))  # type: ignore[arg-type]

    yield run
    logger.handlers, logger.level, logging.raiseExceptions = handlers, level, said


@pytest.fixture
def config(tmp_path: Path, embedded: Path) -> Config:
    shutil.copytree(embedded, tmp_path / "results")
    return configure(tmp_path / "results")
