"""Of what a trained bundle and an evaluation are made; see `planning.products`. Needs no torch."""

from pathlib import Path

from virnuc_rules.config.model import Calibrating, Fitting, LabelledSettings
from virnuc_rules.config.run_folder import EvaluationFiles
from virnuc_rules.files.made import Product
from virnuc_rules.models.card import read_card
from virnuc_rules.planning import products
from virnuc_rules.training.sheet import LabelledSheet, read_labelled_sheet, tables_beside


def trained_product(
    settings: LabelledSettings, calibrating: Calibrating, fitting: Fitting
) -> Product:
    """Describe a trained bundle. Raises VirnucError for a wrong sheet or bundle."""
    card, (sheet, tables) = read_card(settings.run.bundle), _sheet(settings)
    return products.trained(settings, calibrating, fitting, card, tables, sheet)


def evaluation_product(settings: LabelledSettings, part: str, files: EvaluationFiles) -> Product:
    """Describe an evaluation. Raises VirnucError for a wrong sheet or bundle."""
    card, (sheet, tables) = read_card(settings.run.bundle), _sheet(settings)
    return products.evaluation(files, settings, card, tables, part, sheet)


def unembedded_samples(settings: LabelledSettings, *, need_embeddings: bool) -> list[str]:
    """Return the chunks of the labelled samples without usable results: worth another run."""
    sheet, _ = _sheet(settings)
    run, embedding = settings.run, settings.embedding
    return products.unembedded(run, embedding, sheet, need_embeddings=need_embeddings)


def _sheet(settings: LabelledSettings) -> tuple[LabelledSheet, list[Path]]:
    sheet = read_labelled_sheet(settings.inputs.samples)
    return sheet, tables_beside(sheet)
