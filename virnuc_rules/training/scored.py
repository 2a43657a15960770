"""Labelled windows and contigs with scores and calls, to calibrate and to evaluate with."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Float, Int
from virnuc_rules.chunking.format import CONTIG_SCHEMA, WINDOW_SCHEMA, read_table
from virnuc_rules.config.model import LabelledSettings
from virnuc_rules.embedding.embedding_file import Computation
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.calibration import Odds
from virnuc_rules.prediction.called_windows import WindowCalls, called_windows
from virnuc_rules.prediction.contig_calls import ContigRule, contig_calls
from virnuc_rules.prediction.scored_chunks import scored_chunks
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.progress import progress
from virnuc_rules.training.labelled import Labelled, LabelledSample
from virnuc_rules.training.split import PARTS, Parts
from virnuc_rules.vocabulary import Call, Reason


@dataclass(frozen=True, slots=True)
class Scored:
    """N windows, or N contigs, of labelled samples."""

    virus: Bool  # [N] label: True is virus
    score: Float  # [N] for ranking; NaN: no call
    call: Bool  # [N] called virus; False also where there is no call
    failed: Bool  # [N] no call since an open frame could not be embedded
    sample: Int  # [N] index of the sample
    group: Int  # [N] index of the group
    length: Int  # [N] bases of the contig
    floor: Bool  # [N] no call since there are too few bases (`floors`)
    homolog: Bool  # [N] of a contig with homologs in the training data

    @property
    def called(self) -> Bool:
        """Tell which have a call."""
        return ~np.isnan(self.score)

    def where(self, rows: Bool | Int) -> "Scored":
        """Return the rows of a mask [N], or of indices."""
        return Scored(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Concatenate several parts."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class Scores:
    """Windows and contigs of labelled samples."""

    windows: Scored
    contigs: Scored
    called: list[WindowCalls]  # all windows of each sample
    computed: set[Computation]


def score_labelled(
    settings: LabelledSettings, bundle: Bundle, labelled: Labelled, part: Parts
) -> Scores:
    """Score the embedded windows of labelled samples, and their contigs.

    Windows are ranked by their margin (`WindowCalls.margin`), contigs by their probability, or the
    mean margin of their windows where the bundle has no model of contigs. Calls are those of
    `predict` where half of the contigs are viral. Raises what `scored_chunks` raises.
    """
    computed: set[Computation] = set()
    windows, contigs, called = [], [], []
    for index, sample in enumerate(labelled.samples):
        consensus = _consensus(settings, bundle, sample, computed)
        called.append(_called_windows(bundle, sample, consensus))
        of_windows, of_contigs = _score(settings, bundle, index, sample, consensus, called[-1])
        windows.append(_in_part(of_windows, sample.part[sample.window_contig], part))
        contigs.append(_in_part(of_contigs, sample.part, part))
    return Scores(Scored.joined(windows), Scored.joined(contigs), called, computed)


def _in_part(scored: Scored, parts: NDArray[np.int8], part: Parts) -> Scored:
    return scored if part == "all" else scored.where(parts == PARTS.index(part))


def _consensus(
    settings: LabelledSettings, bundle: Bundle, sample: LabelledSample, computed: set[Computation]
) -> Consensus:
    consensus = Consensus.empty(sample.manifest.windows)
    tasks = list(Tasks.of(settings.run, settings.embedding).of_sample(sample.name))
    classifier = bundle.open_classifier()
    with progress(f"sample {sample.name}", sample.manifest.open_frames) as advance:
        for chunk in scored_chunks(tasks, settings.run, classifier, computed):
            consensus.add_chunk(chunk)
            advance(len(chunk.window_row))
    return consensus


def _score(
    settings: LabelledSettings,
    bundle: Bundle,
    index: int,
    sample: LabelledSample,
    consensus: Consensus,
    called: WindowCalls,
) -> tuple[Scored, Scored]:
    """Score all windows and all contigs of a sample."""
    rule = ContigRule(settings.calling, bundle.card.contig_model)
    calls = contig_calls(called, rule)
    by = calls["probability"] if rule.model else calls["margin"]
    contigs = Scored(
        virus=np.full(len(by), bool(sample.label)),
        score=np.where(calls["call"] == Call.NO_CALL, np.float32(np.nan), by),
        call=calls["call"] == Call.VIRUS,
        failed=calls["reason"] == Reason.EMBEDDING_FAILED,
        sample=np.full(len(by), index),
        group=sample.group,
        length=sample.length,
        floor=np.isin(calls["reason"], (Reason.TOO_SHORT, Reason.TOO_AMBIGUOUS)),
        homolog=sample.known_homolog,
    )
    windows = replace(
        contigs.where(sample.window_contig),
        score=called.margin,
        call=called.virus,
        failed=consensus.failed,
        floor=np.isin(called.reason, (Reason.TOO_SHORT.code, Reason.TOO_AMBIGUOUS.code)),
    )
    return windows, contigs


def _called_windows(bundle: Bundle, sample: LabelledSample, consensus: Consensus) -> WindowCalls:
    """Return the calls of the windows, as `predict` makes them."""
    folder = sample.folder
    contigs = pa.concat_tables([CONTIG_SCHEMA.empty_table(), *read_table(folder.contigs)])
    windows = pa.concat_tables([WINDOW_SCHEMA.empty_table(), *read_table(folder.windows)])
    odds = Odds.of(bundle.card.calibration)
    return called_windows(contigs, windows, consensus, odds, folder, sample.manifest.chunking)
