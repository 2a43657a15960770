"""Open frames against a slow reference that translates codon by codon with Biopython."""

import functools
import itertools
import random

import numpy as np
import pytest
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_rules.chunking.open_frames import OpenFrames, open_frames
from virnuc_rules.vocabulary import NO_REASON, Frame, Reason

FRAMES = list(Frame)
IUPAC = "ACGTURYSWKMBDHVN"
COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
# Few stops, many stops, a few unknown letters, mostly unknown letters.
CODES = (1, 4, 11, 15)
LETTERS = st.sampled_from(["ACGT", "ACG", "CGT", "TAG", "ACGTACGTN", "ACGRYN", IUPAC, "NRY"])
Open = tuple[str, str, str]  # name, nucleotides, protein


@functools.cache
def translate(codon: str, code: int = 1) -> str:
    """One letter of NCBI's table, nothing for a codon with an unknown letter."""
    return str(Seq(codon).translate(table=code)) if set(codon) <= set("ACGT") else ""


def reverse_complement(bases: str) -> str:
    return "".join(COMPLEMENT.get(base, base) for base in reversed(bases))


def codons(strand: str, offset: int) -> list[str]:
    return [strand[at : at + 3] for at in range(offset, len(strand) - 2, 3)]


def reference(window: str, code: int = 1) -> tuple[list[Open], str]:
    """The open frames of a window, and the reason where there are none."""
    frames, stop_free = [], False
    for direction, strand in (("F", window), ("R", reverse_complement(window))):
        for offset in range(3):
            parts = codons(strand, offset)
            protein = "".join(translate(codon, code) for codon in parts)
            if not parts or "*" in protein:
                continue
            stop_free = True
            if protein:
                nucleotide = strand[offset : offset + 3 * len(protein) + 1]
                frames.append((f"{direction}{offset + 1}", nucleotide, protein))
    if frames:
        return frames, ""
    if len(window) < 3:
        return [], "too_short"
    return [], "ambiguous" if stop_free else "no_open_frame"


def find(bases: str, windows: list[tuple[int, int]], code: int = 1) -> OpenFrames:
    start, end = np.array(windows, np.int64).reshape(-1, 2).T
    return open_frames(bases.encode(), start, end, code)


def reason_of(code: int) -> str:
    return "" if code == NO_REASON else list(Reason)[code]


def check(bases: str, windows: list[tuple[int, int]], code: int = 1) -> None:
    """Compare all that `open_frames` says of these windows with the reference."""
    found = find(bases, windows, code)
    expected = [reference(bases[start:end], code) for start, end in windows]
    rows = [(window, *frame) for window, (frames, _) in enumerate(expected) for frame in frames]
    names = [FRAMES[frame] for frame in found.frame]
    nucleotide = [bases.decode() for bases in found.nucleotide]
    protein = [residues.decode() for residues in found.protein]
    assert list(zip(found.window.tolist(), names, nucleotide, protein, strict=True)) == rows
    assert [reason_of(code) for code in found.reason] == [reason for _, reason in expected]
    assert len(found.start) == len(found.end) == len(rows)


@st.composite
def buffers(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """Letters, and windows anywhere in them: overlapping, in any order, some empty."""
    bases = draw(st.text(draw(LETTERS), max_size=120))
    place = st.integers(0, len(bases))
    windows = draw(st.lists(st.tuples(place, place).map(lambda ends: tuple(sorted(ends)))))
    return bases, windows


@given(buffers(), st.sampled_from(CODES))
@settings(deadline=None, max_examples=400)
def test_short_windows(buffer: tuple[str, list[tuple[int, int]]], code: int) -> None:
    check(*buffer, code)


@given(LETTERS.flatmap(lambda letters: st.text(letters, max_size=60)))
@settings(deadline=None, max_examples=200)
def test_one_window_that_is_the_whole_buffer(bases: str) -> None:
    check(bases, [(0, len(bases))])


def gene_like(rng: random.Random, size: int) -> str:
    """Stretches without a stop in one frame of one strand, with rare unknown letters."""
    stretches: list[str] = []
    while sum(map(len, stretches)) < size:
        many = (rng.choices("ACGT", k=3) for _ in range(rng.randint(50, 400)))
        sense = ("".join(codon) for codon in many if translate("".join(codon)) != "*")
        stretch = "".join(sense)
        stretches.append(stretch if rng.random() < 0.5 else reverse_complement(stretch))
    return "".join(
        rng.choice(IUPAC) if rng.random() < 0.002 else base for base in "".join(stretches)
    )


@pytest.mark.parametrize("seed", range(10))
def test_windows_of_real_size(seed: int) -> None:
    rng = random.Random(seed)
    bases = gene_like(rng, 5000)
    starts = [rng.randrange(len(bases) - 10) for _ in range(40)]
    windows = [(at, min(at + rng.choice([300, 500, 1000]), len(bases))) for at in starts]
    check(bases, windows)
    assert len(find(bases, windows).frame) > 5, "the test data has no open frames"


@given(st.text("ACGT", min_size=3, max_size=120), st.data())
@settings(deadline=None, max_examples=200)
def test_coordinates_are_those_of_the_codons(bases: str, data: st.DataObject) -> None:
    place = st.integers(0, len(bases))
    ends = data.draw(st.lists(st.tuples(place, place), min_size=1, max_size=8))
    windows = [(min(pair), max(pair)) for pair in ends]
    found = find(bases, windows)
    for row, window in enumerate(found.window):
        left, right = windows[window]
        start, end = int(found.start[row]), int(found.end[row])
        assert left <= start < end <= right
        name, offset = FRAMES[found.frame[row]], int(FRAMES[found.frame[row]][1]) - 1
        if name[0] == "F":
            strand = bases[start:end]
            assert start == left + offset
        else:
            strand = reverse_complement(bases[start:end])
            assert end == right - offset
        assert str(Seq(strand).translate(table=1)) == found.protein[row].decode()
        assert found.nucleotide[row].decode()[: end - start] == strand


@given(buffers())
@settings(deadline=None)
def test_coordinates_cover_dropped_codons_too(
    buffer: tuple[str, list[tuple[int, int]]],
) -> None:
    bases, windows = buffer
    found = find(bases, windows)
    for row, window in enumerate(found.window):
        left, right = windows[window]
        offset = int(FRAMES[found.frame[row]][1]) - 1
        assert found.end[row] - found.start[row] == (right - left - offset) // 3 * 3


@pytest.mark.parametrize("code", CODES)
def test_every_codon_translates_as_in_biopython(code: int) -> None:
    """In all six frames, alone and after each first or second base, also with unknown letters."""
    for codon in map("".join, itertools.product("ACGTN", repeat=3)):
        for before in ("", "C", "CC"):
            bases = f"{before}{codon}GC"
            check(bases, [(0, len(bases))], code)


@pytest.mark.parametrize(
    ("code", "codons", "protein"),
    [(4, "TGAATTAAATTAATTTAT", b"WIKLIY"), (15, "TAGTTGTTTTTAATTAAT", b"QLFLIN")],
)
def test_a_recoded_stop_opens_a_frame_with_its_code_only(
    code: int, codons: str, protein: bytes
) -> None:
    """The other five frames have TAA, a stop of all codes."""
    bases = codons * 25
    for other in CODES:
        found = find(bases, [(0, len(bases))], other)
        opened = [Frame.F1.code] if other == code else []
        assert found.frame.tolist() == opened
        assert found.protein == [protein * 25] * len(opened)
        assert reason_of(found.reason[0]) == ("" if opened else "no_open_frame")


@pytest.mark.parametrize("letter", [*IUPAC])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_codon_with_an_unknown_letter_is_dropped(letter: str, place: int) -> None:
    codon = "".join("C" if at != place else letter for at in range(3))
    check(f"GGC{codon}GGC", [(0, 9)])


def test_the_nucleotides_have_one_base_more_than_the_codons() -> None:
    frames = find("ATGGCCAAGC", [(0, 10)])
    first = dict(zip(frames.frame.tolist(), frames.nucleotide, strict=True))
    assert first[Frame.F1.code] == b"ATGGCCAAGC"  # 3 codons, 10 bases
    assert first[Frame.F2.code] == b"TGGCCAAGC"  # no base is left: 3 codons, 9 bases


def test_dropped_codons_shorten_the_nucleotides() -> None:
    frames = find("ATGNNNGCCAAG", [(0, 12)])
    assert frames.protein[0] == b"MAK"
    assert frames.nucleotide[0] == b"ATGNNNGCCA"
    assert (frames.start[0], frames.end[0]) == (0, 12)


@pytest.mark.parametrize(
    ("bases", "reason"),
    [
        ("", "too_short"),
        ("AC", "too_short"),
        ("NN", "too_short"),
        ("NNN", "ambiguous"),
        ("ACNGTN", "ambiguous"),
        ("N" * 500, "ambiguous"),
        ("TAACTAACTAACTTAGTTAGTTAG", "no_open_frame"),
        ("ACG", ""),
        ("NNNACG", ""),
    ],
)
def test_reasons(bases: str, reason: str) -> None:
    found = find(bases, [(0, len(bases))])
    assert [reason_of(code) for code in found.reason] == [reason]
    assert (len(found.frame) == 0) == (reason != "")
    assert reference(bases)[1] == reason


def test_no_windows() -> None:
    found = find("ACGT", [])
    assert len(found.frame) == len(found.reason) == len(found.protein) == 0
