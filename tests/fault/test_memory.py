"""A worker that runs for days: its memory is flat, its caches are cleared as often as it says."""

import gzip
import random
import statistics
from pathlib import Path

import pytest
from chunk_folders import some_contigs
from harness import DEMO, Project

from virnuc_rules.serving.worker import CHUNKS_BETWEEN_CLEARINGS

CHUNKS, SETTLED = 150, 50
# MB; 9 were seen, 134 where torch remembers all products.
BOUND = 30


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Contigs of many lengths in no order; without T, or A on the other strand, nothing stops."""
    folder = tmp_path_factory.mktemp("mixed")
    draw = random.Random(7)
    with gzip.open(folder / "mixed.fa.gz", "wt") as file:
        for number in range(1_100):
            bases = "".join(draw.choices("ACG", k=draw.randint(60, 120)))
            file.write(f">contig_{number}\n{bases}\n")
    project = Project(
        folder, samples={"mixed": folder / "mixed.fa.gz"}, chunk_size=40, batch_tokens=512
    )
    project.chunk()
    assert project.chunks() >= CHUNKS
    return project


def test_memory_is_flat(mixed: Project) -> None:
    worker = mixed.serve()
    _, errors = worker.communicate(timeout=400)
    assert worker.returncode == 0, errors
    report = mixed.report()
    series = [point["resident"] for point in report["memory"]]
    assert len(series) == report["chunks"] == mixed.chunks() >= CHUNKS
    assert report["cache_clears"] == mixed.chunks() // CHUNKS_BETWEEN_CLEARINGS
    early, late = series[SETTLED : 2 * SETTLED], series[-SETTLED:]
    grown = statistics.median(late) - statistics.median(early)
    assert grown < BOUND, f"{grown:.0f} MB more: {series}"
    print(f"grown by {grown:.1f} MB over {len(series)} chunks, {series[0]:.0f} to {series[-1]:.0f}")


def test_failed_chunks_count_too(tmp_path: Path) -> None:
    some = some_contigs(tmp_path / "lake.fa", DEMO["lake"], slice(4, 8))
    project = Project(tmp_path, {"lake": some}, chunk_size=4)
    project.chunk()
    assert project.chunks() > CHUNKS_BETWEEN_CLEARINGS
    bad = project.paths.chunks("lake").chunk_files()[:3]
    for path in bad:
        path.write_bytes(b"no chunk")
    worker = project.serve(forked=True)
    worker.communicate(timeout=200)
    assert worker.returncode == 1
    report = project.report()
    assert report["failed_chunks"] == 3
    assert report["chunks"] + report["failed_chunks"] == project.chunks()
    assert report["cache_clears"] == project.chunks() // CHUNKS_BETWEEN_CLEARINGS
