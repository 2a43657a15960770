"""Chunking one long contig: memory does not grow with its length."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# VmHWM, since getrusage's peak of a child begins with that of the process that started it.
MEASURE = """
import sys
from pathlib import Path
from virnuc_rules.config.model import Chunking
from virnuc_rules.chunking.writer import write_chunks
source, out = map(Path, sys.argv[1:])
made = write_chunks([source], out, sample="a", chunking=Chunking(window=500, chunk_size=10_000))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(made.bases, made.open_frames, int(status["VmHWM"].split()[0]) // 1024)
"""


def gene_rich_megabases(number: int) -> Iterator[bytes]:
    """Random bases, in every second stretch of 1.5 kb without a stop in one frame."""
    rng = random.Random(1)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    sense = [codon for codon in codons if codon not in ("TAA", "TAG", "TGA")]
    stretches = ["".join(rng.choices(sense if even else codons, k=500)) for even in (0, 1) * 50]
    for _ in range(number):
        rng.shuffle(stretches)
        yield "".join(stretches * 7)[:1_000_000].encode()


def peak_mb(folder: Path, megabases: int, wrapped: bool) -> int:
    """Chunk one contig of this length in a process of its own; its peak resident memory."""
    source = folder / "long.fa"
    with source.open("wb") as out:
        out.write(b">long\n")
        for megabase in gene_rich_megabases(megabases):
            step = 80 if wrapped else len(megabase)
            newline = b"\n" if wrapped else b""
            out.writelines(megabase[at : at + step] + newline for at in range(0, 10**6, step))
        out.write(b"\n")
    command = [sys.executable, "-c", MEASURE, str(source), str(folder / "out")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    bases, open_frames, peak = map(int, run.stdout.split())
    assert bases == megabases * 1_000_000
    assert open_frames > 900 * megabases
    return peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("wrapped", [True, False])
def test_memory_does_not_grow_with_the_contig(tmp_path: Path, wrapped: bool) -> None:
    """60 Mb in one contig, in lines or in one line: little more than 6 Mb need."""
    peak = peak_mb(tmp_path, 60, wrapped)
    assert peak < 300
    assert peak < peak_mb(tmp_path, 6, wrapped) + 60
