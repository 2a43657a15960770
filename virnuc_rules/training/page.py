"""`evaluation.json` and `evaluation.html`: an evaluation with its provenance."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from pydantic import BaseModel

from virnuc_rules.config.run_folder import EvaluationFiles
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing
from virnuc_rules.models.card import Calibration, Seen, Training
from virnuc_rules.report.figures import COLORS, drawn, element
from virnuc_rules.report.page import page_environment
from virnuc_rules.training.evaluation import Measures, Reliability
from virnuc_rules.vocabulary import Call, Label

_MAX_GROUPS = 20  # in the list


class WithoutHomologs(BaseModel):
    """Measures of the sequences that have no homologs in the training data."""

    homologs: dict[Label, int]  # contigs that have some, and are left out
    windows: Measures
    contigs: Measures


class Evaluation(BaseModel):
    """An evaluation of a bundle on labelled sequences."""

    made: datetime
    bundle: str
    description: str
    demo: bool
    window: int
    fingerprint: str
    classifier: str  # sha256
    data: str  # the sheet
    files: list[Seen]
    part: str
    seed: int
    calls: str = ""  # the setting by which contigs were called, half of them taken for viral
    trained_on: list[str]  # files that the classifier was trained on, not held out
    calibrated_on: list[str]  # files that the calibration was fitted to, not held out
    embeddings: str  # in which precision, on which type of device
    versions: dict[str, str]
    windows: Measures
    contigs: Measures
    without_homologs: WithoutHomologs | None = None  # None: not known, see `training.homology`
    reliability: Reliability | None  # None where one of the labels has no window with a call
    calibration: Calibration | None
    training: Training | None


def write_evaluation(evaluation: Evaluation, page: Path) -> None:
    """Write the page, and the same as JSON beside it. Raises VirnucError for another ending."""
    if page.suffix != ".html":
        raise VirnucError(f"{page}: an evaluation is an HTML page; give a name that ends in .html")
    template = page_environment().get_template("evaluation.html")
    figures = {
        title: Markup(element(svg))  # noqa: S704 - made by `_figures`, from numbers
        for title, svg in _figures(evaluation).items()
    }
    with replacing(EvaluationFiles(page).json) as handle:
        handle.write(evaluation.model_dump_json(indent=1) + "\n")
    with replacing(page) as handle:
        handle.write(template.render(it=evaluation, figures=figures, max_groups=_MAX_GROUPS))


def _figures(evaluation: Evaluation) -> dict[str, bytes]:
    """Draw the curves as SVG; the keys are their titles."""
    levels = {"windows": evaluation.windows, "contigs": evaluation.contigs}
    draws: dict[str, Callable[[Any], None]] = {
        "ROC": lambda axes: _roc(axes, levels),
        "Precision and recall": lambda axes: _precision_recall(axes, levels),
        "Reliability, labels balanced": lambda axes: _reliability(axes, evaluation.reliability),
    }
    return {
        title: drawn(f"curve{at}", draw, height=4.2)["svg"]
        for at, (title, draw) in enumerate(draws.items())
    }


def _roc(axes: Any, levels: dict[str, Measures]) -> None:
    for (name, measured), color in zip(levels.items(), COLORS.values(), strict=False):
        if ranking := measured.ranking:
            x, y = zip(*ranking.roc, strict=True)
            axes.plot(x, y, color=color, label=f"{name}, AUROC {ranking.auroc:.3f}")
    axes.plot([0, 1], [0, 1], color=COLORS[Call.NO_CALL], linewidth=0.8)
    axes.set(
        xlabel="false positive rate: non-viral ones called virus",
        ylabel="recall: viral ones called virus",
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower right")


def _precision_recall(axes: Any, levels: dict[str, Measures]) -> None:
    """Draw precision over recall from the points of the ROC, at the stated viral fractions."""
    for (name, measured), color in zip(levels.items(), COLORS.values(), strict=False):
        ranking = measured.ranking
        for at, style in zip(ranking.at.values() if ranking else (), ("-", "--"), strict=False):
            fpr, recall = np.array(ranking.roc).T if ranking else np.zeros((2, 0))
            found, false = at.prevalence * recall, (1 - at.prevalence) * fpr
            called = found + false > 0
            axes.plot(
                recall[called],
                (found / (found + false).clip(1e-300))[called],
                style,
                color=color,
                label=f"{name}, {100 * at.prevalence:g} % viral, AUPRC {at.auprc:.3f}",
            )
    axes.set(
        xlabel="recall: viral ones called virus",
        ylabel="precision: viral ones among those called virus",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=8)


def _reliability(axes: Any, reliability: Reliability | None) -> None:
    axes.plot([0, 1], [0, 1], color=COLORS[Call.NO_CALL], linewidth=0.8)
    if reliability:
        predicted = [each.predicted for each in reliability.bins]
        observed = [each.observed for each in reliability.bins]
        axes.plot(predicted, observed, "o-", color=COLORS[Call.VIRUS], markersize=4)
    calibrated = reliability is not None and reliability.calibrated
    axes.set(
        xlabel="probability of windows" if calibrated else "raw score of windows",
        ylabel="fraction of windows that are viral",
        xlim=(0, 1),
        ylim=(0, 1),
    )
