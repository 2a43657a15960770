"""The commands train, calibrate and evaluate, over embeddings that workers have made."""

import logging
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.special import expit

from virnuc_rules import __version__
from virnuc_rules.bundles import verified
from virnuc_rules.config.model import Calibrating, Fitting, LabelledSettings
from virnuc_rules.config.run_folder import EVALUATION, EvaluationFiles
from virnuc_rules.errors import VirnucError
from virnuc_rules.files import atomic
from virnuc_rules.files.atomic import put_folder, staged_folder, writing
from virnuc_rules.models import card
from virnuc_rules.models.bundle import Bundle, rewrite_card, write_card
from virnuc_rules.models.calibration import log_odds
from virnuc_rules.models.device import choose_device
from virnuc_rules.training.calibrate import (
    MIN_WINDOWS,
    fit_calibration,
    fit_contigs,
    no_open_frame,
)
from virnuc_rules.training.dataset import Rows, read_rows
from virnuc_rules.training.evaluation import measure, reliability
from virnuc_rules.training.fit import Fitted, fit
from virnuc_rules.training.holdout import files_of, not_held_out, parts_of
from virnuc_rules.training.homology import with_homologs
from virnuc_rules.training.labelled import Labelled, read_labelled
from virnuc_rules.training.page import Evaluation, WithoutHomologs, write_evaluation
from virnuc_rules.training.scored import Scores, score_labelled
from virnuc_rules.training.sheet import read_labelled_sheet, tables_beside
from virnuc_rules.training.split import PARTS, Part, Parts
from virnuc_rules.vocabulary import Label

logger = logging.getLogger(__name__)

_PAGES = {path.name for path in EvaluationFiles(Path(EVALUATION)).files()}
_BUNDLE_FILES = {card.CARD, verified.FILE, *card.FILES, *_PAGES}
_TRAINED = {"train", "validation"}  # parts used to train a classifier
_PACKAGES = ("torch", "scikit-learn", "numpy")


def train(settings: LabelledSettings, calibrating: Calibrating, fitting: Fitting) -> Evaluation:
    """Make the bundle `trained_bundle`: the networks of `bundle`, a new classifier.

    The classifier is fitted to the train part, stopped and calibrated with the validation part,
    and evaluated on the test part, which is used for nothing else. An older bundle that `train`
    made there is replaced once the new one is complete. Raises VirnucError for a folder with other
    files, ModelError for a damaged bundle, and what `read_labelled`, `read_rows`, `fit` and
    `fit_calibration` raise.
    """
    out, base = fitting.trained_bundle, Bundle(settings.run.bundle)
    _check_target(out, settings.run.bundle)
    base.check(*card.EMBEDDING_FILES)  # the new card has new hashes of them, of damage too
    torch.set_num_threads(settings.compute.threads)
    labelled = read_labelled(settings)
    parts = read_rows(settings, labelled, "train", "validation")
    parts["train"] = parts["train"].capped(fitting.max_per_label, settings.splitting.seed)
    _log_parts(labelled, parts)
    paths = tables_beside(read_labelled_sheet(settings.inputs.samples))
    tables = {str(path): atomic.file_sha256(path) for path in paths}
    device, seed = choose_device(settings.compute.device), settings.splitting.seed
    fitted = fit(parts["train"], parts["validation"], fitting, seed, device)
    recipe = {**fitting.model_dump(exclude={"trained_bundle"}), **settings.splitting.model_dump()}
    training = _training(labelled, parts, tables, recipe, fitted)
    with staged_folder(out) as stage:
        with writing(out):
            _write_bundle(stage, out.name, base, fitted, training)
        if calibrating.calibration != "none":
            _calibrate(settings, calibrating, stage, labelled, "validation")
        evaluation = _evaluate(settings, stage, labelled, "test")
        with writing(out):
            write_evaluation(evaluation, stage / EVALUATION)
            atomic.sync_files(stage.iterdir())
            put_folder(stage, out)
    return evaluation


def _check_target(out: Path, base: Path) -> None:
    """Raise VirnucError where `out` is anything but a bundle that `train` made."""
    if out.resolve() == base.resolve():
        raise VirnucError(f"{out}: is the bundle to train with; give `trained_bundle` another name")
    names = {p.name for p in out.iterdir() if not atomic.is_partial(p)} if out.exists() else set()
    if unknown := names - _BUNDLE_FILES:
        raise VirnucError(f"{out}: holds {min(unknown)}, which no bundle has; give another folder")
    made = EvaluationFiles(out / EVALUATION).made  # also beside a card that was damaged
    if card.is_bundle(out) and not made.exists() and card.read_card(out).training is None:
        raise VirnucError(f"{out}: is a bundle that `train` did not make; give another folder")


def _log_parts(labelled: Labelled, parts: dict[Part, Rows]) -> None:
    groups = _groups(labelled)
    for part in PARTS:
        frames = parts[part].by_label() if part in parts else {}
        counts = ", ".join(f"{count} {label}" for label, count in frames.items())
        logger.info("%s: %d groups; open frames: %s", part, groups[part], counts or "–")


def _groups(labelled: Labelled) -> dict[str, int]:
    """Count the groups of each part."""
    return {
        part: len({*np.concatenate([s.group[s.part == i] for s in labelled.samples]).tolist()})
        for i, part in enumerate(PARTS)
    }


def _training(
    labelled: Labelled,
    parts: dict[Part, Rows],
    tables: dict[str, str],
    recipe: dict[str, float],
    fitted: Fitted,
) -> card.Training:
    """Describe data, settings and result; `tables` are the hashes from before the training."""
    return card.Training(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        data=files_of(labelled),
        tables=tables,
        seed=int(recipe["seed"]),
        groups=_groups(labelled),
        open_frames={part: rows.by_label() for part, rows in parts.items()},
        recipe={name: float(value) for name, value in recipe.items()},
        best_epoch=fitted.best_epoch,
        losses=fitted.losses,
        versions=_versions(),
    )


def _write_bundle(
    stage: Path, name: str, base: Bundle, fitted: Fitted, training: card.Training
) -> None:
    for file in card.EMBEDDING_FILES:
        atomic.link_or_copy(base.folder / file, stage / file)
    tensors = {key: tensor.contiguous() for key, tensor in fitted.network.state_dict().items()}
    save_file(tensors, stage / card.CLASSIFIER)
    (stage / card.CLASSIFIER).chmod(0o644)  # safetensors makes it 0600
    hidden, features = tensors["hidden_layer.weight"].shape
    write_card(
        stage,
        name=name,
        # Not the description of `base`: its numbers, and its warning, are those of its classifier.
        description=(
            f"Networks of {base.card.name}{' (a demo bundle)' if base.card.demo else ''}, with a "
            f"classifier by `virnuc-rules train`; {EVALUATION} says what it reached."
        ),
        demo=False,
        window=base.card.window,
        dnabert_s=base.card.dnabert_s,
        esm2=base.card.esm2,
        classifier=card.ClassifierShape(features=features, hidden=hidden),
        training=training,
        source={key: origin for key, origin in base.card.source.items() if key != "classifier"},
    )


def calibrate(
    settings: LabelledSettings, calibrating: Calibrating, part: Parts
) -> card.Calibration | None:
    """Fit a calibration of `bundle` to labelled windows, and write it into its card.

    With `calibration: none` remove the calibration of the card.
    """
    bundle = Bundle(settings.run.bundle)
    bundle.check(*bundle.card.sha256)  # the new card has new hashes of the files
    if calibrating.calibration == "none":
        return rewrite_card(settings.run.bundle, calibration=None).calibration
    return _calibrate(settings, calibrating, settings.run.bundle, read_labelled(settings), part)


def _calibrate(
    settings: LabelledSettings,
    calibrating: Calibrating,
    folder: Path,
    labelled: Labelled,
    part: Parts,
) -> card.Calibration:
    bundle = Bundle(folder)
    training = bundle.card.training
    # The validation part may be used: it stopped the training, but no weight was fitted to it.
    if training and (seen := not_held_out(training.data, {"train"}, labelled, part)):
        raise VirnucError(
            f"{folder}: its classifier was trained on a part of {seen[0]}; calibrate with the "
            f"sheet that it was trained with, {_split_of(training)} and --part validation, or with "
            "other data"
        )
    # An older calibration says nothing here; its model of contigs may have other features.
    bundle.card = bundle.card.model_copy(update={"calibration": None})
    marked = _with_homologs(settings, training, labelled, {"train"})
    scores = score_labelled(settings, bundle, marked, part)
    windows = scores.windows.where(~scores.windows.homolog)
    if np.bincount(windows.virus[windows.called], minlength=len(Label)).min() < MIN_WINDOWS:
        logger.warning("calibrated with homologs of the training data: there is too little else")
        windows, marked = scores.windows, labelled
    called = windows.where(windows.called)
    calibration = fit_calibration(
        called.score,
        called.virus,
        [labelled.groups[group] for group in called.group.tolist()],
        calibrating.calibration,
        classifier=bundle.card.sha256[card.CLASSIFIER],
        data=files_of(labelled),
        part=part,
        no_open_frame=no_open_frame(windows),
    )
    contigs = fit_contigs(calibration, scores.called, marked, part)
    calibration = calibration.model_copy(update={"contigs": contigs})
    rewrite_card(folder, calibration=calibration)
    logger.info("bundle %s: calibrated by %s", bundle.card.name, calibration.method)
    if contigs is None:
        logger.warning("no model of contigs: too few contigs, or groups, of a label in %s", part)
    return calibration


def _split_of(training: card.Training) -> str:
    """Return the options that split the data as for the training."""
    linked = " --link-homologs" if training.recipe.get("link_homologs") else ""
    return f"--seed {training.seed}{linked}"


def evaluate(settings: LabelledSettings, part: Parts, page: Path) -> Evaluation:
    """Evaluate `bundle` on labelled samples; writes the page, and JSON beside it."""
    evaluation = _evaluate(settings, settings.run.bundle, read_labelled(settings), part)
    if evaluation.trained_on and evaluation.training:
        file, split = evaluation.trained_on[0], _split_of(evaluation.training)
        logger.warning("the classifier was trained on a part of %s, with %s", file, split)
    if evaluation.calibrated_on:
        logger.warning("the calibration was fitted to a part of %s", evaluation.calibrated_on[0])
    with writing(page):
        write_evaluation(evaluation, page)
    return evaluation


def _evaluate(
    settings: LabelledSettings, folder: Path, labelled: Labelled, part: Parts
) -> Evaluation:
    bundle = Bundle(folder)
    training, calibration = bundle.card.training, bundle.card.calibration
    seen = not_held_out(training.data, _TRAINED, labelled, part) if training else []
    if not seen:
        labelled = _with_homologs(settings, training, labelled, _TRAINED)
    scores = score_labelled(settings, bundle, labelled, part)
    sources = [sample.name for sample in labelled.samples]
    windows = scores.windows
    probability = expit(log_odds(calibration, windows.score)) if calibration else None
    known = all(sample.homolog is not None for sample in labelled.samples)
    return Evaluation(
        made=datetime.now(UTC),
        bundle=bundle.card.name,
        **bundle.card.model_dump(include={"description", "demo", "window", "fingerprint"}),
        classifier=bundle.card.sha256[card.CLASSIFIER],
        data=str(settings.inputs.samples),
        files=files_of(labelled),
        part=part,
        seed=settings.splitting.seed,
        calls=settings.calling.calls,
        trained_on=seen,
        calibrated_on=(
            not_held_out(calibration.data, parts_of(calibration.part), labelled, part)
            if calibration
            else []
        ),
        embeddings=", ".join(sorted(map(str, scores.computed))),
        versions=_versions(),
        windows=measure(windows, sources, labelled.groups),
        contigs=measure(scores.contigs, sources, labelled.groups),
        without_homologs=_without_homologs(scores, sources, labelled.groups) if known else None,
        reliability=reliability(windows, probability),
        calibration=calibration,
        training=training,
    )


def _with_homologs(
    settings: LabelledSettings, training: card.Training | None, labelled: Labelled, parts: set[str]
) -> Labelled:
    """Mark homologs of parts that the classifier was trained on, where the sheet has them all."""
    here = {(file.sha256, file.split) for file in files_of(labelled)}
    if training is None or not {(file.sha256, file.split) for file in training.data} <= here:
        return labelled
    return with_homologs(settings, labelled, parts)


def _without_homologs(scores: Scores, sources: list[str], groups: list[str]) -> WithoutHomologs:
    contigs = scores.contigs
    windows, alone = (each.where(~each.homolog) for each in (scores.windows, contigs))
    left_out = np.bincount(contigs.virus[contigs.homolog], minlength=len(Label))
    windows_measured, contigs_measured = (
        measure(each, sources, groups).model_copy(update={"by_group": []})
        for each in (windows, alone)
    )
    return WithoutHomologs(
        homologs=dict(zip(Label, left_out.tolist(), strict=True)),
        windows=windows_measured,
        contigs=contigs_measured,
    )


def _versions() -> dict[str, str]:
    return {"virnuc_rules": __version__, **{name: version(name) for name in _PACKAGES}}
