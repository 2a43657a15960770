"""The model of contigs: fitted to pieces, measured on held-out groups, and what it calls."""

from typing import Any

import numpy as np
import pytest

from virnuc_rules.config.model import Calling
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import CalibrationCurve, ContigModel
from virnuc_rules.models.prevalence import at_prevalence, estimate_prevalence, expected_fdr
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_calls import CUTOFFS, ContigRule, contig_calls
from virnuc_rules.prediction.contig_model import BOUNDS, FEATURES, contig_log_odds, features
from virnuc_rules.training.contig_fit import SIZES, Pieces, cut_pieces, fit_contig_model
from virnuc_rules.vocabulary import NO_REASON, Label, Reason

WINDOW = 500
ODDS = Odds(
    CalibrationCurve(method="temperature", temperature=1.0),
    {Label.VIRUS: 0.3, Label.NON_VIRAL: 0.45},
)


def contigs_of(
    virus: np.ndarray, windows: np.ndarray, seed: int, spread: float = 1.5
) -> WindowCalls:
    """Contigs [C] with so many windows, that resemble their label more or less as a whole."""
    draw = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(virus)), windows)
    number = np.arange(len(index)) - (np.cumsum(windows) - windows)[index]
    own = draw.normal(0, 1, len(virus))  # windows of a contig are alike
    middle = np.where(virus, 1.0, -1.0) + own
    margin = draw.normal(middle[index], spread).astype(np.float32)
    silent = draw.random(len(index)) < np.where(virus, 0.3, 0.45)[index]
    margin[silent] = np.nan
    reason = np.where(silent, Reason.NO_OPEN_FRAME.code, NO_REASON).astype(np.int8)
    with np.errstate(invalid="ignore"):
        is_virus = margin >= 0
    return WindowCalls(
        contigs=len(virus), index=index, start=number * WINDOW, end=(number + 1) * WINDOW,
        score=margin, reason=reason, virus=is_virus, margin=margin,
        log_odds=ODDS.evidence(margin, silent),
    )  # fmt: skip


def labelled(contigs: int, seed: int) -> tuple[WindowCalls, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    virus = draw.random(contigs) < 0.5
    return contigs_of(virus, draw.integers(1, 60, contigs), 1000 + seed), virus, np.arange(contigs)


def fit(contigs: int = 2000, seed: int = 1) -> tuple[ContigModel, Pieces]:
    windows, virus, group = labelled(contigs, seed)
    pieces = cut_pieces(windows, virus, group, np.ones(contigs, bool))
    model = fit_contig_model(pieces, pieces.group % 2 == 0, lambda _: ODDS)
    assert model
    return model, pieces


@pytest.fixture(scope="module")
def model() -> ContigModel:
    return fit()[0]


# --- pieces ------------------------------------------------------------------------------------


def test_pieces_are_windows_in_a_row_of_chosen_contigs() -> None:
    windows, virus, group = labelled(200, 3)
    chosen = group % 3 > 0
    pieces = cut_pieces(windows, virus, group, chosen)
    assert set(pieces.size.tolist()) == set(range(len(SIZES)))
    assert chosen[pieces.group].all()
    assert (pieces.virus == virus[pieces.group]).all()
    count = np.bincount(pieces.windows.index)
    assert count.tolist() == [SIZES[size] for size in pieces.size]
    same = np.diff(pieces.windows.index) == 0
    assert (np.diff(pieces.windows.start)[same] == WINDOW).all()
    assert np.bincount(pieces.windows.index[pieces.windows.called]).min() > 0
    for size in range(len(SIZES)):
        for label in (True, False):
            mine = (pieces.size == size) & (pieces.virus == label)
            assert pieces.weight[mine].sum() == pytest.approx(1 / 2 / len(SIZES))


def test_a_size_that_one_label_lacks_is_left_out() -> None:
    """Else all long contigs would be of the other label."""
    virus = np.arange(100) < 50
    windows = contigs_of(virus, np.where(virus, 3, 30), 1)
    pieces = cut_pieces(windows, virus, np.arange(100), np.ones(100, bool))
    assert {SIZES[size] for size in pieces.size} == {1, 2}


def test_too_little_makes_no_model() -> None:
    windows, virus, group = labelled(12, 1)
    few = cut_pieces(windows, virus, group, np.zeros(12, bool))
    assert fit_contig_model(few, np.zeros(0, bool), lambda _: ODDS) is None
    _, pieces = fit()
    one_half = np.ones(len(pieces.virus), bool)
    assert fit_contig_model(pieces, one_half, lambda _: ODDS) is None


# --- the model ---------------------------------------------------------------------------------


def test_it_is_better_than_the_mean_and_never_falls(model: ContigModel) -> None:
    assert list(model.coefficients) == list(FEATURES)
    for name, value in model.coefficients.items():
        low, high = BOUNDS[name]
        assert low - 1e-9 <= value <= high + 1e-9, name
    assert model.coefficients["log_open_fraction"] > 0.99 and model.coefficients["log_length"] <= 0
    assert model.log_loss["all"] < model.log_loss["evidence"] < np.log(2)
    assert model.longest == WINDOW * SIZES[-1]
    more = windows_with("VNNON", "VNNOV", "VNNVV", "VVVVV", "VVVVVVVVV")
    assert (np.diff(contig_log_odds(more, model)) > 0).all()


def windows_with(*contigs: str) -> WindowCalls:
    """V: viral, O: another call, N: no open frame, S: too short."""
    letters = np.array(list("".join(contigs)))
    count = np.array([len(contig) for contig in contigs])
    index = np.repeat(np.arange(len(contigs)), count)
    number = np.arange(len(index)) - (np.cumsum(count) - count)[index]
    margin = np.select([letters == "V", letters == "O"], [2.0, -2.0], np.nan).astype(np.float32)
    codes = [Reason.NO_OPEN_FRAME.code, Reason.TOO_SHORT.code]
    reason = np.select([letters == "N", letters == "S"], codes, NO_REASON).astype(np.int8)
    return WindowCalls(
        contigs=len(contigs), index=index, start=number * 400, end=number * 400 + WINDOW,
        score=margin, reason=reason, virus=letters == "V", margin=margin,
        log_odds=ODDS.evidence(margin, letters == "N"),
    )  # fmt: skip


def test_the_features_count_shared_bases_once() -> None:
    """Windows of 500 every 400 bases: 450, 400, 450 bases each; of all windows that are known."""
    (row,) = features(windows_with("VNO"), 10_000)
    _, silent, _ = odds = ODDS.evidence(np.array([2, np.nan, -2], np.float32), np.array([0, 1, 0]))
    mean = np.average(odds, weights=[450, 400, 450])
    assert silent == pytest.approx(np.log(0.3 / 0.45))
    size = np.log10(1300 / 500)
    shares = [np.log10(900 / 1800), 450 / 1800, 450 / 1800]
    assert row == pytest.approx([mean, mean * size, *shares, size])
    shorter = features(windows_with("VNO"), 1000)[0]
    shares = [np.log10(900 / 1300 / 1.5), 450 / 1300 / 1.5, 450 / 1300 / 1.5]  # of 1000 + 500 bases
    assert shorter == pytest.approx([mean, mean * np.log10(2), *shares, np.log10(2)])
    excluded = features(windows_with("VNOS"), 10_000)[0]
    assert excluded[2] == pytest.approx(np.log10(850 / 1750))  # the third then shares both its ends
    assert np.isnan(features(windows_with("NN", "", "S"), 1000)).all()


def test_two_viral_windows_among_hundreds_make_no_virus(model: ContigModel) -> None:
    """S1 of the cases, and the human contig of version 0.1: 2 of 628 windows had a call."""
    windows = windows_with("N" * 121 + "V" + "N" * 120, "N" * 600 + "VV" + "N" * 26, "VVNVNVV")
    for rule in (Calling(), Calling(calls="sensitive"), Calling(calls="conservative")):
        for known in (model, None):
            calls = contig_calls(windows, ContigRule(rule, known))["call"].tolist()
            assert calls == ["non_viral", "non_viral", "virus"]
    old = contig_calls(windows, ContigRule(Calling(calls="virnucpro"), model))["call"]
    assert old.tolist() == ["virus"] * 3  # as VirNuc 0.1


@pytest.mark.parametrize("prevalence", [0.5, 0.2, 0.05])
def test_new_contigs_have_as_many_false_calls_as_expected(
    model: ContigModel, prevalence: float
) -> None:
    draw = np.random.default_rng(7)
    number = 20_000
    virus = draw.random(number) < prevalence
    windows = contigs_of(virus, draw.integers(1, 41, number), 8)
    odds = contig_log_odds(windows, model)
    found = estimate_prevalence(odds)
    known = ~np.isnan(odds)
    assert found == pytest.approx(virus[known].mean(), abs=0.02)
    for calls in CUTOFFS:
        columns: dict[str, Any] = contig_calls(
            windows, ContigRule(Calling(calls=calls), model, found)
        )
        called = columns["call"] == "virus"
        p = at_prevalence(odds, found)
        assert (columns["probability"][called] >= np.float32(CUTOFFS[calls])).all()
        observed = 1 - virus[called].mean()
        assert expected_fdr(p[known], called[known]) == pytest.approx(observed, abs=0.05)


def test_what_was_reached_is_about_what_new_contigs_reach(model: ContigModel) -> None:
    _, new = fit(seed=5)
    odds = contig_log_odds(new.windows, model)
    assert set(model.reached) == {"virnucpro", *CUTOFFS}
    for name, cutoff in CUTOFFS.items():
        for prevalence, reached in model.reached[name].items():
            called = at_prevalence(odds, float(prevalence)) >= cutoff
            for rate, side in (
                (reached.recall, new.virus),
                (reached.false_positive_rate, ~new.virus),
            ):
                observed = np.average(called[side], weights=new.weight[side])
                assert rate == pytest.approx(observed, abs=0.06)
    half = model.reached["default"]["0.5"]
    assert half.fdr(0.5) == pytest.approx(
        half.false_positive_rate / (half.false_positive_rate + half.recall)
    )
