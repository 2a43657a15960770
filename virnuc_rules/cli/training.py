"""The commands for your own classifiers: train, calibrate, evaluate.

All three read a labelled sheet (`samples` with a column `label`) and the embeddings of its samples
in the results: `chunk` and `serve` come first, as for any sample.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virnuc_rules.cli.settings import Log, with_settings
from virnuc_rules.config.model import Calibrating, Fitting, LabelledSettings
from virnuc_rules.config.run_folder import EVALUATION, RunFolder
from virnuc_rules.logs import logger
from virnuc_rules.training.split import Parts
from virnuc_rules.vocabulary import Label

if TYPE_CHECKING:
    from virnuc_rules.training.page import Evaluation

app = typer.Typer()

_PART = "part of the groups: train, validation, test, or all"


@app.command()
@with_settings
def train(
    settings: LabelledSettings, calibrating: Calibrating, fitting: Fitting, log: Log = None
) -> None:
    """Train a classifier on embedded, labelled samples; makes a bundle with its evaluation."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for reproducible bytes on CUDA
    from virnuc_rules.training.commands import train as train_bundle

    page = fitting.trained_bundle / EVALUATION
    _log_evaluation(train_bundle(settings, calibrating, fitting), page)


@app.command()
@with_settings
def calibrate(
    settings: LabelledSettings,
    calibrating: Calibrating,
    part: Annotated[Parts, typer.Option(help=_PART)] = "validation",
    log: Log = None,
) -> None:
    """Fit a calibration to embedded, labelled samples, and write it into the bundle's card."""
    from virnuc_rules.training.commands import calibrate as calibrate_bundle

    calibrate_bundle(settings, calibrating, part)


@app.command()
@with_settings
def evaluate(
    settings: LabelledSettings,
    part: Annotated[Parts, typer.Option(help=_PART)] = "all",
    out: Annotated[
        Path | None, typer.Option(help="page to write [default: evaluation.html in the results]")
    ] = None,
    log: Log = None,
) -> None:
    """Measure a bundle on embedded, labelled samples; writes a page, and JSON beside it."""
    from virnuc_rules.training.commands import evaluate as evaluate_bundle

    out = out or RunFolder(settings.run.results).evaluation
    _log_evaluation(evaluate_bundle(settings, part, out), out)


def _log_evaluation(evaluation: "Evaluation", page: Path) -> None:
    for level in ("windows", "contigs"):
        measured = getattr(evaluation, level)
        counts, ranking = measured.counts, measured.ranking
        viral, non_viral = counts[Label.VIRUS], counts[Label.NON_VIRAL]
        logger.info(
            "%s (%s): %s; %d of %d viral, %d of %d non-viral ones called virus; %d without a call",
            level, evaluation.part, f"AUROC {ranking.auroc:.4f}" if ranking else "no AUROC",
            viral.called_virus, viral.called,
            non_viral.called_virus, non_viral.called,
            sum(each.total - each.called for each in counts.values()),
        )  # fmt: skip
    logger.info("%s", page)
