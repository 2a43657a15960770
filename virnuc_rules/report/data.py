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
from pydantic import ValidationError
from scipy.special import expit

from virnuc_rules.arrays import Double, Int
from virnuc_rules.chunking.manifest import Manifest, read_manifest
from virnuc_rules.config.labels import Labels
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.errors import ChunkError, ResultError
from virnuc_rules.files.environment import environment_named, read_regular
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.report.parquet import batches, opened
from virnuc_rules.vocabulary import Call, Label

BINS = 40  # of score histograms
LENGTHS = (0, 500, 1_000, 2_500, 5_000, 10_000, 50_000)  # minimum bases of the length classes

# Limits of the page: with 1,000 samples it is then below 20 MB. Bytes are those before base64.
MAX_CONTIGS = 100_000  # in the list, 31 bytes each
MAX_ID_BYTES = 4_500_000  # of their ids
MAX_WINDOWS = 2_500_000  # in tracks, a byte each
MAX_REGIONS = 120_000  # in tracks, 12 bytes each
MAX_ANNOTATIONS = 6  # columns of other tools
MAX_VALUES = 65_535  # different ones in a column; 0 is no value
MAX_VALUE_BYTES = 1_500_000  # of all of them

# What is shown of windows and contigs is the probability; where the bundle has none, the relative
# score 1 / (1 + exp(-margin)), which is score_virus / (score_virus + score_non_viral).
NO_CALL = 255  # byte of a window without a call; with a call: shown * STEPS, plus VIRAL if viral
STEPS, VIRAL = 120, 128
NOT_SHOWN = 65535  # of a contig without a value; else shown * 10,000

_COUNTS = ("contig_index", "length", "windows", "called_windows", "viral_windows")
_SHOWN = ("probability", "margin")
_NAMED = 5  # ids in a line
_PLACE = ("start", "end", "posterior")  # of a region
_TABLES = ("contigs", "windows", "regions")
_PACKED = {"sample": np.uint32, "call": np.uint8, "regions": np.uint32, "shown": np.uint16,
           **dict.fromkeys(_COUNTS, np.uint32)}  # fmt: skip


@dataclass(slots=True)
class SampleSummary:
    """The counts of a sample."""

    name: str
    manifest: Manifest
    folder: SampleFolder
    calls: SampleCalls  # how contigs were called, and what to expect
    contig_calls: Counter[str] = field(default_factory=Counter)
    window_calls: Counter[str] = field(default_factory=Counter)
    regions: int = 0
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
    def called_windows(self) -> int:
        """Number of windows with a call."""
        return sum(self.window_calls[call] for call in Label)


@dataclass(slots=True)
class AnnotationColumn:
    """A column of another tool, for the contigs that are listed."""

    name: str
    values: list[str]  # the different ones
    code: NDArray[np.uint16]  # [listed] 0: no value, else 1 + its index in `values`
    full: bool = False  # values were left out, as the page has no more room


@dataclass(slots=True)
class Contigs:
    """The contigs that are listed: viral ones first, then the most probable."""

    ids: list[str]
    columns: dict[str, NDArray[Any]]  # [listed] each: sample, call, counts, what is shown
    total: int  # contigs of all samples
    with_track: int  # number of contigs with a track: the first of the list
    track: NDArray[np.uint8]  # bytes of their windows, concatenated
    regions: dict[str, NDArray[Any]]  # of the same contigs, concatenated: start, end, posterior
    annotations: list[AnnotationColumn] = field(default_factory=list)

    @property
    def listed(self) -> int:
        """Number of contigs in the list."""
        return len(self.ids)

    def packed(self) -> dict[str, Any]:
        """Return what the page's script reads: numbers as base64 of little-endian arrays."""
        columns = {name: _base64(self.columns[name].astype(kind)) for name, kind in _PACKED.items()}
        places = self.regions["start"], self.regions["end"], self.regions["posterior"] * 10_000
        return {
            "ids": self.ids,
            "withTrack": self.with_track,
            "track": _base64(self.track),
            "places": _base64(np.stack(places, axis=1).astype(np.uint32)),
            "annotations": [
                {"name": each.name, "values": each.values, "code": _base64(each.code)}
                for each in self.annotations
            ],
            **columns,
        }


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


def read_calls(path: Path) -> SampleCalls:
    """Read `calls.json`. Raises ResultError where it is damaged, or of another version."""
    try:
        with environment_named(path):
            return SampleCalls.model_validate_json(read_regular(path))
    except (OSError, ValidationError):
        raise ResultError(f"{path}: not of this version; run `predict` again") from None


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
    last, last_region = np.cumsum(columns["windows"]), np.cumsum(columns["regions"])
    kept = min(
        int(np.searchsorted(last, MAX_WINDOWS, "right")),
        int(np.searchsorted(last_region, MAX_REGIONS, "right")),
    )
    track = np.full(int(last[kept - 1]) if kept else 0, NO_CALL, np.uint8)
    regions = {name: np.zeros(int(last_region[kept - 1]) if kept else 0) for name in _PLACE}
    ids: list[str] = [""] * len(order)
    for index, sample in enumerate(samples):
        rows = np.flatnonzero(columns["sample"] == index)
        offset = np.full(sample.manifest.contigs, -1)  # in `track`, by contig_index
        drawn = rows[rows < kept]
        offset[columns["contig_index"][drawn]] = (last - columns["windows"])[drawn]
        _read_windows(sample, offset, track)
        offset[columns["contig_index"][drawn]] = (last_region - columns["regions"])[drawn]
        _read_regions(sample, offset, regions)
        _read_ids(sample, columns["contig_index"][rows], rows, ids)
    return Contigs(ids, columns, total, kept, track, regions)


def _joined(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def unmatched(ids: list[str], total: int, table: str) -> str:
    """Say how many ids in a table of the user are of no contig, and name some."""
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return (
        f"{len(ids):,} of {total:,} ids in {table} match no contig: {', '.join(ids[:_NAMED])}{more}"
    )


def _read_contigs(sample_index: int, sample: SampleSummary) -> dict[str, NDArray[Any]]:
    """Count a sample's contigs; return the columns that the list needs."""
    names = (*_COUNTS, "shown", "call", "id_bytes")
    parts: list[dict[str, NDArray[Any]]] = [{name: np.zeros(0, np.int64) for name in names}]
    path, matched = sample.folder.parquet("contigs"), set[str]()
    for batch in batches(path, *_COUNTS, *_SHOWN, "call", "contig"):
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
    joined["regions"] = np.zeros(len(joined["call"]), np.int64)
    for batch in batches(sample.folder.parquet("regions"), "contig_index"):
        np.add.at(joined["regions"], batch["contig_index"].to_numpy(), 1)
    sample.regions = int(joined["regions"].sum())
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
    for batch in batches(path, *columns):
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


def _read_regions(sample: SampleSummary, free: Int, regions: dict[str, NDArray[Any]]) -> None:
    """Write the regions of contigs with a `free` place (not -1) there; the place moves on."""
    for batch in batches(sample.folder.parquet("regions"), "contig_index", *_PLACE):
        contig = batch["contig_index"].to_numpy()
        drawn = free[contig] >= 0
        contig = contig[drawn]  # in ascending order, as in all tables
        position = free[contig] + np.arange(len(contig)) - np.searchsorted(contig, contig)
        for name in _PLACE:
            regions[name][position] = batch[name].to_numpy()[drawn]
        np.add.at(free, contig, 1)


def _read_ids(sample: SampleSummary, contig_index: Int, rows: Int, ids: list[str]) -> None:
    """Write the ids of some contigs into these rows of `ids`."""
    row = np.full(sample.manifest.contigs, -1)
    row[contig_index] = rows
    for batch in batches(sample.folder.parquet("contigs"), "contig_index", "contig"):
        target = row[batch["contig_index"].to_numpy()]
        names = batch["contig"].filter(pa.array(target >= 0)).to_pylist()
        for index, name in zip(target[target >= 0].tolist(), names, strict=True):
            ids[index] = name


def add_annotations(path: Path, samples: list[SampleSummary], contigs: Contigs) -> None:
    """Add the columns of other tools, whose names have a dot, from `viruses.parquet` at `path`.

    It has a row for each viral contig and for each region (not read here: `region` is not null);
    without the file there are no annotations. Raises ResultError where it cannot be read.
    """
    if not path.exists():
        return
    with opened(path) as file:
        names = [name for name in file.schema_arrow.names if "." in name][:MAX_ANNOTATIONS]
    if not names:
        return
    code = {name: np.zeros(contigs.listed, np.uint16) for name in names}
    index = {name: dict[str, int]() for name in code}
    place = contigs.columns["sample"], contigs.columns["contig_index"]
    row_of = {pair: row for row, pair in enumerate(zip(*(c.tolist() for c in place), strict=True))}
    sample_of = {sample.name: at for at, sample in enumerate(samples)}
    room, full = MAX_VALUE_BYTES, set[str]()
    for batch in batches(path, "sample", "contig_index", "region", *code):
        columns = (batch[name].to_pylist() for name in ("sample", "contig_index", "region", *code))
        for sample, contig, region, *values in zip(*columns, strict=True):
            row = row_of.get((sample_of.get(sample, -1), contig))
            if row is None or region is not None:
                continue
            for name, value in zip(code, values, strict=True):
                if value and value not in index[name]:
                    size = len(value.encode()) + 3
                    if size > room or len(index[name]) == MAX_VALUES:
                        full.add(name)
                        continue
                    room, index[name][value] = room - size, len(index[name]) + 1
                code[name][row] = index[name][value] if value else 0
    contigs.annotations = [AnnotationColumn(n, list(index[n]), code[n], n in full) for n in code]


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
