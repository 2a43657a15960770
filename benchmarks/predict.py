"""Speed and memory of `virnuc-rules predict` on a large sample, beside only reading its inputs.

    python benchmarks/predict.py [--windows 2000000] [--contigs mixed|short|one] [--keep DIR]

The sample is made here from a fixed seed: random contigs, chunked as always, with random embeddings
of the tests' bundle's widths. Prints windows per second, the peak resident memory of the process,
and the ratio to a process that only reads (and so checks) the same chunks, embeddings and
window table.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from chunk import mixed_lengths, peak_mb, write_fasta
from pathlib import Path

import numpy as np
import torch

from virnuc_rules.chunking.format import read_table
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.embedding.embedding_file import Computation, Embeddings, read_result, write_result
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.prediction.predict import predict
from virnuc_rules.queue.store import Store

BUNDLE = Path(__file__).parents[1] / "tests" / "data" / "bundle"
SAMPLE = "large"
WINDOW = 500


def make_sample(folder: Path, windows: int, contigs: str) -> None:
    total = windows * WINDOW
    lengths = {
        "mixed": lambda: mixed_lengths(int(total * 0.94)),  # a short contig is one window too
        "short": lambda: [WINDOW] * windows,
        "one": lambda: [total],
    }[contigs]()
    fasta = folder / "large.fa"
    write_fasta(fasta, lengths, seed=1)
    config = configure(folder)
    paths = RunFolder(config.run.results)
    write_chunks([fasta], paths.chunks(SAMPLE).path, config.chunking, sample=SAMPLE)
    tasks, store = Tasks.of(config.run, config.embedding), Store(config.run.results)
    widths = (tasks.card.dnabert_s.hidden_size, tasks.card.esm2.hidden_size)
    generator = torch.Generator().manual_seed(1)
    for task in tasks.of_sample(SAMPLE):
        ids = task.read().ids
        dnabert_s, esm2 = (torch.randn(len(ids), w, generator=generator) for w in widths)
        embeddings = Embeddings(ids, dnabert_s, esm2, Computation(precision="fp32", device="cpu"))
        path = store.result(task.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, task.key, config.embedding, embeddings)


def configure(folder: Path) -> Config:
    return Config.of(results=folder / "results", bundle=BUNDLE, window=WINDOW)


def read_only(folder: Path) -> None:
    """Read and check the files that `predict` needs, without using them."""
    config = configure(folder)
    store = Store(config.run.results)
    for task in Tasks.of(config.run, config.embedding).of_sample(SAMPLE):
        read_result(store.result(task.key), task.key, task.read().ids)
    for part in read_table(RunFolder(config.run.results).chunks(SAMPLE).windows):
        np.sum(part["open_frames"].to_numpy())


def work(folder: Path, name: str) -> None:
    start = time.perf_counter()
    if name == "read":
        read_only(folder)
    else:
        config = configure(folder)
        settings = (config.run, config.embedding, config.calling, config.probability)
        predict(*settings, SAMPLE, folder / "out")
    print(time.perf_counter() - start, time.process_time(), peak_mb())


def run(folder: Path, name: str) -> tuple[float, float, float]:
    command = [sys.executable, __file__, "--work", name, "--keep", str(folder)]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    seconds, cpu, megabytes = map(float, done.stdout.split())
    return seconds, cpu, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=2_000_000)
    parser.add_argument("--contigs", choices=("mixed", "short", "one"), default="mixed")
    parser.add_argument("--keep", type=Path, help="folder to make the sample in, or with a sample")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.work:
        work(args.keep, args.work)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if not (folder / "results").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_sample(folder, args.windows, args.contigs)
        manifest = read_manifest(RunFolder(folder / "results").chunks(SAMPLE))
        print(
            f"{manifest.contigs:,} contigs, {manifest.windows:,} windows, "
            f"{manifest.open_frames:,} open frames in {len(manifest.chunks)} chunks"
        )
        run(folder, "read")  # so that both runs below read from the page cache
        reading, cpu, _ = run(folder, "read")
        print(f"only reading: {reading:.1f} s, {cpu:.1f} s of CPU")
        seconds, cpu, megabytes = run(folder, "predict")
        print(f"predict: {seconds:.1f} s, {cpu:.1f} s of CPU; ", end="")
        print(f"{manifest.windows / seconds:,.0f} windows/s; peak memory {megabytes:.0f} MB")
        print(f"ratio: {seconds / reading:.2f}x")
        sizes = sorted((p.stat().st_size, p.name) for p in (folder / "out").rglob("*.*"))
        print("written: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for size, name in sizes[::-1]))


if __name__ == "__main__":
    main()
