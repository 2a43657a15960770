"""`evaluation.json` and `evaluation.html`: an evaluation with its provenance."""

import io
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import pyplot as plt
from pydantic import BaseModel

from virnuc_rules.config.run_folder import EvaluationFiles
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing
from virnuc_rules.models.card import Calibration, Seen, Training
from virnuc_rules.report.figures import COLORS, STYLE
from virnuc_rules.report.page import page_environment
from virnuc_rules.training.evaluation import Measures, Reliability
from virnuc_rules.vocabulary import Call

_MAX_GROUPS = 20  # in the list


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
    reliability: Reliability | None  # None where one of the labels has no window with a call
    calibration: Calibration | None
    training: Training | None


def write_evaluation(evaluation: Evaluation, page: Path) -> None:
    """Write the page, and the same as JSON beside it. Raises VirnucError for another ending."""
    if page.suffix != ".html":
        raise VirnucError(f"{page}: an evaluation is an HTML page; give a name that ends in .html")
    template = page_environment().get_template("evaluation.html")
    figure = Markup(_figure(evaluation))  # noqa: S704 - made by `_figure`, from numbers
    with replacing(EvaluationFiles(page).json) as handle:
        handle.write(evaluation.model_dump_json(indent=1) + "\n")
    with replacing(page) as handle:
        handle.write(template.render(it=evaluation, figure=figure, max_groups=_MAX_GROUPS))


def _figure(evaluation: Evaluation) -> str:
    """Draw the curves; return the text of an SVG element."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
        _roc(left, evaluation)
        _reliability(right, evaluation.reliability)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _roc(axes: Any, evaluation: Evaluation) -> None:
    levels = {"windows": evaluation.windows, "contigs": evaluation.contigs}
    for (name, measured), color in zip(levels.items(), COLORS.values(), strict=False):
        if ranking := measured.ranking:
            x, y = zip(*ranking.roc, strict=True)
            axes.plot(x, y, color=color, label=f"{name}, AUROC {ranking.auroc:.3f}")
    axes.plot([0, 1], [0, 1], color=COLORS[Call.NO_CALL], linewidth=0.8)
    axes.set(xlabel="non-viral ones called virus", ylabel="viral ones called virus", title="ROC")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower right")


def _reliability(axes: Any, reliability: Reliability | None) -> None:
    axes.plot([0, 1], [0, 1], color=COLORS[Call.NO_CALL], linewidth=0.8)
    if reliability:
        predicted = [each.predicted for each in reliability.bins]
        observed = [each.observed for each in reliability.bins]
        axes.plot(predicted, observed, "o-", color=COLORS[Call.VIRUS], markersize=4)
    calibrated = reliability is not None and reliability.calibrated
    axes.set(
        xlabel="probability of windows" if calibrated else "raw score of windows",
        ylabel="viral fraction",
        title="Reliability, labels balanced",
        xlim=(0, 1),
        ylim=(0, 1),
    )
