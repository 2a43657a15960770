"""How the contigs of a sample are called: the viral fraction, the cutoff, and what is expected."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from embedded import configure, folder_of, predict, work
from harness import DEMO, REPO, read_tsv
from scipy.special import expit

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import SHIPPED_BUNDLE, Calling, Chunking, Probability
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.calibration import Odds
from virnuc_rules.models.card import BundleCard, Calibration, ContigModel, read_card
from virnuc_rules.prediction.called_windows import WindowCalls
from virnuc_rules.prediction.contig_calls import contig_calls
from virnuc_rules.prediction.contig_model import FEATURES
from virnuc_rules.prediction.decision import Decision, SampleCalls, decide
from virnuc_rules.vocabulary import NO_REASON, Label

MODEL = ContigModel(
    intercept=0.0, coefficients={**dict.fromkeys(FEATURES, 0.0), "evidence": 1.0}, longest=500,
    pieces=dict.fromkeys(Label, 10), log_loss={}, reached={},
)  # fmt: skip


def card(model: ContigModel | None, calibrated: bool = True) -> BundleCard:
    calibration = Calibration(
        method="temperature", temperature=1.0, classifier="", data=[], part="all", windows={},
        log_loss={}, no_open_frame=dict.fromkeys(Label, 0.4), contigs=model,
    )  # fmt: skip
    update = {"calibration": calibration if calibrated else None}
    return read_card(SHIPPED_BUNDLE).model_copy(update=update)


def contigs_of(odds: np.ndarray, card: BundleCard) -> WindowCalls:
    """Contigs of one window each, which has a call and these log odds."""
    number = np.zeros(len(odds), np.int64)
    margin = odds.astype(np.float32)
    return WindowCalls(
        contigs=len(odds), index=np.arange(len(odds)), start=number, end=number + 500,
        score=expit(margin), reason=np.full(len(odds), NO_REASON, np.int8), virus=margin >= 0,
        margin=margin,
        log_odds=Odds.of(card.calibration).evidence(margin, np.zeros(len(odds), bool)),
    )  # fmt: skip


def drawn(prevalence: float, number: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    virus = draw.random(number) < prevalence
    return 2.66 * draw.normal(np.where(virus, 1.33, -1.33)), virus


def decided(
    windows: WindowCalls,
    bundle: BundleCard,
    calls: str = "default",
    min_called_windows: int = 1,
    **settings: object,
) -> tuple[Decision, np.ndarray, SampleCalls]:
    decision = decide(
        [windows],
        bundle,
        Odds.of(bundle.calibration),
        Calling(calls=calls, min_called_windows=min_called_windows),
        Probability(**settings),
    )
    call = contig_calls(windows, decision.rule)["call"]
    called = call == "virus"
    return decision, called, decision.outcome(call != "no_call", called)


@pytest.mark.parametrize("prevalence", [0.5, 0.05])
def test_the_viral_fraction_is_estimated_or_given(prevalence: float) -> None:
    odds, virus = drawn(prevalence)
    bundle = card(MODEL)
    windows = contigs_of(odds, bundle)
    _, called, found = decided(windows, bundle)
    assert found.windows and found.contigs and found.estimated
    assert found.calls == "default" and found.cutoff == 0.5
    for level in (found.windows, found.contigs):
        assert level.prevalence == pytest.approx(prevalence, abs=0.02)
        assert level.called == len(odds)
    assert found.contigs.virus == called.sum() > 0
    observed = 1 - virus[called].mean()
    assert found.contigs.expected_fdr == pytest.approx(observed, abs=0.03)
    _, _, given = decided(windows, bundle, prevalence="0.2")
    assert not given.estimated and given.windows and given.contigs
    assert given.windows.prevalence == given.contigs.prevalence == 0.2
    assert given.contigs.expected_fdr == given.contigs.expected_fdr_at["0.2"]


def test_a_maximum_of_false_calls_decides_alone() -> None:
    odds, virus = drawn(0.2)
    bundle = card(MODEL)
    windows = contigs_of(odds, bundle)
    for calls in ("conservative", "virnucpro"):
        _, called, found = decided(windows, bundle, calls, max_fdr=0.1)
        assert found.calls == "max_fdr" and found.contigs and found.contigs.expected_fdr
        assert 0.09 < found.contigs.expected_fdr <= 0.1
        assert 1 - virus[called].mean() == pytest.approx(0.1, abs=0.03)
    hopeless = contigs_of(np.full(50, -3.0), bundle)
    _, called, found = decided(hopeless, bundle, max_fdr=0.01)
    assert not called.any() and found.contigs and found.contigs.expected_fdr is None
    assert found.cutoff is not None and found.cutoff > 1


def test_without_a_model_the_keys_decide() -> None:
    odds, _ = drawn(0.5, 100)
    for bundle in (card(None), card(None, calibrated=False)):
        windows = contigs_of(odds, bundle)
        decision, called, found = decided(windows, bundle)
        assert (found.calls, found.cutoff, found.contigs) == ("min_*", None, None)
        assert called.tolist() == (odds >= 0).tolist()
        assert (found.windows is None) == (bundle.calibration is None)
        assert 0 < decision.prevalence < 1
        with pytest.raises(
            VirnucError, match="max_fdr: bundle virnuc-demo has no model of contigs"
        ):
            bundle.check_max_fdr(0.05)
    card(MODEL).check_max_fdr(0.05)
    assert decided(windows, bundle, "virnucpro")[2].calls == "virnucpro"
    windows = contigs_of(odds, card(MODEL))
    by_keys = decided(windows, card(MODEL), "virnucpro", min_called_windows=2)[2]
    assert by_keys.windows and by_keys.contigs is None  # each has one window: none has a call


def test_a_sample_without_a_call() -> None:
    bundle = card(MODEL)
    _, _, found = decided(contigs_of(np.zeros(0), bundle), bundle)
    assert found.windows is None and found.contigs is None


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tables of both samples of the demo, by the demo bundle with default settings."""
    folders = {}
    for sample, source in DEMO.items():
        folder = tmp_path_factory.mktemp(sample)
        (folder / f"{sample}.fa").write_bytes(gzip.decompress(source.read_bytes()))
        config = configure(folder / "results").replace(bundle=REPO / "demo/bundle")
        chunking = Chunking(window=500)
        write_chunks([folder / f"{sample}.fa"], folder_of(config).path, chunking, sample="gut")
        work(config)
        predict(config, "gut", folder / "out")
        folders[sample] = folder / "out"
    return folders


def demo_labels() -> dict[str, str]:
    return {row["id"]: row["label"] for row in read_tsv(REPO / "demo/data/labels.tsv")}


@pytest.mark.parametrize("sample", DEMO)
def test_expected_false_calls_of_the_demo(demo: dict[str, Path], sample: str) -> None:
    """S3: version 0.1 expected 22 % of both samples, where the labels said 72 % and 53 %.

    Now the labels say 71 % (lake) and 52 % (gut); expected are 50 % and 61 %.
    """
    found = SampleCalls.model_validate_json((demo[sample] / "calls.json").read_bytes())
    assert found.windows and found.windows.expected_fdr
    label = demo_labels()
    rows = read_tsv(demo[sample] / "windows.tsv")
    calls = [label[r["contig"]] for r in rows if r["call"] == "virus" and r["contig"] in label]
    false = calls.count("non_viral") / len(calls)
    assert found.windows.expected_fdr == pytest.approx(false, abs=0.22)


def test_contigs_of_the_demo(demo: dict[str, Path]) -> None:
    """Of the 40 contigs of cells, version 0.1 called 6 virus; of the 14 viral ones, 12.

    Of those that are not found now, one has no open frame, and one, with genetic code 15, few.
    """
    label = demo_labels()
    rows = [row for folder in demo.values() for row in read_tsv(folder / "contigs.tsv")]
    called = [label.get(row["contig"]) for row in rows if row["call"] == "virus"]
    assert called.count("non_viral") <= 2
    assert called.count("virus") >= 10
