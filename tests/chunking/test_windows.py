"""Windows against a slow reference, written from the description of VirNucPro's algorithm."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from virnuc_rules.chunking.windows import Windows, count, cut, span

LENGTHS = st.integers(0, 4000)
WINDOW = st.integers(1, 600)


def reference(length: int, window: int) -> list[tuple[int, int]]:
    """Cut one contig, step by step, into (start, end)."""
    number = math.ceil(length / window)
    if number == 0:
        return []
    surplus = number * window - length
    lower = surplus // number
    longer_overlaps = surplus - lower * (number - 1)
    start, windows = 0, []
    for step in range(number):
        windows.append((start, min(start + window, length)))
        start += window - (lower + 1 if step < longer_overlaps else lower)
    return windows


def cut_one(length: int, first: int, number: int, window: int) -> Windows:
    return cut(np.array([length]), np.array([first]), np.array([number]), window)


def pairs(windows: Windows) -> list[tuple[int, int]]:
    return list(zip(windows.start.tolist(), windows.end.tolist(), strict=True))


@given(LENGTHS, WINDOW)
@example(500, 500)
@example(501, 500)
@example(999, 500)
@example(1000, 500)
@example(2, 1)
@example(1, 600)
@settings(deadline=None, max_examples=300)
def test_windows_are_those_of_the_reference(length: int, window: int) -> None:
    expected = reference(length, window)
    assert count(length, window) == len(expected)
    windows = cut_one(length, 0, len(expected), window)
    assert len(windows) == len(expected)
    assert pairs(windows) == expected
    assert windows.number.tolist() == list(range(1, len(expected) + 1))
    assert windows.contig.tolist() == [0] * len(expected)


@given(st.lists(LENGTHS, max_size=8), WINDOW)
@settings(deadline=None)
def test_contigs_are_cut_independently(lengths: list[int], window: int) -> None:
    number = np.array([count(length, window) for length in lengths], np.int64)
    windows = cut(np.array(lengths, np.int64), np.zeros_like(number), number, window)
    assert pairs(windows) == [pair for length in lengths for pair in reference(length, window)]
    assert windows.contig.tolist() == np.repeat(np.arange(len(lengths)), number).tolist()
    assert windows.number.tolist() == [n + 1 for many in number.tolist() for n in range(many)]


@given(LENGTHS, WINDOW)
@settings(deadline=None, max_examples=300)
def test_every_base_is_covered(length: int, window: int) -> None:
    windows = pairs(cut_one(length, 0, count(length, window), window))
    reached = 0
    for start, end in windows:
        assert start <= reached, "a gap between windows"
        assert start < end <= length
        assert end - start <= window
        reached = end
    assert reached == length
    assert sorted(windows) == windows


@given(st.integers(1, 4000), WINDOW, st.data())
@settings(deadline=None)
def test_pieces_put_together_are_the_whole(length: int, window: int, data: st.DataObject) -> None:
    total = count(length, window)
    ends = sorted({*data.draw(st.lists(st.integers(0, total), max_size=6)), 0, total})
    pieces = [
        cut_one(length, first, end - first, window) for first, end in itertools.pairwise(ends)
    ]
    whole = cut_one(length, 0, total, window)
    for name in ("contig", "number", "start", "end"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        assert joined.tolist() == getattr(whole, name).tolist()


@given(st.integers(1, 4000), WINDOW, st.data())
@settings(deadline=None)
def test_span_is_what_the_windows_cover(length: int, window: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count(length, window) - 1))
    number = data.draw(st.integers(1, count(length, window) - first))
    covered = reference(length, window)[first : first + number]
    assert span(length, first, number, window) == (covered[0][0], covered[-1][1])


def test_positions_beyond_32_bits() -> None:
    length, window = 5_000_000_001, 500
    total = count(length, window)
    assert total == 10_000_001
    windows = cut_one(length, total - 2, 2, window)
    assert windows.start.min() > 2**32
    assert windows.end[-1] == length
    assert span(length, total - 2, 2, window) == (windows.start[0], length)


def test_an_empty_contig_has_no_windows() -> None:
    assert count(0, 500) == 0
    assert len(cut_one(0, 0, 0, 500)) == 0
    assert span(0, 0, 0, 500) == (0, 0)


@pytest.mark.parametrize(
    ("length", "first", "number"),
    [(1000, 0, 3), (1000, 2, 1), (1000, -1, 1), (0, 0, 1), (500, 1, 1)],
)
def test_windows_that_do_not_exist_are_an_error(length: int, first: int, number: int) -> None:
    with pytest.raises(ValueError, match="beyond the end of a contig"):
        cut_one(length, first, number, 500)


def test_one_bad_contig_among_good_ones_is_an_error() -> None:
    with pytest.raises(ValueError, match="beyond the end of a contig"):
        cut(np.array([1000, 1000]), np.array([0, 1]), np.array([2, 2]), 500)


def test_span_of_windows_that_do_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="beyond the end of a contig"):
        span(1200, 2, 2, 500)
