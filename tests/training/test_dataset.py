"""Rows of embeddings on the disk: each once, in any order that is asked for, in little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embedding_file import Computation, Embeddings, write_result
from virnuc_rules.training import dataset as module
from virnuc_rules.training.dataset import Block, Rows

HOW = Computation(precision="fp32", device="cpu")


def blocks(sizes: list[int], kept: float = 1.0) -> list[Block]:
    """Files whose features name file and row."""
    draw = np.random.default_rng(0)
    made = []
    for number, size in enumerate(sizes):
        name = torch.full((size, 1), float(number))
        row = torch.arange(size, dtype=torch.float32)[:, None]
        mine = np.flatnonzero(draw.random(size) < kept)
        made.append(Block(name, row, mine, number % 2))
    return made


def seen(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[float, float, int]]:
    return [
        (*features.tolist(), int(label))
        for x, y in batches
        for features, label in zip(x, y, strict=True)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 4)
    monkeypatch.setattr(module, "POOL", 16)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(2, 9),
    st.floats(0.2, 1),
    st.integers(0, 5),
)
def test_an_epoch_has_every_row_once(sizes: list[int], batch: int, kept: float, seed: int) -> None:
    before = module.SEGMENT, module.POOL
    module.SEGMENT, module.POOL = 4, 16
    try:
        rows = Rows(blocks(sizes, kept))
        if not rows.blocks:
            return
        batches = list(rows.shuffled(batch, np.random.default_rng(seed)))
    finally:
        module.SEGMENT, module.POOL = before
    in_order = seen(list(rows.in_order(7)))
    assert sorted(seen(batches)) == sorted(in_order)
    assert len(in_order) == rows.counts.sum() == len(set(in_order))
    numbers = [len(y) for _, y in batches]
    assert all(number == batch for number in numbers[:-1])
    # No batch of one row, of which BatchNorm has no variance, unless there is but one row.
    assert numbers[-1] <= batch + 1
    assert numbers[-1] > 1 or sum(numbers) == 1


def test_the_order_is_the_seeds(small: None) -> None:
    rows = Rows(blocks([30, 50]))
    first, again, other = (
        seen(list(rows.shuffled(8, np.random.default_rng(seed)))) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first != seen(list(rows.in_order(8)))


def test_labels_are_mixed_in_each_batch() -> None:
    rows = Rows(blocks([4000, 4000]))
    shares = [y.float().mean().item() for _, y in rows.shuffled(500, np.random.default_rng(0))]
    assert all(0.35 < share < 0.65 for share in shares)


def test_a_cap_takes_so_many_of_each_label_and_no_more() -> None:
    rows = Rows(blocks([100, 30, 50]))
    assert rows.counts.tolist() == [150, 30]
    capped = rows.capped(40, seed=1)
    assert capped.counts.tolist() == [40, 30]
    kept = seen(list(capped.in_order(9)))
    assert set(kept) <= set(seen(list(rows.in_order(9))))
    assert {name for name, _, _ in kept} == {0, 1, 2}  # of all files
    assert kept == seen(list(rows.capped(40, seed=1).in_order(9)))
    assert kept != seen(list(rows.capped(40, seed=2).in_order(9)))
    assert rows.capped(0, seed=1).counts.tolist() == [150, 30]


FILES, SIZE, WIDTH = 24, 10_000, 320
IDS = [str(number) for number in range(SIZE)]

MEASURE = """
import sys
import numpy as np, torch
from pathlib import Path
from virnuc_rules.embedding.embedding_file import read_result
from virnuc_rules.config.model import Fitting
from virnuc_rules.training.fit import fit
from virnuc_rules.training.dataset import Block, Rows

folder, files, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
blocks = []
for number in range(files):
    found = read_result(folder / f"{number}.safetensors", "key", [str(n) for n in range(size)])
    blocks.append(Block(found.dnabert_s, found.esm2, np.arange(size), number % 2))
torch.set_num_threads(1)
recipe = Fitting(hidden=8, learning_rate=1e-3, max_epochs=1, patience=1)
fit(Rows(blocks), Rows(blocks[:2]), recipe, 1, torch.device("cpu"))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    settings = Embedding(precision="fp32", batch_tokens=64)
    for number in range(FILES):
        x = torch.randn(SIZE, WIDTH) + number % 2
        path = tmp_path / f"{number}.safetensors"
        write_result(path, "key", settings, Embeddings(IDS, x, x[:, : WIDTH // 5], HOW))

    def used(files: int) -> float:
        command = [sys.executable, "-c", MEASURE, str(tmp_path), str(files), str(SIZE)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return float(done.stdout)

    more = (FILES - 6) * SIZE * (WIDTH + WIDTH // 5) * 4 / 2**20  # MiB: 264
    assert used(FILES) - used(6) < more / 4
