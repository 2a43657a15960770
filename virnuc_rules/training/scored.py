"""Labelled windows and contigs with scores and calls, to calibrate and to evaluate with."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Float, Int
from virnuc_rules.chunking.format import read_columns
from virnuc_rules.config.model import Calling, LabelledSettings
from virnuc_rules.embedding.embedding_file import Computation
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.prediction.contig_calls import WindowCalls, contig_calls
from virnuc_rules.prediction.scored_chunks import scored_chunks
from virnuc_rules.prediction.window_calls import Consensus, floors
from virnuc_rules.progress import progress
from virnuc_rules.training.labelled import Labelled, LabelledSample
from virnuc_rules.training.split import PARTS, Parts
from virnuc_rules.vocabulary import NO_REASON, Call, Reason


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
    computed: set[Computation]


def score_labelled(
    settings: LabelledSettings, bundle: Bundle, labelled: Labelled, part: Parts
) -> Scores:
    """Score the embedded windows of labelled samples, and their contigs.

    Windows are ranked by their margin (`Consensus.margin`), contigs by the mean score_virus of
    their windows; calls are those of `predict`. Raises what `scored_chunks` raises.
    """
    computed: set[Computation] = set()
    windows, contigs = [], []
    for index, sample in enumerate(labelled.samples):
        of_windows, of_contigs = _score(settings, bundle, index, sample, computed)
        windows.append(_in_part(of_windows, sample.part[sample.window_contig], part))
        contigs.append(_in_part(of_contigs, sample.part, part))
    return Scores(Scored.joined(windows), Scored.joined(contigs), computed)


def _in_part(scored: Scored, parts: NDArray[np.int8], part: Parts) -> Scored:
    return scored if part == "all" else scored.where(parts == PARTS.index(part))


def _score(
    settings: LabelledSettings,
    bundle: Bundle,
    index: int,
    sample: LabelledSample,
    computed: set[Computation],
) -> tuple[Scored, Scored]:
    """Score all windows and all contigs of a sample."""
    consensus = Consensus.empty(sample.manifest.windows)
    consensus.floor = floors(sample.folder, sample.manifest)
    tasks = list(Tasks.of(settings.run, settings.embedding).of_sample(sample.name))
    classifier = bundle.open_classifier()
    with progress(f"sample {sample.name}", sample.manifest.open_frames) as advance:
        for chunk in scored_chunks(tasks, settings.run, classifier, computed):
            consensus.add_chunk(chunk)
            advance(len(chunk.window_row))
    calls = _contig_calls(settings.calling, sample, consensus)
    mean = np.where(calls["call"] == Call.NO_CALL, np.float32(np.nan), calls["score_mean"])
    contigs = Scored(
        virus=np.full(len(mean), bool(sample.label)),
        score=mean,
        call=calls["call"] == Call.VIRUS,
        failed=calls["reason"] == Reason.EMBEDDING_FAILED,
        sample=np.full(len(mean), index),
        group=sample.group,
        length=sample.length,
        floor=np.isin(calls["reason"], (Reason.TOO_SHORT, Reason.TOO_AMBIGUOUS)),
    )
    windows = replace(
        contigs.where(sample.window_contig),
        score=consensus.margin,
        call=consensus.virus,
        failed=consensus.failed,
        floor=consensus.floor != NO_REASON,
    )
    return windows, contigs


def _contig_calls(
    calling: Calling, sample: LabelledSample, consensus: Consensus
) -> dict[str, NDArray[np.generic]]:
    """Return the columns of the contig table, as `predict` computes them."""
    start, end = read_columns(sample.folder.windows, "start", "end")
    failed, not_open = Reason.EMBEDDING_FAILED.code, Reason.NO_OPEN_FRAME.code
    reason = np.where(consensus.called, NO_REASON, np.where(consensus.failed, failed, not_open))
    reason = np.where(consensus.floor == NO_REASON, reason, consensus.floor)
    windows = WindowCalls(
        contigs=sample.manifest.contigs,
        index=sample.window_contig,
        start=start,
        end=end,
        score=consensus.score2,
        reason=reason.astype(np.int8),
        virus=consensus.virus,
        log_odds=np.zeros(len(start)),
    )
    return contig_calls(windows, calling)
