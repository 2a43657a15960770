"""Training at size: rows a second, and what memory it takes when the embeddings are on the disk.

    python benchmarks/train.py --rows 5000000

Writes synthetic result files of the published models' width (768 + 2,560, float32) and fits the
classifier to them for one epoch. `--files` different files are written and each is mapped as often
as the rows need, so that 5 million rows (66 GB) can be tried on a smaller disk; the labels are
those of the files. Memory is what the process has of its own (RssAnon); pages of mapped files are
the system's to drop.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from virnuc_rules.embedding.embedding_file import Computation, Embeddings, read_result, write_result
from virnuc_rules.embedding.tasks import Settings
from virnuc_rules.training.dataset import Block, Rows
from virnuc_rules.training.fit import Recipe, fit

ROWS_OF_A_FILE = 10_000
WIDTHS = 768, 2560
RECIPE = Recipe(
    hidden=512, dropout=0.5, learning_rate=5e-4, batch=256, max_epochs=1, patience=1, seed=1
)


def write_files(folder: Path, number: int) -> None:
    """Write result files whose two labels differ a little."""
    ids = [str(row) for row in range(ROWS_OF_A_FILE)]
    settings = Settings(precision="fp32", batch_tokens=1)
    for file in range(number):
        torch.manual_seed(file)
        first, second = (torch.randn(ROWS_OF_A_FILE, width) + 0.05 * (file % 2) for width in WIDTHS)
        path = folder / f"{file}.safetensors"
        write_result(
            path,
            "key",
            settings,
            Embeddings(ids, first, second, Computation(precision="fp32", device="cpu")),
        )


def map_rows(folder: Path, files: int, rows: int) -> Rows:
    """Map files, each as often as it takes."""
    ids = [str(row) for row in range(ROWS_OF_A_FILE)]
    blocks = []
    for number in range(-(-rows // ROWS_OF_A_FILE)):
        file = number % files
        found = read_result(folder / f"{file}.safetensors", "key", ids)
        blocks.append(Block(found.dnabert_s, found.esm2, np.arange(ROWS_OF_A_FILE), file % 2))
    return Rows(blocks)


class Memory:
    """Watches the process's own memory; the most it saw, in MB."""

    def __init__(self) -> None:
        self.most, self.ended = 0.0, threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while not self.ended.wait(0.2):
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.most = max(self.most, now * 1024 / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        write_files(folder, args.files)
        memory, start = Memory(), time.perf_counter()
        rows = map_rows(folder, args.files, args.rows)
        mapped = time.perf_counter() - start
        fit(rows, map_rows(folder, 2, 2 * ROWS_OF_A_FILE), RECIPE, torch.device("cpu"))
        seconds = time.perf_counter() - start - mapped
        memory.ended.set()
    number = int(rows.counts.sum())
    size = number * sum(WIDTHS) * 4 / 1e9
    print(f"{number:,} rows of {sum(WIDTHS)} float32, {size:.1f} GB, {args.threads} threads")
    print(f"read and checked in {mapped:.0f} s")
    print(f"an epoch in {seconds:.0f} s, {number / seconds:,.0f} rows/s")
    share = memory.most / 1e3 / size
    print(f"memory of its own at the peak: {memory.most:,.0f} MB, {share:.3f} of the embeddings")


if __name__ == "__main__":
    main()
