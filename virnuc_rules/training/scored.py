"""Labelled windows and contigs with their scores and calls: what is calibrated and evaluated."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from virnuc_rules.arrays import Bool, Float, Int
from virnuc_rules.chunking.format import read_table
from virnuc_rules.config.model import Calling, LabelledSettings
from virnuc_rules.embedding.embedding_file import Computation
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.prediction.contig_calls import (
    WindowCalls,
    contig_calls,
    viral_regions,
)
from virnuc_rules.prediction.scored_chunks import scored_chunks
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.progress import progress
from virnuc_rules.training.labelled import Labelled, LabelledSample
from virnuc_rules.training.split import PARTS, Part
from virnuc_rules.vocabulary import NO_REASON, Call, Reason


@dataclass(frozen=True, slots=True)
class Scored:
    """N windows, or N contigs, of labelled samples."""

    virus: Bool  # [N] label: True is virus
    score: Float  # [N] what they are ranked by; NaN: no call
    call: Bool  # [N] called virus; False also where there is no call
    failed: Bool  # [N] no call since something of it could not be embedded
    sample: Int  # [N] index of the sample
    group: Int  # [N] index of the group
    length: Int  # [N] bases of the contig

    @property
    def called(self) -> Bool:
        """Tell which have a call."""
        return ~np.isnan(self.score)

    def where(self, rows: Bool | Int) -> "Scored":
        """Return those of a mask [N], or of row numbers."""
        return Scored(*(column[rows] for column in self._columns()))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return all of several parts, in their order."""
        return cls(*map(np.concatenate, zip(*(part._columns() for part in parts), strict=True)))

    def _columns(self) -> tuple[Any, ...]:
        """Return what the constructor takes."""
        return (
            self.virus, self.score, self.call, self.failed, self.sample, self.group, self.length
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scores:
    """Windows and contigs of labelled samples."""

    windows: Scored
    contigs: Scored
    computed: set[Computation]


def score_labelled(
    settings: LabelledSettings, bundle: Bundle, labelled: Labelled, part: Part | Literal["all"]
) -> Scores:
    """Score the embedded windows of labelled samples, and their contigs.

    Windows are ranked by their margin (`Consensus.margin`), contigs by the mean score_virus of
    their windows; calls are those of `predict`. Raises what `scored_chunks` raises.
    """
    torch.set_num_threads(settings.compute.threads)
    computed: set[Computation] = set()
    found = [
        _score(settings, bundle, number, sample, part, computed)
        for number, sample in enumerate(labelled.samples)
    ]
    windows, contigs = zip(*found, strict=True)
    return Scores(Scored.joined(windows), Scored.joined(contigs), computed)


def _score(
    settings: LabelledSettings,
    bundle: Bundle,
    number: int,
    sample: LabelledSample,
    part: Part | Literal["all"],
    computed: set[Computation],
) -> tuple[Scored, Scored]:
    consensus = Consensus.empty(sample.manifest.windows)
    tasks = list(Tasks.of(settings.run, settings.embedding).of_sample(sample.name))
    classifier = bundle.open_classifier()
    with progress(f"sample {sample.name}", sample.manifest.open_frames) as advance:
        for chunk in scored_chunks(tasks, settings.run, classifier, computed):
            consensus.add_chunk(chunk)
            advance(len(chunk.window_row))
    calls = _contig_calls(settings.calling, sample, consensus)
    contig = sample.window_contig

    def scored(score: Float, call: Bool, failed: Bool, contig: Int) -> Scored:
        everything = Scored(
            virus=np.full(len(contig), bool(sample.label)),
            score=score,
            call=call,
            failed=failed,
            sample=np.full(len(contig), number),
            group=sample.group[contig],
            length=sample.length[contig],
        )
        if part == "all":
            return everything
        return everything.where(sample.part[contig] == PARTS.index(part))

    mean = np.where(calls["call"] == Call.NO_CALL, np.float32(np.nan), calls["score_mean"])
    return (
        scored(consensus.margin, consensus.virus, consensus.failed, contig),
        scored(
            mean,
            calls["call"] == Call.VIRUS,
            calls["reason"] == Reason.EMBEDDING_FAILED,
            np.arange(len(sample.length)),
        ),
    )


def _contig_calls(
    calling: Calling, sample: LabelledSample, consensus: Consensus
) -> dict[str, NDArray[np.generic]]:
    """Return the columns of the contig table, as `predict` computes them."""
    places = [table.select(["start", "end"]) for table in read_table(sample.folder.windows)]
    start, end = (column.to_numpy() for column in pa.concat_tables(places).columns)
    failed, closed = Reason.EMBEDDING_FAILED.code, Reason.NO_OPEN_FRAME.code
    reason = np.where(consensus.called, NO_REASON, np.where(consensus.failed, failed, closed))
    windows = WindowCalls(
        contig=sample.window_contig,
        start=start,
        end=end,
        score=consensus.score2,
        reason=reason.astype(np.int8),
        virus=consensus.virus,
    )
    return contig_calls(windows, viral_regions(windows), calling)
