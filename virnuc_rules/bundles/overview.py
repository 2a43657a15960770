"""Tables of the existing bundles and the shipped definitions. Needs no torch."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Group
from rich.table import Table

from virnuc_rules.bundles.definition import Definition, find_definition, shipped_definitions
from virnuc_rules.errors import ModelError
from virnuc_rules.models.card import BundleCard, is_bundle, read_card


def find_model(text: str) -> BundleCard | Definition:
    """Return the card of a bundle folder, or a definition by its name or file."""
    if is_bundle(Path(text)):
        return read_card(Path(text))
    if Path(text).is_dir():
        raise ModelError(f"{text}: no bundle.json in it; give the folder of a model bundle")
    return find_definition(text)


def overview(folders: Iterable[Path]) -> Group:
    """Return tables of the shipped definitions and of the bundles in `folders`."""
    return Group(_definitions(shipped_definitions()), _bundles(folders))


def _definitions(definitions: Iterable[Definition]) -> Table:
    table = Table(title="definitions (virnuc-rules models prepare NAME)")
    for column in ("name", "window", "ESM-2", "classifier", "download", "no sha256"):
        table.add_column(column, overflow="fold")
    for definition in definitions:
        table.add_row(
            definition.name,
            str(definition.window),
            Path(definition.esm2.origin).name,
            "yes" if definition.classifier else "no",
            f"{definition.bytes / 1e9:.1f} GB",
            f"{len(unpinned)} file" if (unpinned := definition.unpinned()) else "",
        )
    return table


def _bundles(folders: Iterable[Path]) -> Table:
    table = Table(title="bundles (config key `bundle`)")
    for column in ("folder", "name", "window", "ESM-2", "classifier"):
        table.add_column(column, overflow="fold")
    for folder in folders:
        try:
            card = read_card(folder)
        except ModelError as error:
            table.add_row(str(folder), f"unusable: {error}")
            continue
        esm2 = f"{card.esm2.num_hidden_layers} layers of {card.esm2.hidden_size}"
        if "esm2" in card.source:
            esm2 = Path(card.source["esm2"].origin).name
        classifier = "demo" if card.demo else "yes" if card.classifier else "no"
        table.add_row(str(folder), card.name, str(card.window), esm2, classifier)
    return table
