"""One page about a run, `report.html`, and the figures and tables that other tools read.

The page is self-contained: data, style and code are in it. It is drawn from the tables of the
samples, the reports of the workers and the card of the bundle; nothing is computed anew.
"""

import base64
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup
from numpy.typing import NDArray

from virnuc_rules.chunkfiles import Manifest, read_manifest
from virnuc_rules.config import Config, read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.files import replacing
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.provenance import Provenance, provenance
from virnuc_rules.store import Store
from virnuc_rules.tasks import all_tasks, chunk_folder, read_settings
from virnuc_rules.worker_report import WorkerReport, read_reports

BINS = 40  # of score histograms
LENGTHS = (0, 500, 1_000, 2_500, 5_000, 10_000, 50_000)  # bases where the classes of contigs begin
CALLS = ("virus", "others", "no_call")
MOST_CONTIGS = 200_000  # that are listed
MOST_WINDOWS = 1_000_000  # whose scores are in the page: 4 bytes each
_NO_CALL = 255  # as a score; others are 0 to 250, in 1/250
_NUMBERS = ("contig_number", "length", "windows", "called_windows", "viral_windows")

FIGURES = ("scores", "viral_by_length", "calls")
FILES = (
    "report.html",
    "provenance.json",
    *(f"report/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
    "multiqc/virnuc_calls_mqc.json",
    "multiqc/virnuc_summary_mqc.json",
)  # in the folder of results


@dataclass(slots=True)
class SampleSummary:
    """What the page says of a sample as a whole."""

    name: str
    manifest: Manifest
    contig_calls: Counter[str] = field(default_factory=Counter)
    window_calls: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # of windows without a call
    histogram: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {call: np.zeros(BINS, np.int64) for call in CALLS[:2]}
    )
    by_length: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {call: np.zeros(len(LENGTHS), np.int64) for call in CALLS}
    )

    @property
    def viral_share(self) -> float | None:
        """Return the share of called contigs that are viral; None where none is called."""
        called = self.contig_calls["virus"] + self.contig_calls["others"]
        return self.contig_calls["virus"] / called if called else None


@dataclass(slots=True)
class Run:
    """Everything that the page is about."""

    samples: list[SampleSummary]
    contigs: dict[str, list[Any]]  # columns; viral ones first, then by length
    listed: int
    all_contigs: int
    tracks: dict[str, Any]
    workers: list[WorkerReport]
    failures: list[dict[str, Any]]
    card: BundleCard
    provenance: Provenance


def write_report(config: Config, out: Path) -> Run:
    """Write the page `out`, and beside it figures, provenance and the tables for MultiQC.

    Raises VirnucError where a sample has no tables yet.
    """
    from virnuc_rules.figures import write_figures

    run = read_run(config)
    folder = out.parent
    for name, content in _multiqc(run).items():
        with replacing(folder / "multiqc" / name) as handle:
            handle.write(json.dumps(content, indent=1) + "\n")
    write_figures(run.samples, folder / "report")
    with replacing(folder / "provenance.json") as handle:
        handle.write(run.provenance.model_dump_json(indent=1) + "\n")
    page = render(run)
    with replacing(out) as handle:
        handle.write(page)
    return run


def read_run(config: Config) -> Run:
    """Read what the page needs."""
    names = list(read_samples(config.samples))
    samples, tables = [], []
    for name in names:
        folder = config.results / name
        if not (folder / "contigs.parquet").exists():
            raise VirnucError(f"{folder}: sample {name} has no tables yet; run `predict` first")
        summary = SampleSummary(name, read_manifest(chunk_folder(config.results, name)))
        tables.append(_read_contigs(summary, folder))
        _read_windows(summary, folder)
        samples.append(summary)
    contigs, total = _listed(tables)
    tasks = all_tasks(config.results, names, *read_settings(config))
    failures = Store(config.results).failed(tasks).values()
    workers = read_reports(Store(config.results).workers)
    return Run(
        samples=samples,
        contigs=contigs,
        listed=len(contigs["sample"]),
        all_contigs=total,
        tracks=_tracks(config.results, names, contigs),
        workers=workers,
        failures=[f.model_dump(include={"task", "error", "attempts", "log"}) for f in failures],
        card=read_card(config.bundle),
        provenance=provenance(config, samples={s.name: s.manifest for s in samples}),
    )


def _read_contigs(summary: SampleSummary, folder: Path) -> dict[str, Any]:
    """Count a sample's contigs; return the columns that the page lists."""
    table = pq.read_table(folder / "contigs.parquet")
    call = np.array(table["call"].to_pylist(), object)
    length = table["length"].to_numpy()
    place = np.searchsorted(LENGTHS, length, "right") - 1
    for name in CALLS:
        summary.contig_calls[name] = int((call == name).sum())
        summary.by_length[name] += np.bincount(place[call == name], minlength=len(LENGTHS))
    columns = {name: table[name].to_numpy() for name in _NUMBERS}
    for name in ("score_mean", "score_max"):
        columns[name] = table[name].to_numpy(zero_copy_only=False).astype(float)
    return {**columns, "call": call, "contig": table["contig"].to_pylist()}


def _read_windows(summary: SampleSummary, folder: Path) -> None:
    columns = ["score_virus", "call", "reason"]
    for batch in pq.ParquetFile(folder / "windows.parquet").iter_batches(columns=columns):
        score = batch["score_virus"].to_numpy(zero_copy_only=False)
        call = np.array(batch["call"].to_pylist(), object)
        for name in CALLS[:2]:
            there = score[call == name]
            place = np.minimum((there * BINS).astype(np.int64), BINS - 1)
            summary.histogram[name] += np.bincount(place, minlength=BINS)
        summary.window_calls.update(call.tolist())
        summary.reasons.update(why for why in batch["reason"].to_pylist() if why)


def _listed(tables: list[dict[str, Any]]) -> tuple[dict[str, list[Any]], int]:
    """Join the contigs of all samples: viral ones first, then the longest; `MOST_CONTIGS`."""
    sample = np.concatenate([np.full(len(t["length"]), n) for n, t in enumerate(tables)])
    joined = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]
              if name != "contig"}  # fmt: skip
    ids = [name for table in tables for name in table["contig"]]
    order = np.lexsort((-joined["length"], joined["call"] != "virus"))[:MOST_CONTIGS]
    columns: dict[str, list[Any]] = {"sample": sample[order].tolist()}
    columns["contig"] = [ids[row] for row in order]
    columns["call"] = [CALLS.index(call) for call in joined["call"][order]]
    for name in _NUMBERS:
        columns[name] = joined[name][order].tolist()
    for name in ("score_mean", "score_max"):
        rounded = joined[name][order].round(3).tolist()
        columns[name] = [None if value != value else value for value in rounded]
    return columns, len(ids)


def _tracks(results: Path, names: list[str], contigs: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the windows of the first contigs that fit: starts, lengths and scores, packed."""
    number = np.array(contigs["windows"], np.int64)
    kept = int(np.searchsorted(np.cumsum(number), MOST_WINDOWS, "right"))
    first = np.cumsum(number[:kept]) - number[:kept]
    total = int(number[:kept].sum())
    start, score = np.zeros(total, np.uint32), np.full(total, _NO_CALL, np.uint8)
    size = np.zeros(total, np.uint32)
    sample = np.array(contigs["sample"][:kept], np.int64)
    row = np.array(contigs["contig_number"][:kept], np.int64)
    for place, name in enumerate(names):
        mine = sample == place
        where = dict(zip(row[mine].tolist(), first[mine].tolist(), strict=True))
        columns = ["contig_number", "window", "start", "end", "score_virus"]
        for batch in pq.ParquetFile(results / name / "windows.parquet").iter_batches(
            columns=columns
        ):
            offset = np.array([where.get(n, -1) for n in batch["contig_number"].to_pylist()])
            there = offset >= 0
            at = offset[there] + batch["window"].to_numpy()[there] - 1
            start[at] = batch["start"].to_numpy()[there]
            size[at] = (batch["end"].to_numpy() - batch["start"].to_numpy())[there]
            value = batch["score_virus"].to_numpy(zero_copy_only=False)[there]
            score[at] = np.where(np.isnan(value), _NO_CALL, np.nan_to_num(value) * 250)
    return {
        "contigs": kept,
        "first": first.tolist(),
        "start": _packed(start),
        "size": _packed(size.astype(np.uint16)),
        "score": _packed(score),
    }


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def render(run: Run) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("virnuc_rules", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {
        "samples": [
            {
                "name": sample.name,
                "histogram": {k: v.tolist() for k, v in sample.histogram.items()},
                "byLength": {k: v.tolist() for k, v in sample.by_length.items()},
                "reasons": dict(sample.reasons.most_common()),
            }
            for sample in run.samples
        ],
        "lengths": LENGTHS,
        "contigs": run.contigs,
        "tracks": run.tracks,
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # Inside a script element only `<` could end it; in JSON it may be written like this anywhere.
    text = text.replace("<", "\\u003c")
    page = environment.get_template("report.html")
    return page.render(run=run, calls=CALLS, data=Markup(text))  # noqa: S704


def _multiqc(run: Run) -> dict[str, Any]:
    """Return MultiQC's custom content: https://docs.seqera.io/multiqc/custom_content."""
    parent = {"parent_id": "virnuc", "parent_name": "VirNuc"}
    return {
        "virnuc_calls_mqc.json": {
            **parent,
            "id": "virnuc_calls",
            "section_name": "Calls of contigs",
            "description": f"by the models of bundle {run.card.name}",
            "plot_type": "bargraph",
            "pconfig": {
                "id": "virnuc_calls_plot",
                "title": "VirNuc: calls of contigs",
                "ylab": "contigs",
            },
            "data": {s.name: {call: s.contig_calls[call] for call in CALLS} for s in run.samples},
        },
        "virnuc_summary_mqc.json": {
            **parent,
            "id": "virnuc_summary",
            "section_name": "Samples",
            "plot_type": "table",
            "pconfig": {"id": "virnuc_summary_table", "title": "VirNuc: samples"},
            "data": {
                s.name: {
                    "contigs": s.manifest.contigs,
                    "bases": s.manifest.bases,
                    "windows": s.manifest.windows,
                    "windows_called": s.window_calls["virus"] + s.window_calls["others"],
                    "contigs_viral": s.contig_calls["virus"],
                }
                for s in run.samples
            },
        },
    }
