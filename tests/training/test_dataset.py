"""Rows of embeddings on the disk: each once, in any order that is asked for, in little memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from Bio import SeqIO
from Bio.SeqFeature import SeqFeature, SimpleLocation
from chunk_folders import chunk_it, write_fasta
from harness import BUNDLE
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_rules.config.model import Config, Embedding, LabelledSettings
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.embedding.embedding_file import Computation, Embeddings, write_result
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import read_card
from virnuc_rules.queue.store import ATTEMPTS, Failure, Store
from virnuc_rules.training import dataset as module
from virnuc_rules.training.dataset import Block, Rows, read_rows
from virnuc_rules.training.labelled import read_labelled

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
        (features[0].item(), features[-1].item(), int(label))
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


def test_segments_of_a_batch_are_from_all_files(small: None) -> None:
    rows = Rows(blocks([40] * 10))  # in order, a batch of 16 would be of one file or two
    batches = list(rows.shuffled(16, np.random.default_rng(0)))
    files = [len(set(x[:, 0].tolist())) for x, _ in batches]
    assert np.mean(files) > 5


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


# --- read from a run ---------------------------------------------------------------------------

Frames = dict[float, dict[str, Any]]  # the open frames by their feature: contig, frame, ...


class Run:
    """Two samples whose embeddings are numbers that name the open frame; one file is annotated."""

    def __init__(self, folder: Path) -> None:
        self.folder, rows = folder, ["sample\tpath\tlabel\tgenbank\tpart"]
        for label in ("virus", "non_viral"):
            paths = []
            for part in ("train", "validation"):
                # Open in all six frames.
                records = {f"{part}_{label}_{n}": "ATGGCC" * (150 + n) for n in range(3)}
                paths.append(write_fasta(folder / f"{part}_{label}.fa", records))
                genbank = folder / "it.gb" if (part, label) == ("train", "virus") else ""
                rows.append(f"{label}\t{paths[-1]}\t{label}\t{genbank}\t{part}")
            chunk_it(paths, RunFolder(folder / "results").chunks(label).path, 500, chunk_size=20)
        (folder / "labelled.tsv").write_text("\n".join(rows) + "\n")
        self.config = Config.of(
            samples=folder / "labelled.tsv", results=folder / "results", bundle=BUNDLE,
            on_failed_chunks="report",
        )  # fmt: skip
        self.settings = self.config.part(LabelledSettings)
        self.annotate()
        self.frames: Frames = {}
        for label in ("virus", "non_viral"):
            for task in self.tasks(label):
                self.embed(task, label)

    def annotate(self) -> None:
        """Write a CDS of each strand on the first contig, none on the others."""
        records = list(SeqIO.parse(self.folder / "train_virus.fa", "fasta"))
        for record in records:
            record.annotations["molecule_type"] = "DNA"
        for place in ((1, 700, 1), (300, 898, -1)):
            records[0].features.append(SeqFeature(SimpleLocation(*place), type="CDS"))
        SeqIO.write(records, self.folder / "it.gb", "genbank")

    def tasks(self, label: str) -> list[Task]:
        return list(Tasks.of(self.config.run, self.config.embedding).of_sample(label))

    def embed(self, task: Task, label: str) -> None:
        chunk, first = task.read(), len(self.frames)
        name = torch.arange(first, first + len(chunk.ids), dtype=torch.float32)[:, None]
        dnabert_s, esm2 = (name.repeat(1, width) for width in read_card(BUNDLE).widths)
        for number, row in enumerate(chunk.table.to_pylist(), first):
            self.frames[number] = {**row, "label": label}
        path = Store(self.config.run.results).result(task.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = Embeddings(
            chunk.ids, dnabert_s, -esm2, Computation(precision="fp32", device="cpu")
        )
        write_result(path, task.key, self.config.embedding, result)

    def expected(self, part: str, label: str) -> list[float]:
        return [
            number for number, row in self.frames.items()
            if row["label"] == label and row["contig"].startswith(part) and is_coding(row)
        ]  # fmt: skip


def is_coding(row: dict[str, Any]) -> bool:
    if not row["contig"].startswith("train_virus"):
        return True  # of a file without annotation
    if row["contig"] != "train_virus_0":
        return False
    start, end = row["start"], row["end"]
    if row["frame"].startswith("F"):
        return bool(start >= 1 and end <= 700 and (start - 1) % 3 == 0)
    return bool(start >= 300 and end <= 898 and (898 - end) % 3 == 0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_open_frames_come_with_part_label_and_features(run: Run) -> None:
    found = read_rows(run.settings, read_labelled(run.settings), "train", "validation")
    kept = {run.frames[number]["frame"] for number in run.expected("train", "virus")}
    assert {frame[0] for frame in kept} == {"F", "R"}
    for part, rows in found.items():
        got = seen(list(rows.in_order(7)))
        assert all(second == -first for first, second, _ in got)  # DNABERT-S first
        for index, label in enumerate(("non_viral", "virus")):
            mine = [first for first, _, of in got if of == index]
            assert mine == run.expected(part, label)
            assert rows.by_label()[label] == len(mine) > 0


def test_open_frames_of_failed_chunks_are_counted_and_left_out(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    store, task = Store(run.config.run.results), run.tasks("non_viral")[0]
    lost = task.read().ids
    store.result(task.key).unlink()
    store.failures.mkdir(parents=True)
    failure = Failure(key=task.key, task=task.name, error="", traceback="", worker="0", host="",
                      log="", attempts=ATTEMPTS)  # fmt: skip
    store.attempt(task.key, ATTEMPTS).write_text(failure.model_dump_json())
    before = sum(len(run.expected(part, "non_viral")) for part in ("train", "validation"))
    found = read_rows(run.settings, read_labelled(run.settings), "train", "validation")
    assert sum(rows.by_label()["non_viral"] for rows in found.values()) == before - len(lost)
    assert f"sample non_viral: {len(lost)} open frames have no embedding" in caplog.text


def test_a_part_without_a_label_is_refused(run: Run) -> None:
    with pytest.raises(VirnucError, match="no open frame of label non_viral in the test part"):
        read_rows(run.settings, read_labelled(run.settings), "train", "test")


# --- memory ------------------------------------------------------------------------------------

FILES, SIZE, WIDTH = 24, 4000, 320
IDS = [str(number) for number in range(SIZE)]

MEASURE = """
import sys
import numpy as np, torch
from pathlib import Path
from virnuc_rules.embedding.embedding_file import read_result
from virnuc_rules.config.model import Fitting
from virnuc_rules.training.fit import fit
from virnuc_rules.training import dataset
from virnuc_rules.training.dataset import Block, Rows

dataset.POOL = 1 << 12  # less than the fewest rows here
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

    more = (FILES - 6) * SIZE * (WIDTH + WIDTH // 5) * 4 / 2**20  # MiB: 105
    assert used(FILES) - used(6) < more / 4
