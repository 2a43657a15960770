"""Two thousand files through `write_chunks`: a right result or one clear line, nothing else."""

import bz2
import gzip
import lzma
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from packing import PACK

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking
from virnuc_rules.errors import InputError

FILES = 2000
SHARDS = 4
WINDOW = 30
STOPS = ("TAA", "TAG", "TGA")
COMPLEMENT = str.maketrans("ACGT", "TGCA")
Records = list[tuple[str, str]]


# --- files as people have them -----------------------------------------------------------------


def some_records(rng: random.Random) -> Records:
    letters = rng.choice(["ACGT", "ACGTN", "acgt", "ACGTacgtRYSWKMBDHVNnu", "ACGU"])
    names = rng.choice([("k141_{}", "c{}|x"), ("病毒{}", "<script>{}"), ('"a{},b"', "x_chunk_{}")])
    sizes = [
        rng.choice([0, 1, 2, 3, WINDOW, rng.randint(1, 200)]) for _ in range(rng.randint(1, 6))
    ]
    return [
        (rng.choice(names).format(number), "".join(rng.choices(letters, k=size)))
        for number, size in enumerate(sizes)
    ]


def fasta(rng: random.Random, records: Records) -> list[str]:
    width = rng.choice([7, 60, 10_000])
    lines = []
    for name, bases in records:
        lines.append(f">{name}" + rng.choice(["", " len=1 >x", "\tcov 2"]))
        lines += [bases[at : at + width] for at in range(0, len(bases), width)]
        lines += [""] * (rng.random() < 0.1)
    return lines


def fastq(rng: random.Random, records: Records) -> list[str]:
    lines: list[str] = []
    for name, bases in records:
        qualities = "".join(rng.choices("@+>I!~ACGT", k=len(bases)))
        lines += [f"@{name}" + rng.choice(["", " 1:N:0"]), bases, rng.choice(["+", f"+{name}"])]
        lines += [qualities] + [""] * (rng.random() < 0.1)
    return lines


def good_text(rng: random.Random) -> bytes:
    lines = rng.choice([fasta, fastq])(rng, some_records(rng))
    text = rng.choice(["\n", "\n", "\r\n"]).join([*lines, ""])
    ends = rng.random() < 0.8 or not lines[-1]  # an empty line of qualities needs its end
    return (text if ends else text.rstrip("\r\n")).encode()


def packed(rng: random.Random, text: bytes) -> bytes:
    pack = PACK[rng.choice(list(PACK))]
    cut = rng.randint(0, len(text)) if rng.random() < 0.3 else 0
    return pack(text[:cut]) + pack(text[cut:]) if cut else pack(text)


# --- and as they arrive ------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def remove(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 20) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    at, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return data[:end] + data[at:]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    what = [b"\n", b"\r", b">", b"@", b"+", b"\n>", b"\n@x\n", b" ", b"\0", b"\xff", b"-", b"E"]
    return data[:at] + rng.choice([*what, rng.randbytes(5)]) + data[at:]


def swap_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def append(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice([good_text(rng), packed(rng, good_text(rng)), bytes(8), b"junk"])


def noise(rng: random.Random, data: bytes) -> bytes:
    heads = (b"", b">", b"@", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
    return rng.choice(heads) + rng.randbytes(rng.randint(0, 80))


MUTATIONS = (flip, truncate, remove, repeat, insert, swap_lines, append, noise)


def any_file(rng: random.Random) -> tuple[bytes, bool]:
    """A file, and whether it is a good one."""
    text = good_text(rng)
    kind = rng.random()
    if kind < 0.3:
        return packed(rng, text), True
    if kind < 0.7:  # the text is damaged
        return packed(rng, rng.choice(MUTATIONS)(rng, text)), False
    return rng.choice(MUTATIONS)(rng, packed(rng, text)), False


# --- what is in a file, counted as simply as can be --------------------------------------------


def unpacked(data: bytes) -> bytes:
    tools: dict[bytes, Callable[[bytes], bytes]] = {
        b"\x1f\x8b": gzip.decompress,
        b"BZh": bz2.decompress,
        b"\xfd7zXZ\0": lambda d: lzma.decompress(d.rstrip(b"\0")),  # padding
        b"\x28\xb5\x2f\xfd": lambda d: pa.input_stream(pa.py_buffer(d), "zstd").read(),
    }
    return next((tool(data) for head, tool in tools.items() if data.startswith(head)), data)


def records_in(text: bytes) -> list[bytes]:
    """The bases of each record, upper case, U as T."""
    lines = [line.translate(None, b"\r \t") for line in text.split(b"\n")]
    if text.lstrip().startswith(b">"):
        records: list[bytes] = []
        for line in lines:
            if line.startswith(b">"):
                records.append(b"")
            elif line:
                records[-1] += line
    else:
        number, records = 0, []
        for line in lines:
            if number % 4 or line:  # blank lines may be between records
                records += [line] if number % 4 == 1 else []
                number += 1
    return [bases.upper().replace(b"U", b"T") for bases in records]


def is_open(strand: str, offset: int) -> bool:
    codons = [strand[at : at + 3] for at in range(offset, len(strand) - 2, 3)]
    return not set(codons) & set(STOPS) and any(set(codon) <= set("ACGT") for codon in codons)


def counts(data: bytes) -> tuple[int, int, int, int]:
    """Contigs, bases, windows, open frames."""
    records = records_in(unpacked(data))
    windows = []
    for bases in map(bytes.decode, records):
        number = -(-len(bases) // WINDOW)
        if not number:
            continue
        surplus = number * WINDOW - len(bases)
        step, more = divmod(surplus, number)
        more = surplus - step * (number - 1)
        starts = (index * (WINDOW - step) - min(index, more) for index in range(number))
        windows += [bases[start : start + WINDOW] for start in starts]
    strands = [s for w in windows for s in (w, w[::-1].translate(COMPLEMENT))]
    frames = sum(is_open(strand, offset) for strand in strands for offset in range(3))
    return len(records), sum(map(len, records)), len(windows), frames


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: each result is synced to the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_right_result_or_one_clear_line(folder: Path, shard: int) -> None:
    path, out = folder / "reads", folder / "out"
    before, outcome = b"", {"good": 0, "accepted": 0, "refused": 0}
    for number in range(shard, FILES, SHARDS):
        data, good = any_file(random.Random(number))
        path.write_bytes(data)
        try:
            made = write_chunks(
                [path], out, sample="lake", chunking=Chunking(window=WINDOW, chunk_size=50)
            )
        except InputError as error:
            message = str(error)
            assert not good, (number, message)
            assert message.startswith(f"sample lake: {path}: ") and message.isprintable()
            assert not before or (out / "manifest.json").read_bytes() == before
            outcome["refused"] += 1
            continue
        found = (made.contigs, made.bases, made.windows, made.open_frames)
        assert found == counts(data), number
        before = (out / "manifest.json").read_bytes()
        outcome["good" if good else "accepted"] += 1
    assert {entry.name for entry in folder.iterdir()} == {"reads", "out"}
    assert min(outcome.values()) > 0.05 * FILES / SHARDS, outcome
