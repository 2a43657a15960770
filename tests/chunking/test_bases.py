"""The bases that `chunk` keeps: every letter comes back, in little space and memory."""

import random
from contextlib import closing
from pathlib import Path

import pytest
from chunk_folders import chunk_it, contents
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.chunking import bases as module
from virnuc_rules.chunking.bases import Bases, BasesWriter
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError
from virnuc_rules.reading.fastx import IUPAC

KINDS = ["ACGT", "acgt", "ACGU", "acguACGU", "ACGTU", "NACGT", "N", IUPAC.decode()]


@given(
    parts=st.lists(
        st.sampled_from(KINDS).flatmap(lambda letters: st.text(letters, max_size=40)), max_size=8
    ),
    block=st.integers(1, 50),
    data=st.data(),
)
def test_any_stretch_comes_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], block: int, data: st.DataObject
) -> None:
    whole = "".join(parts).encode()
    folder = ChunkFolder(tmp_path_factory.mktemp("bases"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        with closing(BasesWriter(folder)) as writer:
            for part in parts:
                writer.add(part.encode())
    place = st.integers(0, len(whole))
    stretches = data.draw(st.lists(st.tuples(place, place), max_size=5))
    with closing(Bases(folder, len(whole))) as bases:
        for start, end in map(sorted, [(0, len(whole)), *stretches]):
            assert bases.read(start, end) == whole[start:end]


def forms() -> dict[str, bytes]:
    """A million bases in each of the forms that people have."""
    draw = random.Random(5)
    plain = "".join(draw.choices("ACGT", k=1_000_000))
    masked, at = list(plain), 0
    while at < len(masked):  # half of it, as in genomes with repeats
        at += draw.randrange(600)
        end = at + draw.randrange(600)
        masked[at:end] = map(str.lower, masked[at:end])
        at = end
    some_n = "".join(letter if draw.random() > 0.001 else "N" for letter in plain)
    gaps = plain[:300_000] + "N" * 400_000 + plain[:300_000]
    texts = {"plain": plain, "masked": "".join(masked), "rna": plain.replace("T", "U"),
             "lower": plain.lower(), "0.1 % N": some_n, "gaps": gaps}  # fmt: skip
    return {name: text.encode() for name, text in texts.items()}


def test_a_base_takes_less_than_three_tenths_of_a_byte(tmp_path: Path) -> None:
    for name, text in forms().items():
        folder = ChunkFolder(tmp_path)
        with closing(BasesWriter(folder)) as writer:
            writer.add(text)
        size = folder.bases.stat().st_size / len(text)
        print(f"{name}: {size:.3f} bytes a base")
        assert size < 0.27, name


def test_other_blocks_than_those_of_the_manifest(tmp_path: Path) -> None:
    folder = ChunkFolder(tmp_path)
    with closing(BasesWriter(folder)) as writer:
        writer.add(b"ACGT" * 10)
    for wrong in (39, 41, 0):
        with pytest.raises(ChunkError, match=f"not the {wrong} bases of the manifest; delete "):
            Bases(folder, wrong)


def test_the_file_does_not_depend_on_the_pieces(tmp_path: Path) -> None:
    text = forms()["masked"] * 3
    written = []
    for size in (7, 150, 1 << 20, len(text)):
        folder = ChunkFolder(tmp_path / str(size))
        folder.path.mkdir()
        with closing(BasesWriter(folder)) as writer:
            for at in range(0, len(text), size):
                writer.add(text[at : at + size])
        written.append(folder.bases.read_bytes())
    assert len(set(written)) == 1


@pytest.mark.parametrize("size", [1, 300, 700, 1234, 1 << 20])
def test_chunking_keeps_the_bases_of_all_contigs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Windows overlap, and long contigs are read in pieces: each base is kept once."""
    monkeypatch.setattr("virnuc_rules.chunking.writer._BLOCK", size)
    source = tmp_path / "in.fa"
    draw = random.Random(2)
    records = ["".join(draw.choices("ACGTacgtN", k=n)) for n in (5000, 3, 0, 701, 700)]
    source.write_text("".join(f">c{n}\n{text}\n" for n, text in enumerate(records)))
    manifest = chunk_it(source, tmp_path / "out")
    with closing(Bases(ChunkFolder(tmp_path / "out"), manifest.bases)) as bases:
        assert bases.read(0, manifest.bases).decode() == "".join(records)
    assert "bases.parquet" in contents(tmp_path / "out")
