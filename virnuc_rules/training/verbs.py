"""Train, calibrate, evaluate: what the three verbs do, over embeddings that workers have made."""

import logging
import os
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file

from virnuc_rules import __version__
from virnuc_rules.config import Config
from virnuc_rules.errors import VirnucError
from virnuc_rules.files import staged_folder, writing
from virnuc_rules.models import card
from virnuc_rules.models.bundle import Bundle, rewrite_card, write_card
from virnuc_rules.models.calibration import probabilities
from virnuc_rules.models.device import choose_device
from virnuc_rules.training.calibrate import fit_calibration
from virnuc_rules.training.evaluation import measure, reliability
from virnuc_rules.training.fit import Fitted, Recipe, fit
from virnuc_rules.training.labelled import Labelled, read_labelled
from virnuc_rules.training.page import FILES, Evaluation, write_evaluation
from virnuc_rules.training.rows import Rows, read_rows
from virnuc_rules.training.scored import score_labelled
from virnuc_rules.training.split import PARTS, Part

logger = logging.getLogger(__name__)

_OURS = {"bundle.json", "verified.json", *card.FILES, *FILES}  # in the folder of a bundle
_PACKAGES = ("torch", "scikit-learn", "numpy")


def train(config: Config) -> Evaluation:
    """Make the bundle `config.trained_bundle`: the networks of `config.bundle`, a new classifier.

    The classifier is fitted to the train part, stopped and calibrated by the validation part, and
    evaluated on the test part, which nothing else has seen. An older bundle of that name is
    replaced when the new one is whole. Raises VirnucError for a folder that holds something else,
    and what `read_labelled`, `read_rows`, `fit` and `fit_calibration` raise.
    """
    out, base = config.trained_bundle, Bundle(config.bundle)
    if out.exists() and (others := {path.name for path in out.iterdir()} - _OURS):
        raise VirnucError(f"{out}: holds {min(others)}, which no bundle has; give another folder")
    if out.resolve() == config.bundle.resolve():
        raise VirnucError(f"{out}: is the bundle to train with; give `trained_bundle` another name")
    torch.set_num_threads(config.threads)
    labelled = read_labelled(config)
    parts = read_rows(config, labelled, "train", "validation")
    parts["train"] = parts["train"].capped(config.max_per_label, config.seed)
    recipe = Recipe(**{name: getattr(config, name) for name in Recipe.model_fields})
    fitted = fit(parts["train"], parts["validation"], recipe, choose_device(config.device))
    with writing(out), staged_folder(out) as stage:
        _write_bundle(stage, out.name, base, fitted, _training(labelled, parts, recipe, fitted))
        if config.calibration != "none":
            _calibrate(config, stage, labelled, "validation")
        evaluation = _evaluate(config, stage, labelled, "test")
        write_evaluation(evaluation, stage / "evaluation.html")
        _put_in_place(stage, out)
    return evaluation


def _training(
    labelled: Labelled, parts: dict[Part, Rows], recipe: Recipe, fitted: Fitted
) -> card.Training:
    groups = [
        len({*np.concatenate([s.group[s.part == part] for s in labelled.samples]).tolist()})
        for part in range(len(PARTS))
    ]
    return card.Training(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        data=_files(labelled),
        seed=recipe.seed,
        groups=dict(zip(PARTS, groups, strict=True)),
        open_frames={part: rows.by_label() for part, rows in parts.items()},
        recipe={name: float(value) for name, value in recipe},
        best_epoch=fitted.best_epoch,
        losses=fitted.losses,
        versions=_versions(),
    )


def _write_bundle(
    stage: Path, name: str, base: Bundle, fitted: Fitted, training: card.Training
) -> None:
    for file in card.EMBEDDING_FILES:
        _link_or_copy(base.folder / file, stage / file)
    tensors = {key: tensor.contiguous() for key, tensor in fitted.network.state_dict().items()}
    save_file(tensors, stage / card.CLASSIFIER)
    (stage / card.CLASSIFIER).chmod(0o644)  # safetensors makes it 0600
    hidden, features = tensors["hidden_layer.weight"].shape
    write_card(
        stage,
        name=name,
        description=f"{base.card.description} Classifier by `virnuc-rules train`.",
        demo=base.card.demo,
        window=base.card.window,
        dnabert_s=base.card.dnabert_s,
        esm2=base.card.esm2,
        classifier=card.ClassifierShape(features=features, hidden=hidden),
        training=training,
        source={key: origin for key, origin in base.card.source.items() if key != "classifier"},
    )


def _link_or_copy(source: Path, target: Path) -> None:
    """Have gigabytes of weights twice only where the filesystem cannot link."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _put_in_place(stage: Path, out: Path) -> None:
    """Move a whole bundle to `out`; an older one goes."""
    old = stage.with_name(f"{stage.name}-old")
    if out.exists():
        out.rename(old)
    stage.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def calibrate(config: Config, part: Part | Literal["all"]) -> card.Calibration | None:
    """Fit a calibration of `config.bundle` to labelled windows, and write it into its card.

    With `calibration: none` the one that is there is taken out.
    """
    bundle = Bundle(config.bundle)
    bundle.check(*bundle.card.sha256)  # the card is written anew, with what the files are by then
    if config.calibration == "none":
        return rewrite_card(config.bundle, calibration=None).calibration
    return _calibrate(config, config.bundle, read_labelled(config), part)


def _calibrate(
    config: Config, folder: Path, labelled: Labelled, part: Part | Literal["all"]
) -> card.Calibration:
    bundle = Bundle(folder)
    if trained_on := _trained_on(bundle.card, labelled, config.seed, part, "validation"):
        raise VirnucError(
            f"{folder}: its classifier was trained on a part of {trained_on[0]}; calibrate with "
            "the seed it was trained with and --part validation, or with other data"
        )
    windows = score_labelled(config, bundle, labelled, part).windows
    windows = windows.where(windows.called)
    groups = [labelled.groups[group] for group in windows.group.tolist()]
    sha256 = bundle.card.sha256[card.CLASSIFIER]
    found = fit_calibration(windows.score, windows.virus, groups, sha256, config.calibration)
    rewrite_card(folder, calibration=found)
    logger.info("%s: calibrated by %s", folder, found.method)
    return found


def evaluate(config: Config, part: Part | Literal["all"], page: Path) -> Evaluation:
    """Evaluate `config.bundle` on labelled samples; writes the page, and JSON beside it."""
    evaluation = _evaluate(config, config.bundle, read_labelled(config), part)
    if evaluation.trained_on:
        logger.warning("the classifier was trained on a part of %s", evaluation.trained_on[0])
    with writing(page):
        write_evaluation(evaluation, page)
    return evaluation


def _evaluate(
    config: Config, folder: Path, labelled: Labelled, part: Part | Literal["all"]
) -> Evaluation:
    bundle = Bundle(folder)
    scores = score_labelled(config, bundle, labelled, part)
    sources = [sample.name for sample in labelled.samples]
    measured, found = measure(scores.windows, sources, labelled.groups), None
    if measured and bundle.card.calibration:
        probability = probabilities(bundle.card.calibration, scores.windows.score)
        found = reliability(scores.windows, probability)
    return Evaluation(
        made=datetime.now(UTC),
        bundle=bundle.card.name,
        description=bundle.card.description,
        demo=bundle.card.demo,
        window=bundle.card.window,
        fingerprint=bundle.card.fingerprint,
        classifier=bundle.card.sha256[card.CLASSIFIER],
        data=str(config.samples),
        files=_files(labelled),
        part=part,
        seed=config.seed,
        trained_on=_trained_on(bundle.card, labelled, config.seed, part, "test"),
        embeddings=", ".join(sorted(scores.computed)),
        versions=_versions(),
        windows=measured,
        contigs=measure(scores.contigs, sources, labelled.groups),
        reliability=found,
        calibration=bundle.card.calibration,
        training=bundle.card.training,
    )


def _trained_on(
    of: card.BundleCard, labelled: Labelled, seed: int, part: str, held_out: Part
) -> list[str]:
    """Return the files that the classifier was trained on, unless it is their held-out part."""
    if of.training is None or (part == held_out and seed == of.training.seed):
        return []
    seen = {sha256 for files in of.training.data.values() for sha256 in files.values()}
    files = [item for files in _files(labelled).values() for item in files.items()]
    return [name for name, sha256 in files if sha256 in seen]


def _files(labelled: Labelled) -> dict[str, dict[str, str]]:
    """Return the sha256 of each file, by sample."""
    return {
        sample.name: dict(zip(sample.manifest.sources, sample.manifest.sources_sha256, strict=True))
        for sample in labelled.samples
    }


def _versions() -> dict[str, str]:
    return {"virnuc_rules": __version__, **{name: version(name) for name in _PACKAGES}}
