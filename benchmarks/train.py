"""Training with many rows: rows a second, and memory while the embeddings stay on the disk.

    python benchmarks/train.py --rows 5000000

Writes `--files` synthetic result files of the published models' width (768 + 2,560, float32), each
of one label, and fits the classifier to them for one epoch. Each file is mapped as often as the
rows need, so that 5 million rows (66 GB) fit on a smaller disk. Memory is the process's anonymous
memory (RssAnon): the system may drop pages of mapped files.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from virnuc_rules.config.model import Embedding, Fitting
from virnuc_rules.embedding.embedding_file import Computation, Embeddings, read_result, write_result
from virnuc_rules.training.dataset import Block, Rows
from virnuc_rules.training.fit import fit

ROWS_OF_A_FILE = 10_000
WIDTHS = 768, 2560
SEED = 1


def write_files(folder: Path, count: int) -> None:
    """Write result files; the means of the two labels differ a little."""
    ids = [str(row) for row in range(ROWS_OF_A_FILE)]
    computed = Computation(precision="fp32", device="cpu")
    for file in range(count):
        torch.manual_seed(file)
        first, second = (torch.randn(ROWS_OF_A_FILE, width) + 0.05 * (file % 2) for width in WIDTHS)
        embeddings = Embeddings(ids, first, second, computed)
        write_result(folder / f"{file}.safetensors", "key", Embedding(), embeddings)


def map_rows(folder: Path, files: int, rows: int) -> Rows:
    """Map the files in turn until there are so many rows."""
    ids = [str(row) for row in range(ROWS_OF_A_FILE)]
    blocks = []
    for block in range(-(-rows // ROWS_OF_A_FILE)):
        file = block % files
        mapped = read_result(folder / f"{file}.safetensors", "key", ids)
        blocks.append(Block(mapped.dnabert_s, mapped.esm2, np.arange(ROWS_OF_A_FILE), file % 2))
    return Rows(blocks)


class Memory:
    """Watches the process's anonymous memory; `maximum` in MB."""

    def __init__(self) -> None:
        self.maximum, self.ended = 0.0, threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while not self.ended.wait(0.2):
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.maximum = max(self.maximum, now * 1024 / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=40, help="at least 2")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        write_files(folder, args.files)
        memory, start = Memory(), time.perf_counter()
        rows = map_rows(folder, args.files, args.rows)
        mapped = time.perf_counter() - start
        validation, fitting = map_rows(folder, 2, 2 * ROWS_OF_A_FILE), Fitting(max_epochs=1)
        fit(rows, validation, fitting, SEED, torch.device("cpu"))
        seconds = time.perf_counter() - start - mapped
        memory.ended.set()
    count = int(rows.counts.sum())
    size = count * sum(WIDTHS) * 4 / 1e9
    print(f"{count:,} rows of {sum(WIDTHS)} float32, {size:.1f} GB, {args.threads} threads")
    print(f"read and checked in {mapped:.0f} s")
    print(f"an epoch in {seconds:.0f} s, {count / seconds:,.0f} rows/s")
    fraction = memory.maximum / 1e3 / size
    print(f"peak memory: {memory.maximum:,.0f} MB, {fraction:.3f} of the embeddings")


if __name__ == "__main__":
    main()
