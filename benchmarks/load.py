"""Time and memory of opening a bundle, beside reading its files.

    python benchmarks/load.py [--esm2 650M] [--repeats 3]

Makes a bundle of that shape with random fp32 weights. Then it reads the files, and opens the bundle
(compare hashes, map or convert the weights) and embeds one sequence with both networks. Each runs
in a process of its own, with the files dropped from the page cache. Prints the ratio of the times,
and the peak memory that opening added, as a ratio to the weights in memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from shapes import DNABERT_S, ESM2

from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embed import Networks, self_check
from virnuc_rules.models import card
from virnuc_rules.models.bundle import Bundle, write_card
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2

BUNDLE = Path(__file__).parents[1] / "tests" / "data" / "bundle"
BIG_FILES = (card.DNABERT_S, card.ESM2)


def make_bundle(folder: Path, size: str) -> None:
    shape = ESM2[size]
    torch.manual_seed(1)
    save_file(Dnabert(DNABERT_S).state_dict(), folder / card.DNABERT_S)
    save_file(Esm2(shape).state_dict(), folder / card.ESM2)
    (folder / card.TOKENIZER).write_bytes((BUNDLE / card.TOKENIZER).read_bytes())
    write_card(
        folder, name="benchmark", description="random weights", demo=True, window=500,
        dnabert_s=DNABERT_S, esm2=shape, classifier=None,
    )  # fmt: skip


def drop_from_cache(folder: Path) -> None:
    for name in BIG_FILES:
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(folder: Path) -> float:
    """Seconds to read both files once, into one buffer."""
    buffer = bytearray(1 << 22)
    start = time.perf_counter()
    for name in BIG_FILES:
        with (folder / name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def peak_memory() -> int:
    """Peak memory of this process in bytes. `ru_maxrss` would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def open_bundle(folder: Path, precision: str) -> tuple[float, float]:
    """Seconds to open, and the peak memory that it added, as a ratio to the weights."""
    before = peak_memory()
    start = time.perf_counter()
    networks = Networks.open(Bundle(folder), torch.device("cpu"), precision)
    seconds = time.perf_counter() - start
    self_check(networks, Embedding(precision=precision, batch_tokens=2048))
    added = peak_memory() - before
    parameters = [*networks.dnabert_s.parameters(), *networks.esm2.parameters()]
    return seconds, added / sum(p.numel() * p.element_size() for p in parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--esm2", choices=ESM2, default="650M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, kind = options.child
        print(*((read(Path(folder)), 0) if kind == "read" else open_bundle(Path(folder), kind)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_bundle(Path(name), options.esm2)
        size = sum((Path(name) / file).stat().st_size for file in BIG_FILES)
        print(f"ESM-2 {options.esm2} and DNABERT-S in fp32: {size / 1e9:.2f} GB")
        measured: dict[str, list[tuple[float, float]]] = {"read": [], "fp32": [], "bf16": []}
        for _ in range(options.repeats):
            for kind, runs in measured.items():
                drop_from_cache(Path(name))
                command = [sys.executable, __file__, "--child", name, kind]
                printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                seconds, memory = map(float, printed.split())
                runs.append((seconds, memory))
    reading = statistics.median(seconds for seconds, _ in measured.pop("read"))
    print(f"reading the files: {reading:.2f} s")
    for precision, runs in measured.items():
        seconds = statistics.median(run[0] for run in runs)
        memory = max(run[1] for run in runs)
        print(
            f"opening in {precision}: {seconds:.2f} s = {seconds / reading:.2f}x of reading; "
            f"peak memory {memory:.2f}x of the weights"
        )


if __name__ == "__main__":
    main()
