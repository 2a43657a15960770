"""Calls of contigs and viral regions, beside plain Python that follows the documented rule."""

import math
import statistics
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_rules.chunking.format import WINDOW_SCHEMA
from virnuc_rules.chunking.windows import count
from virnuc_rules.config.model import Calling
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_calls import (
    CUTOFFS,
    MIN_CALLED_FRACTION,
    ContigRule,
    contig_calls,
    with_windows,
)
from virnuc_rules.vocabulary import NO_REASON, Reason

# A window: its score and call, or the reason why it has none.
Window = tuple[float, bool] | str
SCORES = st.floats(0, 1, width=32)
WINDOW = st.one_of(
    st.tuples(SCORES, st.booleans()),
    st.sampled_from([reason for reason in Reason if reason != "too_few_called_windows"]),
)


def windows_of(*contigs: list[Window]) -> WindowCalls:
    flat = [(number, k, w) for number, contig in enumerate(contigs) for k, w in enumerate(contig)]
    reason = [Reason(w).code if isinstance(w, str) else NO_REASON for _, _, w in flat]
    return WindowCalls(
        contigs=len(contigs),
        index=np.array([number for number, _, _ in flat], np.int64),
        start=np.array([400 * k for _, k, _ in flat], np.int64),
        end=np.array([400 * k + 500 for _, k, _ in flat], np.int64),
        score=np.array([-np.inf if isinstance(w, str) else w[0] for _, _, w in flat], np.float32),
        reason=np.array(reason, np.int8),
        virus=np.array([not isinstance(w, str) and w[1] for _, _, w in flat], bool),
        margin=np.array([np.nan if isinstance(w, str) else w[0] for _, _, w in flat], np.float32),
        log_odds=np.zeros(len(flat)),
    )


def called(*contigs: list[Window], **rule: Any) -> list[dict[str, Any]]:
    windows = windows_of(*contigs)
    columns = contig_calls(windows, ContigRule(Calling(**rule), None))
    rows = zip(*(list(values) for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


V: Window = (0.75, True)
O: Window = (0.25, False)  # noqa: E741 - an other
N = "no_open_frame"


# --- contigs -----------------------------------------------------------------------------------


@given(contigs=st.lists(st.lists(WINDOW, max_size=9), min_size=1, max_size=6))
def test_columns_of_contigs_beside_plain_python(contigs: list[list[Window]]) -> None:
    for row, contig in zip(called(*contigs), contigs, strict=True):
        calls = [window for window in contig if not isinstance(window, str)]
        viral = [score for score, virus in calls if virus]
        scores = [score for score, _ in calls]
        assert (row["windows"], row["called_windows"]) == (len(contig), len(calls))
        assert row["viral_windows"] == len(viral)
        runs = [len(list(run)) for virus, run in groupby(v for _, v in calls) if virus]
        assert row["longest_run"] == max(runs, default=0)
        expected = {
            "viral_fraction": len(viral) / len(calls) if calls else math.nan,
            "viral_fraction_all": len(viral) / len(contig) if contig else math.nan,
            "score_mean": statistics.fmean(scores) if calls else math.nan,
            "score_median": statistics.median(scores) if calls else math.nan,
            "score_max": max(scores, default=math.nan),
            "margin": statistics.fmean(scores) if calls else math.nan,
            "probability": math.nan,
            "score_viral": statistics.fmean(viral) if viral else math.nan,
        }
        found = [row[name] for name in expected]
        smallest = float(np.finfo(np.float32).smallest_subnormal)
        np.testing.assert_allclose(found, list(expected.values()), rtol=1e-6, atol=smallest)
        if calls:
            is_virus = bool(viral) and row["viral_fraction"] >= 0.5 and row["score_viral"] >= 0.5
            is_virus &= 10 * len(calls) >= len(contig)
            assert (row["call"], row["reason"]) == ("virus" if is_virus else "non_viral", None)
        else:
            first = min(map(list(Reason).index, contig), default=-1)  # the last: too_short
            assert (row["call"], row["reason"]) == ("no_call", list(Reason)[first])


@pytest.mark.parametrize(
    ("rule", "calls"),
    [
        ({}, ["virus", "non_viral", "virus", "non_viral", "virus"]),
        ({"min_viral_fraction": 0.6}, ["virus", "non_viral", "non_viral", "non_viral", "virus"]),
        ({"min_viral_fraction": 0}, ["virus", "virus", "virus", "non_viral", "virus"]),
        ({"min_score": 0.75}, ["virus", "non_viral", "virus", "non_viral", "non_viral"]),
        ({"min_called_windows": 2}, ["no_call", "non_viral", "virus", "non_viral", "virus"]),
        ({"min_called_windows": 3}, ["no_call", "non_viral", "no_call", "non_viral", "no_call"]),
    ],
)
def test_the_rule(rule: dict[str, Any], calls: list[str]) -> None:
    contigs = [V, N], [V, O, O], [V, N, O], [O, O, O], [(0.75, True), (0.5, True)]
    rows = called(*contigs, **rule)
    assert [row["call"] for row in rows] == calls
    few = [row["reason"] for row in rows if row["call"] == "no_call"]
    assert set(few) <= {"too_few_called_windows"}


def test_limits_are_compared_as_they_are_written() -> None:
    """0.9 is 0.89999998 as float32, and 7 of 10 are 0.69999999."""
    contig = [(0.9, True)] * 7 + [O] * 3
    assert called(contig, min_score=0.9, min_viral_fraction=0.7)[0]["call"] == "virus"


def test_the_cutoffs_are_those_that_the_key_describes() -> None:
    described = Calling.model_fields["calls"].description
    assert described is not None
    for name, cutoff in CUTOFFS.items():
        assert f"{name} {cutoff}" in " ".join(described.split())
    assert 1 / MIN_CALLED_FRACTION == 10 and "at least a tenth" in " ".join(described.split())


@pytest.mark.parametrize(
    ("contig", "reason"),
    [
        ([V, N], "too_few_called_windows"),
        ([V, N, "embedding_failed"], "embedding_failed"),
        (["too_short", N], "no_open_frame"),
        (["ambiguous", "too_ambiguous"], "too_ambiguous"),
        (["too_short", "too_ambiguous"], "too_ambiguous"),
        (["too_short", "too_short"], "too_short"),
    ],
)
def test_the_most_telling_reason(contig: list[Window], reason: str) -> None:
    (row,) = called(contig, min_called_windows=2)
    assert (row["call"], row["reason"]) == ("no_call", reason)


# --- blocks ------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.one_of(st.just(0), st.integers(1, 90)), max_size=12),
    steps=st.tuples(st.integers(1, 5), st.integers(1, 20)),
    together=st.integers(1, 12),
)
def test_contigs_come_with_all_their_windows(
    lengths: list[int], steps: tuple[int, int], together: int
) -> None:
    sizes = [count(length, 10) for length in lengths]
    contigs = pa.table(
        {"contig_index": range(len(lengths)), "length": pa.array(lengths, pa.int64())}
    )
    number = np.repeat(np.arange(len(lengths)), sizes)
    rows = [{"contig_index": index, "start": row} for row, index in enumerate(number.tolist())]
    windows = pa.Table.from_pylist(rows, WINDOW_SCHEMA)
    parts = [
        [table.slice(at, step) for at in range(0, table.num_rows, step)]
        for table, step in zip((contigs, windows), steps, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virnuc_rules.prediction.contig_calls._ROWS", together)
        pairs = list(with_windows(*parts, 10))
    seen: list[int] = []
    for of_contigs, of_windows in pairs:
        own = of_contigs["contig_index"].to_pylist()
        assert own
        expected = [index for index in own for _ in range(sizes[index])]
        assert of_windows["contig_index"].to_pylist() == expected
        assert len(own) == 1 or len(expected) <= together + 9  # a contig has at most 9 windows
        seen += own
    assert seen == list(range(len(lengths)))
    assert [row for _, table in pairs for row in table["start"].to_pylist()] == list(
        range(len(number))
    )
