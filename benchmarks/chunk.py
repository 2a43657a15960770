"""Speed and memory of `virnuc-rules chunk`, beside a plain Biopython implementation.

    python benchmarks/chunk.py [--megabases 200] [--long-megabases 500]

Prints MB of input per second and core, the peak resident memory, and the ratio to the plain
implementation (Biopython parsing and translation, one window at a time) run in the same process on
the first part of the same file. The input is made here from a fixed seed: contigs of log-normal
length (median 1.5 kb, up to 1 Mb), half of the bases in stop-free stretches as in real genes.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.Seq import Seq

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking

CHUNKING = Chunking(window=500, chunk_size=10_000)
WINDOW = CHUNKING.window
STOPS = (b"TAA", b"TAG", b"TGA")


def random_bases(generator: np.random.Generator, size: int) -> bytes:
    """Random bases; every second kilobase has no stop in its first frame, like a gene."""
    codes = generator.integers(0, 4, size=size - size % 3 + 3, dtype=np.uint8)
    bases = np.frombuffer(b"ACGT", np.uint8)[codes].reshape(-1, 3)
    gene = (np.arange(len(bases)) // 333) % 2 == 0
    for stop in STOPS:
        hit = gene & (bases == np.frombuffer(stop, np.uint8)).all(axis=1)
        bases[hit, 0] = ord("C")
    return bases.tobytes()[:size]


def write_fasta(path: Path, lengths: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    with path.open("wb") as out:
        for index, length in enumerate(lengths):
            out.write(b">contig_%d\n" % index)
            for start in range(0, length, 6_000_000):
                bases = random_bases(generator, min(6_000_000, length - start))
                lines = (bases[at : at + 60] for at in range(0, len(bases), 60))
                out.write(b"\n".join(lines) + b"\n")


def mixed_lengths(total: int) -> list[int]:
    generator = np.random.default_rng(0)
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        drawn = generator.lognormal(np.log(1500), 1.4, 10_000).astype(int).clip(100, 1_000_000)
        for length in drawn:
            lengths.append(min(int(length), left))
            left -= lengths[-1]
            if left <= 0:
                break
    return lengths


def plain(path: Path, limit: int) -> tuple[int, int]:
    """Do VirNucPro's work with Biopython; return the bases read and the open frames counted."""
    bases = frames = 0
    for record in SeqIO.parse(path, "fasta"):
        length = len(record.seq)
        windows = -(-length // WINDOW)
        surplus = windows * WINDOW - length
        shorten = surplus // windows
        one_more = surplus - shorten * (windows - 1)
        for index in range(windows):
            start = index * (WINDOW - shorten) - min(index, one_more)
            window = record.seq[start : start + WINDOW].upper()
            for strand in (window, window.reverse_complement()):
                for frame in range(3):
                    usable = (len(strand) - frame) // 3 * 3
                    protein = str(Seq(strand[frame : frame + usable]).translate())
                    if usable and "*" not in protein:
                        frames += 1
        bases += length
        if bases >= limit:
            break
    return bases, frames


def peak_mb() -> float:
    """Peak resident memory of this process. `getrusage` of a child would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def timed_chunk(path: Path, folder: Path) -> float:
    """Chunk a file, print what it took, and return megabytes a second and core."""
    start, cpu = time.perf_counter(), time.process_time()
    manifest = write_chunks([path], folder / "out", CHUNKING, sample="benchmark")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    size = path.stat().st_size / 1e6
    rate = size / max(seconds, cpu)
    print(
        f"{size:.0f} MB, {manifest.contigs:,} contigs, {manifest.windows:,} windows, "
        f"{manifest.open_frames:,} open frames: {seconds:.2f} s, {cpu:.2f} s of CPU; "
        f"{rate:.1f} MB/s a core; peak memory {peak_mb():.0f} MB"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabases", type=int, default=200)
    parser.add_argument("--long-megabases", type=int, default=500)
    parser.add_argument("--only-chunk", type=Path, help=argparse.SUPPRESS)  # a process of its own
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.only_chunk:
            timed_chunk(args.only_chunk, Path(folder))
            return
        fasta = Path(folder) / "mixed.fa"
        write_fasta(fasta, mixed_lengths(args.megabases * 1_000_000), seed=1)
        print("mixed contigs:", end=" ", flush=True)
        virnuc = timed_chunk(fasta, Path(folder))
        gc.collect()
        start = time.perf_counter()
        bases, frames = plain(fasta, 3_000_000)
        biopython = bases / 1e6 / (time.perf_counter() - start)
        print(f"plain Biopython: {biopython:.2f} MB/s ({bases:,} bases, {frames:,} open frames)")
        print(f"ratio: {virnuc / biopython:.0f}x")
        if args.long_megabases:
            write_fasta(fasta, [args.long_megabases * 1_000_000], seed=2)
            print("one long contig:", end=" ", flush=True)
            command = [sys.executable, __file__, "--only-chunk", str(fasta)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
