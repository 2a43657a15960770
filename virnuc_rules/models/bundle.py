"""A model bundle: one folder with everything that turns open frames into scores.

bundle.json               what this is, shapes of the networks, sha256 of the files
dnabert_s.safetensors     tokenizer.json
esm2.safetensors
classifier.safetensors
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from virnuc_rules.errors import ModelError
from virnuc_rules.files.atomic import file_sha256, replacing
from virnuc_rules.models import classifier, dnabert, esm2
from virnuc_rules.models.card import (
    CLASSIFIER,
    DNABERT_S,
    EMBEDDING_FILES,
    ESM2,
    FILES,
    TOKENIZER,
    BundleCard,
    read_card,
)
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2


class Bundle:
    """An opened bundle folder; the networks are loaded one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = read_card(folder)

    def check(self, *names: str) -> None:
        """Compare files with the hashes in the card. Raises ModelError where one differs."""
        for name in names:
            path = self.folder / name
            try:
                found = file_sha256(path)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ModelError(
                    f"{path}: cannot be read ({reason}); make the bundle again"
                ) from None
            if found != self.card.sha256[name]:
                raise ModelError(
                    f"{path}: damaged (sha256 differs from bundle.json); make it again"
                )

    def open_tokenizer(self) -> Tokenizer:
        """Open DNABERT-S's tokenizer."""
        self.check(TOKENIZER)
        return dnabert.open_tokenizer(self.folder / TOKENIZER)

    def open_dnabert_s(self, device: torch.device, dtype: torch.dtype) -> Dnabert:
        """Load DNABERT-S onto a device, matrix products in `dtype`."""
        path = self.folder / DNABERT_S
        with self._checking(DNABERT_S):
            return dnabert.open_network(self.card.dnabert_s, path, device, dtype)

    def open_esm2(self, device: torch.device, dtype: torch.dtype) -> Esm2:
        """Load ESM-2 onto a device, matrix products in `dtype`."""
        path = self.folder / ESM2
        with self._checking(ESM2):
            return esm2.open_network(self.card.esm2, path, device, dtype)

    @contextmanager
    def _checking(self, name: str) -> Iterator[None]:
        """Compare a file with its hash beside what the block does with it: one pass of the disk.

        Python opens the file first: where that hangs, other threads go on, and the watchdog of the
        load can end it. safetensors would wait with the interpreter's lock in its hand.
        """
        with suppress(OSError):  # `check` says what is wrong
            (self.folder / name).open("rb").close()
        with ThreadPoolExecutor(1) as background:
            checked = background.submit(self.check, name)
            try:
                yield
            finally:
                checked.result()  # if the block failed too, this is the reason

    def open_classifier(self) -> MLPClassifier:
        """Load the classifier; it runs on the CPU in float32."""
        if self.card.classifier is None:
            raise ModelError(
                f"{self.folder}: bundle {self.card.name} has no classifier; its embeddings can be "
                "computed, but not classified: prepare it again with --classifier"
            )
        self.check(CLASSIFIER)
        return classifier.open_network(self.card.classifier, self.folder / CLASSIFIER)


def write_card(folder: Path, **fields: Any) -> BundleCard:
    """Hash the files in a folder and write the card over them, whole or not at all.

    `fields` are those of a BundleCard but for `sha256` and `fingerprint`, which are computed.
    """
    names = FILES if fields.get("classifier") else EMBEDDING_FILES
    sha256 = {name: file_sha256(folder / name) for name in names}
    card = BundleCard(sha256=sha256, **fields)
    card = card.model_copy(update={"fingerprint": card.embedding_fingerprint()})
    with replacing(folder / "bundle.json") as handle:
        handle.write(card.model_dump_json(indent=1) + "\n")
    return card


def rewrite_card(folder: Path, **changes: Any) -> BundleCard:
    """Replace fields of the card in a folder and hash the files again: they may be others by now.

    Where they must not be, `Bundle.check` them first: a damaged file would become a good one.
    Raises ModelError where there is no card, or one that was changed by other hands.
    """
    fields = dict(read_card(folder))
    del fields["sha256"], fields["fingerprint"]
    return write_card(folder, **{**fields, **changes})
