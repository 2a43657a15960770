"""Fixtures of the tests of `predict`."""

import shutil
from pathlib import Path

import pytest
from embedded import configure, work
from harness import DEMO

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Config
from virnuc_rules.reading.fastx import Sequences
from virnuc_rules.serving.worker import Exit

CONTIGS = ("NODE_1109_length_9622_cov_23.163061", "AE015924.1:1-15000", "NC_001422.1")


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
        [folder / "gut.fa"], results / "chunks/gut", sample="gut", window=500, chunk_size=8
    )
    assert work(configure(results)) == Exit.DRAINED
    return results


@pytest.fixture
def config(tmp_path: Path, embedded: Path) -> Config:
    shutil.copytree(embedded, tmp_path / "results")
    return configure(tmp_path / "results")
