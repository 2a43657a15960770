"""The commands for your own classifiers: train, calibrate, evaluate.

All three read a labelled sheet (`samples` with a column `label`) and the embeddings of its samples
in the results: `chunk` and `serve` come first, as for any sample.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virnuc_rules.cli.settings import Log, Stamp, with_settings
from virnuc_rules.config.model import Calibrating, Fitting, LabelledSettings
from virnuc_rules.config.run_folder import EVALUATION, EvaluationFiles, RunFolder
from virnuc_rules.files.made import accept
from virnuc_rules.logs import logger
from virnuc_rules.models.card import CARD, read_card
from virnuc_rules.training.products import evaluation_product, trained_product, unembedded_samples
from virnuc_rules.training.split import Parts
from virnuc_rules.vocabulary import Label

if TYPE_CHECKING:
    from virnuc_rules.training.page import Evaluation

app = typer.Typer()

_PART = "part of the groups: train, validation, test, or all"


@app.command()
@with_settings
def train(
    settings: LabelledSettings,
    calibrating: Calibrating,
    fitting: Fitting,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Train a classifier on embedded, labelled samples; makes a bundle with its evaluation.

    Example: virnuc-rules train --trained-bundle bundles/own
    """
    settings.run.check_embeddings("train")
    product = trained_product(settings, calibrating, fitting)
    if product.up_to_date(stamp):
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for reproducible bytes on CUDA
    from virnuc_rules.training.commands import train as train_bundle

    seen, bundle = product.look(), fitting.trained_bundle
    files = EvaluationFiles(bundle / EVALUATION)
    evaluation = train_bundle(settings, calibrating, fitting)
    hashes = {bundle / name: sha256 for name, sha256 in read_card(bundle).sha256.items()}
    made = [bundle / CARD, *hashes, files.page, files.json]
    failed = unembedded_samples(settings, need_embeddings=True)
    product.finish(seen, made, stamp, failed=failed, known=hashes)
    _log_evaluation(evaluation, files.page)


@app.command()
@with_settings
def calibrate(
    settings: LabelledSettings,
    calibrating: Calibrating,
    part: Annotated[Parts, typer.Option(help=_PART)] = "validation",
    log: Log = None,
) -> None:
    """Fit a calibration to embedded, labelled samples, and write it into the bundle's card.

    Example: virnuc-rules calibrate --bundle bundles/own
    """
    from virnuc_rules.training.commands import calibrate as calibrate_bundle

    calibrate_bundle(settings, calibrating, part)
    bundle = settings.run.bundle
    accept(EvaluationFiles(bundle / EVALUATION).made, bundle / CARD)


@app.command()
@with_settings
def evaluate(
    settings: LabelledSettings,
    part: Annotated[Parts, typer.Option(help=_PART)] = "all",
    out: Annotated[
        Path | None, typer.Option(help="page to write \\[default: evaluation.html in the results]")
    ] = None,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Measure a bundle on embedded, labelled samples; writes a page, and JSON beside it.

    Example: virnuc-rules evaluate --bundle bundles/own --out page.html
    """
    files = EvaluationFiles(out) if out else RunFolder(settings.run.results).evaluation
    product = evaluation_product(settings, part, files)
    if product.up_to_date(stamp):
        return
    from virnuc_rules.training.commands import evaluate as evaluate_bundle

    seen = product.look()
    product.made.unlink(missing_ok=True)
    evaluation = evaluate_bundle(settings, part, files.page)
    failed = unembedded_samples(settings, need_embeddings=False)
    product.finish(seen, [files.page, files.json], stamp, failed=failed)
    _log_evaluation(evaluation, files.page)


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
