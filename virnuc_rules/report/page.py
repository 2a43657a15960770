"""One page about a run, `report.html`, and the figures and tables that other tools read.

The page contains its data, style and code. It shows the tables of the samples, the reports of the
workers and the card of the bundle.
"""

import contextlib
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from virnuc_rules.bundles.verified import Verified, read_verified
from virnuc_rules.config.labels import read_controls
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import ReportFolder, RunFolder, SampleFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import ChunkError, ResultError
from virnuc_rules.files.atomic import replacing, replacing_path
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.queue.store import Failure, Store
from virnuc_rules.report.data import (
    NO_CALL,
    NOT_SHOWN,
    STEPS,
    VIRAL,
    Contigs,
    SampleSummary,
    add_annotations,
    find_samples,
    read_contigs,
    unmatched,
)
from virnuc_rules.report.multiqc import multiqc_content
from virnuc_rules.report.provenance import Provenance, provenance
from virnuc_rules.serving.worker_report import WorkerReport, read_reports
from virnuc_rules.vocabulary import Call, Label, Reason

logger = logging.getLogger(__name__)

MAX_FAILURES = 200  # in the list
_FEW_WINDOWS = 30  # with a call, below which numbers of a sample say little
_MEANING = {
    Reason.EMBEDDING_FAILED: "a chunk with one of its open frames failed",
    Reason.NO_OPEN_FRAME: "all six translations have a stop",
    Reason.TOO_AMBIGUOUS: "fewer than half of its bases are A, C, G, T or U",
    Reason.AMBIGUOUS: "no stop, but no codon of A, C, G, T either",
    Reason.TOO_SHORT: "fewer than 150 bases, or than a window if that is less",
}


@dataclass(slots=True)
class Run:
    """The content of the page."""

    names: list[str]  # of all samples, in the order of the sheet
    samples: list[SampleSummary]
    missing: dict[str, str]  # reason of each sample without tables
    contigs: Contigs
    config: Config
    workers: list[WorkerReport]
    failures: list[Failure]
    card: BundleCard
    verified: Verified
    provenance: Provenance

    def count(self, call: str) -> int:
        """Return how many contigs of all samples have this call."""
        return sum(sample.contig_calls[call] for sample in self.samples)

    @property
    def without_call(self) -> list[tuple[str, str, int]]:
        """Return reason, its meaning and the number of windows without a call, most first."""
        number = sum((sample.reasons for sample in self.samples), Counter[str]())
        return [(why, _MEANING.get(Reason(why), ""), n) for why, n in number.most_common()]

    @property
    def shown(self) -> dict[str, str]:
        """Return what is shown of windows and of contigs, see `report.data`."""
        known = {"windows": self.card.calibration, "contigs": self.card.contig_model}
        return {name: "probability" if known[name] else "relative score" for name in known}

    @property
    def rule(self) -> str:
        """Return in a sentence how contigs are called; cutoffs by `max_fdr` differ by sample."""
        return self.samples[0].calls.rule(self.config.calling, self.config.probability)


def write_report(config: Config, out: Path) -> Run:
    """Write the page `out`; beside it a table of samples, figures, provenance, MultiQC's tables.

    Samples without tables are left out, and named on the page and in the log. Raises ResultError
    where no sample has tables, or where a table is damaged.
    """
    from virnuc_rules.report.figures import report_figures
    from virnuc_rules.report.summary import summary_text

    run, folder = read_run(config), ReportFolder(out)
    calls, summary = multiqc_content(run.samples, run.card.name)
    for path, content in {folder.multiqc_calls: calls, folder.multiqc_summary: summary}.items():
        with replacing(path) as handle:
            handle.write(json.dumps(content, indent=1) + "\n")
    with replacing(folder.summary) as handle:
        handle.write(summary_text(run.names, run.samples, run.missing))
    figures = report_figures(run.samples, run.shown)
    for name, images in figures.items():
        for kind, image in images.items():
            with replacing_path(folder.figure(name, kind)) as path:
                path.write_bytes(image)
    with replacing(folder.provenance) as handle:
        handle.write(run.provenance.model_dump_json(indent=1) + "\n")
    with replacing(out) as handle:
        handle.write(render(run, out, {name: images["svg"] for name, images in figures.items()}))
    return run


def read_run(config: Config) -> Run:
    """Read what the page needs. Raises ResultError as `write_report` does."""
    sheet, results = read_sheet(config.inputs.samples), config.run.results
    samples, missing = find_samples(RunFolder(results), list(sheet.samples), read_controls(sheet))
    for name, reason in missing.items():
        logger.warning("sample %s is not in the report: %s", name, reason)
    if not samples:
        first = next(iter(missing.values()))
        raise ResultError(f"{results}: no report, as no sample has tables: {first}")
    contigs = read_contigs(samples)
    add_annotations(RunFolder(results).viruses.parquet, samples, contigs)
    for sample in samples:
        if sample.unmatched:
            logger.warning("sample %s: %s", sample.name, unmatched_labels(sample))
    card, store = read_card(config.run.bundle), Store(results)
    failed = store.failed(_tasks(config, [*(s.name for s in samples), *missing]))
    return Run(
        names=list(sheet.samples),
        samples=samples,
        missing=missing,
        contigs=contigs,
        config=config,
        workers=read_reports(store.workers),
        failures=[failure for key, failure in failed.items() if not store.is_done(key)],
        card=card,
        verified=read_verified(config.run.bundle, card.fingerprint),
        provenance=provenance(config, {s.name: s.manifest for s in samples}, sheet.samples),
    )


def unmatched_labels(sample: SampleSummary) -> str:
    """Say how many ids in a sample's tables of labels are of no contig, and name some."""
    return unmatched(sample.unmatched, len(sample.labels), "its table of labels")


def _tasks(config: Config, names: list[str]) -> dict[str, Task]:
    """Return the tasks of the samples that are chunked."""
    tasks: dict[str, Task] = {}
    for name in names:
        with contextlib.suppress(ChunkError):  # `find_samples` has logged it
            tasks |= Tasks.of(config.run, config.embedding).of_samples([name])
    return tasks


def page_environment() -> jinja2.Environment:
    """Return the Jinja environment of pages; it escapes texts from files."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("virnuc_rules.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = "{:,}".format
    environment.filters["unmatched"] = unmatched_labels
    environment.globals["share"] = _share
    return environment


def _share(part: int, total: int) -> str:
    """Return a part with its total, and in percent."""
    percent = f" ({100 * part / total:.0f} %)" if total else ""
    return f"{part:,} of {total:,}{percent}"


def warnings(sample: SampleSummary) -> list[str]:
    """Say why the numbers of a sample may say little."""
    called, windows = sample.called_windows, sample.manifest.windows
    found = []
    if called < _FEW_WINDOWS:
        found.append(f"fewer than {_FEW_WINDOWS} windows with a call")
    if 2 * called < windows:
        found.append("more than half of the windows without a call")
    return found


def _links(page: Path, paths: list[Path]) -> dict[str, str]:
    """Return the link from the page to each of the paths that exists, by its name."""
    # Not resolved: a browser, too, goes up from a folder by its name.
    return {
        path.name + "/" * path.is_dir(): quote(os.path.relpath(path, page.parent))
        for path in paths
        if path.exists()
    }


def _files(folder: SampleFolder) -> list[Path]:
    tables = [folder.tsv(table) for table in ("contigs", "regions")]
    return [*tables, folder.viral_fasta, folder.bed.parent]


def render(run: Run, out: Path, figures: dict[str, bytes]) -> str:
    """Return the page that is to be at `out`; figures: FIGURES as SVG."""
    from virnuc_rules.report.figures import element, length_names

    page = page_environment().get_template("report.html")
    viruses = RunFolder(run.config.run.results).viruses
    data = json.dumps(_data(run), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # Only `<` could end the script element; JSON allows this escape everywhere.
    safe = Markup(data.replace("<", "\\u003c"))  # noqa: S704
    return page.render(
        run=run,
        shown=run.shown,
        calls=list(Call),
        links={s.name: _links(out, _files(s.folder)) for s in run.samples},
        run_links=_links(out, [ReportFolder(out).summary, viruses.tsv, viruses.fasta]),
        figures={name: Markup(element(svg)) for name, svg in figures.items()},  # noqa: S704
        warnings={s.name: found for s in run.samples if (found := warnings(s))},
        few_windows=_FEW_WINDOWS,
        classes=[(name, at) for at, name in enumerate(length_names())],
        heat=_heat,
        data=safe,
        max_failures=MAX_FAILURES,
        sparkline=_sparkline,
    )


def _heat(sample: SampleSummary, at: int) -> tuple[int, int, int]:
    """Return viral and called contigs of a length class; step of the colour: 0, then 1 to 5."""
    virus, called = (
        sum(int(sample.by_length[call][at]) for call in calls)
        for calls in ((Label.VIRUS,), tuple(Label))
    )
    return virus, called, -(-5 * virus // called) if called else 0


def _sparkline(worker: WorkerReport) -> str:
    """Return the points of a polyline, 120 by 20 pixels: a worker's memory after each chunk."""
    resident = [point.resident for point in worker.memory]
    step, maximum = 120 / (len(resident) - 1), max(resident)
    heights = (19 - 18 * memory / maximum for memory in resident)
    return " ".join(f"{x * step:.1f},{y:.1f}" for x, y in enumerate(heights))


def _data(run: Run) -> dict[str, Any]:
    """Return the data of the page's script."""
    return {
        "samples": [[sample.name, sample.manifest.chunking.window] for sample in run.samples],
        "shown": run.shown,
        "codes": {"noCall": NO_CALL, "steps": STEPS, "viral": VIRAL, "notShown": NOT_SHOWN},
        "contigs": run.contigs.packed(),
    }
