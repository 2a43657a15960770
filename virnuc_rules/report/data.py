"""The data of the report, read from the tables of a run.

Tables are read in parts: memory holds some numbers of each contig, and a byte of each window.
"""

import base64
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit

from virnuc_rules.arrays import Double, Int
from virnuc_rules.chunking.manifest import Manifest, read_manifest
from virnuc_rules.config.labels import Labels
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.errors import ChunkError, ResultError
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.prediction.read_tables import read_batches, read_calls
from virnuc_rules.vocabulary import Call, Label

BINS = 40  # of score histograms
LENGTHS = (0, 500, 1_000, 2_500, 5_000, 10_000, 50_000)  # minimum bases of the length classes

# Limits of the page, which is then below 15 MB.
MAX_CONTIGS = 100_000  # in the list, 45 bytes each
MAX_ID_BYTES = 4_500_000  # of their ids
MAX_WINDOWS = 3_000_000  # in tracks, a byte each before base64

# What is shown of windows and contigs is the probability; where the bundle has none, the relative
# score 1 / (1 + exp(-margin)), which is score_virus / (score_virus + score_non_viral).
NO_CALL = 255  # byte of a window without a call; with a call: shown * STEPS, plus VIRAL if viral
STEPS, VIRAL = 120, 128
NOT_SHOWN = 65535  # of a contig without a value; else shown * 10,000

_COUNTS = ("contig_index", "length", "windows", "called_windows", "viral_windows")
_SHOWN = ("probability", "margin")
_TABLES = ("contigs", "windows")
_PACKED = {"sample": np.uint32, "call": np.uint8, **dict.fromkeys(_COUNTS, np.uint32),
           "shown": np.uint16}  # fmt: skip


@dataclass(slots=True)
class SampleSummary:
    """The counts of a sample."""

    name: str
    manifest: Manifest
    folder: SampleFolder
    calls: SampleCalls  # how contigs were called, and what to expect
    contig_calls: Counter[str] = field(default_factory=Counter)
    window_calls: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # of windows without a call
    histogram: dict[str, Int] = field(  # windows by what is shown
        default_factory=lambda: {call: np.zeros(BINS, np.int64) for call in Label}
    )
    by_length: dict[str, Int] = field(  # contigs
        default_factory=lambda: {call: np.zeros(len(LENGTHS), np.int64) for call in Call}
    )
    labels: Labels = field(default_factory=dict)  # of contigs, where they are known
    known: dict[str, Counter[str]] = field(default_factory=dict)  # by label: calls, windows
    unmatched: list[str] = field(default_factory=list)  # ids with a label, of no contig

    @property
    def viral_fraction(self) -> float | None:
        """Return the fraction of called contigs that are viral; None without called contigs."""
        called = sum(self.contig_calls[call] for call in Label)
        return self.contig_calls[Call.VIRUS] / called if called else None


@dataclass(slots=True)
class Contigs:
    """The contigs that are listed: viral ones first, then the most probable."""

    ids: list[str]
    columns: dict[str, NDArray[Any]]  # [listed] each: sample, call, counts, what is shown
    total: int  # contigs of all samples
    with_track: int  # number of contigs with a track: the first of the list
    track: NDArray[np.uint8]  # bytes of their windows, concatenated

    @property
    def listed(self) -> int:
        """Number of contigs in the list."""
        return len(self.ids)

    def packed(self) -> dict[str, Any]:
        """Return what the page's script reads: numbers as base64 of little-endian arrays."""
        columns = {name: _base64(self.columns[name].astype(kind)) for name, kind in _PACKED.items()}
        track = {"withTrack": self.with_track, "track": _base64(self.track)}
        return {"ids": self.ids, **track, **columns}


def find_samples(
    run: RunFolder, names: list[str], controls: dict[str, Labels]
) -> tuple[list[SampleSummary], dict[str, str]]:
    """Return the samples that have tables, and the reason for each sample that has none."""
    summaries, missing = [], {}
    for name in names:
        folder = run.sample(name)
        try:
            manifest = read_manifest(run.chunks(name))
        except ChunkError as error:
            missing[name] = str(error)
            continue
        needed = [*map(folder.parquet, _TABLES), folder.calls]
        if absent := [path.name for path in needed if not path.exists()]:
            missing[name] = f"{folder.path}: no {' and '.join(absent)}; run `predict` first"
        else:
            labels = controls.get(name, {})
            calls = read_calls(folder.calls)
            summaries.append(SampleSummary(name, manifest, folder, calls, labels=labels))
    return summaries, missing


def read_contigs(samples: list[SampleSummary]) -> Contigs:
    """Read contigs and windows of samples, and add their counts to the summaries.

    Raises ResultError where a table is damaged, or does not belong to the sample's chunks.
    """
    joined = _joined([_read_contigs(index, sample) for index, sample in enumerate(samples)])
    shown = np.where(joined["shown"] == NOT_SHOWN, -1, joined["shown"])
    order = np.lexsort((-joined["length"], -shown, joined["call"] != Call.VIRUS.code))[:MAX_CONTIGS]
    order = order[np.cumsum(joined.pop("id_bytes")[order]) <= MAX_ID_BYTES]
    total = len(joined["length"])
    columns = {name: column[order] for name, column in joined.items()}
    last = np.cumsum(columns["windows"])
    kept = int(np.searchsorted(last, MAX_WINDOWS, "right"))
    track = np.full(int(last[kept - 1]) if kept else 0, NO_CALL, np.uint8)
    ids: list[str] = [""] * len(order)
    for index, sample in enumerate(samples):
        rows = np.flatnonzero(columns["sample"] == index)
        offset = np.full(sample.manifest.contigs, -1)  # in `track`, by contig_index
        drawn = rows[rows < kept]
        offset[columns["contig_index"][drawn]] = (last - columns["windows"])[drawn]
        _read_windows(sample, offset, track)
        _read_ids(sample, columns["contig_index"][rows], rows, ids)
    return Contigs(ids, columns, total, kept, track)


def _joined(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_contigs(sample_index: int, sample: SampleSummary) -> dict[str, NDArray[Any]]:
    """Count a sample's contigs; return the columns that the list needs."""
    names = (*_COUNTS, "shown", "call", "id_bytes")
    parts: list[dict[str, NDArray[Any]]] = [{name: np.zeros(0, np.int64) for name in names}]
    path, matched = sample.folder.parquet("contigs"), set[str]()
    for batch in read_batches(path, *_COUNTS, *_SHOWN, "call", "contig"):
        counts = {name: batch[name].to_numpy() for name in _COUNTS}
        value = _shown(batch)
        shown = np.where(np.isnan(value), NOT_SHOWN, np.nan_to_num(value) * 10_000)
        matched |= _count_known(sample, batch)
        call, id_bytes = _call(batch, path), pc.binary_length(batch["contig"]).to_numpy() + 3
        parts.append({**counts, "shown": shown, "call": call, "id_bytes": id_bytes})
    joined = _joined(parts)
    sample.unmatched = [contig for contig in sample.labels if contig not in matched]
    if len(joined["call"]) != sample.manifest.contigs:
        raise ResultError(f"{path}: does not belong to the sample's chunks; run `predict` again")
    size = np.searchsorted(LENGTHS, joined["length"], "right") - 1
    for index, name in enumerate(Call):
        with_call = joined["call"] == index
        sample.contig_calls[name] = int(with_call.sum())
        sample.by_length[name] += np.bincount(size[with_call], minlength=len(LENGTHS))
    joined["sample"] = np.full(len(joined["call"]), sample_index)
    return joined


def _count_known(sample: SampleSummary, batch: pa.RecordBatch) -> set[str]:
    """Count the calls of contigs with a known label; return their ids."""
    matched: set[str] = set()
    if not sample.labels:
        return matched
    columns = (batch[name].to_pylist() for name in ("contig", "call", *_COUNTS[3:]))
    for contig, call, called, viral in zip(*columns, strict=True):
        if label := sample.labels.get(contig):
            matched.add(contig)
            counts = sample.known.setdefault(label, Counter())
            counts.update({call: 1, "called_windows": called, "viral_windows": viral})
    return matched


def _read_windows(sample: SampleSummary, offset: Int, track: NDArray[np.uint8]) -> None:
    """Count a sample's windows; write those of contigs with an offset (not -1) into `track`."""
    columns = ("contig_index", "window", *_SHOWN, "call", "reason")
    path = sample.folder.parquet("windows")
    for batch in read_batches(path, *columns):
        score = np.nan_to_num(_shown(batch))
        call = _call(batch, path)
        for index, name in enumerate(Call):
            with_call = call == index
            sample.window_calls[name] += int(with_call.sum())
            if name in sample.histogram:
                bins = np.minimum((score[with_call] * BINS).astype(np.int64), BINS - 1)
                sample.histogram[name] += np.bincount(bins, minlength=BINS)
        for pair in batch["reason"].drop_null().value_counts().to_pylist():
            sample.reasons[pair["values"]] += pair["counts"]
        first = offset[batch["contig_index"].to_numpy()]
        drawn = first >= 0
        position = first[drawn] + batch["window"].to_numpy()[drawn] - 1
        value = np.where(call == Call.VIRUS.code, VIRAL, 0) + score * STEPS
        track[position] = np.where(call != Call.NO_CALL.code, value, NO_CALL)[drawn]


def _read_ids(sample: SampleSummary, contig_index: Int, rows: Int, ids: list[str]) -> None:
    """Write the ids of some contigs into these rows of `ids`."""
    row = np.full(sample.manifest.contigs, -1)
    row[contig_index] = rows
    for batch in read_batches(sample.folder.parquet("contigs"), "contig_index", "contig"):
        target = row[batch["contig_index"].to_numpy()]
        names = batch["contig"].filter(pa.array(target >= 0)).to_pylist()
        for index, name in zip(target[target >= 0].tolist(), names, strict=True):
            ids[index] = name


def _shown(batch: pa.RecordBatch) -> Double:
    """Return the probability of each row, else the relative score; NaN without a call."""
    probability, margin = (
        batch[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in _SHOWN
    )
    shown: Double = np.where(np.isnan(probability), expit(margin), probability)
    return shown


def _call(batch: pa.RecordBatch, path: Path) -> Int:
    index = pc.index_in(batch["call"], value_set=pa.array(list(Call)))
    if index.null_count:
        raise ResultError(f"{path}: written by another version; run `predict` again")
    return index.to_numpy()  # type: ignore[no-any-return]


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()
