"""Viral regions: the hidden Markov model beside sums over all its paths, and what it finds."""

import gzip
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Bio import SeqIO
from embedded import configure, folder_of, predict, work
from harness import DEMO, REPO, read_tsv
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking
from virnuc_rules.models.calibration import Odds
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.regions import (
    NON_VIRAL_LENGTH,
    VIRAL_LENGTH,
    posteriors,
    viral_regions,
)
from virnuc_rules.vocabulary import NO_REASON, Reason

ODDS = st.floats(-30, 30)
STEP = 400  # bases from window to window
NOTHING = None  # a window without an open frame
(SILENT,) = Odds.of(None).evidence(np.array([np.nan], np.float32), np.array([True]))


def windows_of(*contigs: list[float | None], step: int = STEP) -> WindowCalls:
    """Windows of contigs by their log odds."""
    flat = [(number, k, w) for number, contig in enumerate(contigs) for k, w in enumerate(contig)]
    called = np.array([w is not None for _, _, w in flat], bool)
    odds = np.array([SILENT if w is None else w for _, _, w in flat], np.float64)
    return WindowCalls(
        contigs=len(contigs),
        index=np.array([number for number, _, _ in flat], np.int64),
        start=np.array([step * k for _, k, _ in flat], np.int64),
        end=np.array([step * k + 500 for _, k, _ in flat], np.int64),
        score=odds.astype(np.float32),
        reason=np.where(called, NO_REASON, Reason.NO_OPEN_FRAME.code).astype(np.int8),
        virus=odds >= 0,
        margin=odds.astype(np.float32),
        log_odds=odds,
    )


def regions_of(*contigs: list[float | None], prevalence: float = 0.5, **more: Any) -> list[Any]:
    found = viral_regions(windows_of(*contigs, **more), prevalence)
    columns = found.index, found.start, found.end, found.windows
    return list(zip(*(column.tolist() for column in columns), strict=True))


def over_all_paths(odds: list[float], distance: int, prevalence: float) -> list[float]:
    """The posteriors by their definition. States: 0 not viral, 1 viral."""
    out, back = 1 / NON_VIRAL_LENGTH, 1 / VIRAL_LENGTH
    whole = math.exp(-((len(odds) - 1) * distance + 500) / NON_VIRAL_LENGTH)
    long_run = out / (out + back)
    start = whole * prevalence + (1 - whole) * long_run
    move = expm(np.array([[-out, out], [back, -back]]) * distance)
    weight = np.zeros((2, len(odds)))
    for path in itertools.product((0, 1), repeat=len(odds)) if odds else ():
        p = start if path[0] else 1 - start
        for state, value in zip(path, odds, strict=True):
            p *= math.exp(value * state - max(value, 0))
        for one, two in itertools.pairwise(path):
            p *= move[one, two]
        for k, state in enumerate(path):
            weight[state, k] += p
    return (weight[1] / weight.sum(0)).tolist()


@given(
    contigs=st.lists(st.lists(ODDS, max_size=7), min_size=1, max_size=4),
    step=st.integers(1, 100_000),
    prevalence=st.floats(0.001, 0.999),
)
def test_posteriors_are_sums_over_all_paths(
    contigs: list[list[float]], step: int, prevalence: float
) -> None:
    found = posteriors(windows_of(*contigs, step=step), prevalence)
    expected = [p for odds in contigs for p in over_all_paths(odds, step, prevalence)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_contigs_do_not_depend_on_each_other() -> None:
    draw = np.random.default_rng(1)
    contigs = [draw.normal(0, 3, size).tolist() for size in (5, 0, 40, 1, 17, 40)]
    together = posteriors(windows_of(*contigs), 0.3)
    alone = [posteriors(windows_of(contig), 0.3) for contig in contigs]
    assert np.array_equal(together, np.concatenate(alone))


def test_a_region_ends_with_windows_that_have_a_call() -> None:
    contig = [-4.0] * 9 + [NOTHING, *[4.0] * 6, NOTHING, NOTHING] + [-4.0] * 9
    assert regions_of(contig) == [(0, 10 * STEP, 15 * STEP + 500, 6)]
    assert regions_of([NOTHING, 4.0, 4.0, NOTHING]) == [(0, STEP, 2 * STEP + 500, 2)]


def test_windows_without_a_call_inside_a_region() -> None:
    found = viral_regions(windows_of([4.0, NOTHING, NOTHING, 4.0, 4.0]), 0.5)
    assert found.windows.tolist() == [5] and found.evidence.tolist() == [np.float32(0.6)]
    assert 0.99 < found.posterior[0] < 1


def test_a_long_stretch_without_evidence_is_no_region() -> None:
    """S2: two viral kb with 60 kb between them that have no open frame."""
    contig = [4.0] * 3 + [NOTHING] * 150 + [4.0] * 3
    assert regions_of(contig) == [(0, 0, 1300, 3), (0, 153 * STEP, 155 * STEP + 500, 3)]


def test_a_non_viral_window_in_a_virus_does_not_cut_it() -> None:
    contig = [-4.0] * 20 + [3.0] * 10 + [-2.0] + [3.0] * 10 + [-4.0] * 20
    assert regions_of(contig) == [(0, 20 * STEP, 40 * STEP + 500, 21)]


def test_a_single_window_among_many_others_is_no_region() -> None:
    assert regions_of([-4.0] * 20 + [5.0] + [-4.0] * 20) == []


def test_reads_of_one_window_are_called_by_their_odds() -> None:
    assert regions_of([0.1], [-0.1], [NOTHING]) == [(0, 0, 500, 1)]
    assert regions_of([2.0], [5.0], prevalence=0.05) == [(1, 0, 500, 1)]


def test_nothing() -> None:
    assert regions_of([]) == [] and regions_of([], []) == []


@pytest.mark.parametrize("sizes", [(3000, 1, 2), (1,) * 1000])
def test_extreme_odds_give_numbers(sizes: tuple[int, ...]) -> None:
    draw = np.random.default_rng(2)
    contigs = [(draw.choice([-1e4, 1e4, 0], size)).tolist() for size in sizes]
    assert np.isfinite(posteriors(windows_of(*contigs), 0.5)).all()


def test_viral_kb_in_contigs_without_open_frames(tmp_path: Path) -> None:
    """S2: not one region of 62 kb; what is seen of both, and the whole virus as one.

    S1: a contig of 242 windows of which one or two have a call is not virus.
    """
    with gzip.open(DEMO["gut"], "rt") as handle:
        (virus,) = (r.seq for r in SeqIO.parse(handle, "fasta") if r.id == "K01711.1")
    between = "TTAACTAACTAG" * 5000
    around = "TTAACTAACTAG" * 5000
    fasta = f">two\n{virus[1000:2000]}{between}{virus[5000:6000]}\n>whole\n{virus}\n"
    fasta += f">one\n{around}{virus[1000:2000]}{around}\n"
    (tmp_path / "gut.fa").write_text(fasta)
    config = configure(tmp_path / "results").replace(bundle=REPO / "demo/bundle")
    write_chunks([tmp_path / "gut.fa"], folder_of(config).path, Chunking(window=500), sample="gut")
    work(config)
    predict(config, "gut", tmp_path / "out")
    regions = read_tsv(tmp_path / "out/regions.tsv")
    found = [(row["contig"], int(row["start"]), int(row["end"])) for row in regions]
    (first, second) = ((start, end) for contig, start, end in found[:2] if contig == "two")
    assert 0 <= first[0] < first[1] <= 1_000 and 61_000 <= second[0] < second[1] <= 62_000
    contigs = {row["contig"]: row for row in read_tsv(tmp_path / "out/contigs.tsv")}
    calls = {name: row["call"] for name, row in contigs.items()}
    assert calls == {"two": "non_viral", "whole": "virus", "one": "non_viral"}
    assert 0 < int(contigs["one"]["called_windows"]) < 4 < int(contigs["one"]["windows"])
    (contig, start, end), *_ = found[2:]
    assert (contig, start) == ("whole", 0) and end > 0.9 * len(virus)
