"""Repeats at both ends of contigs."""

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.chunking.terminal_repeats import LONGEST, SHORTEST, terminal_repeat
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking
from virnuc_rules.reading.fastx import Contig

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def bases(size: int, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=size))


def repeat_of(text: str) -> str | None:
    contig = Contig("c")
    contig.append(text.encode())
    return terminal_repeat(contig)


def inverted(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


@pytest.mark.parametrize("size", [SHORTEST, 127, 500, LONGEST])
def test_direct_and_inverted_repeats(size: int) -> None:
    end, middle = bases(size), bases(2000, seed=2)
    assert repeat_of(end + middle + end) == "DTR"
    assert repeat_of(end + middle + inverted(end)) == "ITR"
    assert repeat_of((end + middle + end).lower().replace("t", "u")) == "DTR"


def test_what_is_no_terminal_repeat() -> None:
    end, middle = bases(SHORTEST), bases(2000, seed=2)
    other = {"A": "C", "C": "A", "G": "T", "T": "G"}
    assert repeat_of(middle) is None
    assert repeat_of(end[:-1] + middle + end[:-1]) is None  # too short
    for at in (0, 10, SHORTEST - 1):  # one base differs
        changed = end[:at] + other[end[at]] + end[at + 1 :]
        assert repeat_of(end + middle + changed) is None
        assert repeat_of(end + middle + inverted(changed)) is None
    assert repeat_of(end + middle + end + "A") is None  # not at the end
    unknown = end[:5] + "N" + end[6:]
    assert repeat_of(unknown + middle + unknown) is None
    assert repeat_of("A" * 30 + middle + "A" * 30) is None
    assert repeat_of("TTAACTAACTAG" * 200) is None  # a repeat of the whole contig


@given(size=st.integers(0, 1200))
def test_short_contigs_are_not_looked_at(size: int) -> None:
    text = bases(size // 2) * 2
    assert (repeat_of(text) is None) == (len(text) < 1000)


def test_chunk_writes_them(tmp_path: Path) -> None:
    end, middle = bases(60), bases(1500, seed=2)
    contigs = {"d": end + middle + end, "i": end + middle + inverted(end), "n": middle, "e": ""}
    (tmp_path / "a.fa").write_text("".join(f">{n}\n{text}\n" for n, text in contigs.items()))
    write_chunks([tmp_path / "a.fa"], tmp_path / "out", Chunking(window=500), sample="s")
    found = pq.read_table(tmp_path / "out/contigs.parquet")["terminal_repeat"].to_pylist()
    assert found == ["DTR", "ITR", None, None]
