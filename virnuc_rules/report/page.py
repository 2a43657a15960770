"""One page about a run, `report.html`, and the figures and tables that other tools read.

The page contains its data, style and code. It shows the tables of the samples, the reports of the
workers and the card of the bundle.
"""

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from virnuc_rules.bundles.verified import Verified, read_verified
from virnuc_rules.config.labels import read_controls
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import ReportFolder, RunFolder
from virnuc_rules.config.sheet import read_sheet
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.errors import ChunkError, ResultError
from virnuc_rules.files.atomic import replacing
from virnuc_rules.models.card import BundleCard, read_card
from virnuc_rules.queue.store import Failure, Store
from virnuc_rules.report.data import (
    LENGTHS,
    NO_CALL,
    NOT_SHOWN,
    STEPS,
    VIRAL,
    Contigs,
    SampleSummary,
    find_samples,
    read_contigs,
)
from virnuc_rules.report.multiqc import multiqc_content
from virnuc_rules.report.provenance import Provenance, provenance
from virnuc_rules.serving.worker_report import WorkerReport, read_reports
from virnuc_rules.vocabulary import Call

logger = logging.getLogger(__name__)

MAX_FAILURES = 200  # in the list
_SHOWN = 5  # ids in a line


@dataclass(slots=True)
class Run:
    """The content of the page."""

    samples: list[SampleSummary]
    missing: dict[str, str]  # reason of each sample without tables
    contigs: Contigs
    workers: list[WorkerReport]
    failures: list[Failure]
    card: BundleCard
    verified: Verified
    provenance: Provenance

    def count(self, call: str) -> int:
        """Return how many contigs of all samples have this call."""
        return sum(sample.contig_calls[call] for sample in self.samples)

    @property
    def shown(self) -> dict[str, str]:
        """Return what is shown of windows and of contigs, see `report.data`."""
        known = {"windows": self.card.calibration, "contigs": self.card.contig_model}
        return {name: "probability" if known[name] else "relative score" for name in known}

    @property
    def rule(self) -> str:
        """Return in a sentence how contigs are called; cutoffs by `max_fdr` differ by sample."""
        config = Config.of(**self.provenance.config)
        return self.samples[0].calls.rule(config.calling, config.probability.max_fdr)


def write_report(config: Config, out: Path) -> Run:
    """Write the page `out`, and beside it figures, provenance and the tables for MultiQC.

    Samples without tables are left out, and named on the page and in the log. Raises ResultError
    where no sample has tables, or where a table is damaged.
    """
    from virnuc_rules.report.figures import write_figures

    run, folder = read_run(config), ReportFolder(out)
    calls, summary = multiqc_content(run.samples, run.card.name)
    for path, content in {folder.multiqc_calls: calls, folder.multiqc_summary: summary}.items():
        with replacing(path) as handle:
            handle.write(json.dumps(content, indent=1) + "\n")
    write_figures(run.samples, folder)
    with replacing(folder.provenance) as handle:
        handle.write(run.provenance.model_dump_json(indent=1) + "\n")
    with replacing(out) as handle:
        handle.write(render(run))
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
    for sample in samples:
        if sample.unmatched:
            logger.warning("sample %s: %s", sample.name, unmatched(sample))
    card, store = read_card(config.run.bundle), Store(results)
    failed = store.failed(_tasks(config, [*(s.name for s in samples), *missing]))
    return Run(
        samples=samples,
        missing=missing,
        contigs=contigs,
        workers=read_reports(store.workers),
        failures=[failure for key, failure in failed.items() if not store.is_done(key)],
        card=card,
        verified=read_verified(config.run.bundle, card.fingerprint),
        provenance=provenance(config, {s.name: s.manifest for s in samples}, sheet.samples),
    )


def unmatched(sample: SampleSummary) -> str:
    """Say how many ids in a sample's tables of labels are of no contig, and name some."""
    ids = sample.unmatched
    more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return (
        f"{len(ids):,} of {len(sample.labels):,} ids in its table of labels match no contig: "
        f"{', '.join(ids[:_SHOWN])}{more}"
    )


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
    environment.filters["unmatched"] = unmatched
    return environment


def render(run: Run) -> str:
    """Return the page."""
    page = page_environment().get_template("report.html")
    data = json.dumps(_data(run), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # Only `<` could end the script element; JSON allows this escape everywhere.
    safe = Markup(data.replace("<", "\\u003c"))  # noqa: S704
    return page.render(
        run=run,
        shown=run.shown,
        calls=list(Call),
        data=safe,
        max_failures=MAX_FAILURES,
        sparkline=_sparkline,
    )


def _sparkline(worker: WorkerReport) -> str:
    """Return the points of a polyline, 120 by 20 pixels: a worker's memory after each chunk."""
    resident = [point.resident for point in worker.memory]
    step, maximum = 120 / (len(resident) - 1), max(resident)
    heights = (19 - 18 * memory / maximum for memory in resident)
    return " ".join(f"{x * step:.1f},{y:.1f}" for x, y in enumerate(heights))


def _data(run: Run) -> dict[str, Any]:
    """Return the data of the page's script."""
    samples = [
        {
            "name": sample.name,
            "window": sample.manifest.chunking.window,
            "histogram": {call: n.tolist() for call, n in sample.histogram.items()},
            "byLength": {call: n.tolist() for call, n in sample.by_length.items()},
            "reasons": dict(sample.reasons.most_common()),
        }
        for sample in run.samples
    ]
    codes = {"noCall": NO_CALL, "steps": STEPS, "viral": VIRAL, "notShown": NOT_SHOWN}
    contigs = run.contigs.packed()
    return {
        "samples": samples,
        "shown": run.shown,
        "lengths": LENGTHS,
        "codes": codes,
        "contigs": contigs,
    }
