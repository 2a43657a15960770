"""A model bundle: a folder with the networks and the tokenizer that give scores of open frames.

bundle.json               description, shapes of the networks, sha256 of the files
dnabert_s.safetensors     tokenizer.json
esm2.safetensors
classifier.safetensors
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from virnuc_rules.errors import ModelError
from virnuc_rules.files.atomic import file_sha256, write_json
from virnuc_rules.files.environment import environment_named, open_regular, patient
from virnuc_rules.models.card import (
    CARD,
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
from virnuc_rules.models.dnabert import POOLER, Dnabert, open_tokenizer
from virnuc_rules.models.esm2 import Esm2
from virnuc_rules.models.weights import Network, Shape, load_network


class Bundle:
    """An opened bundle folder; the networks are loaded one by one."""

    def __init__(self, folder: Path, card: BundleCard | None = None) -> None:
        self.folder = folder
        self.card = card or read_card(folder)

    @patient
    def check(self, *names: str) -> None:
        """Compare files with the hashes in the card.

        Raises ModelError if one is missing or differs, EnvironmentProblem if one cannot be read.
        """
        for name in names:
            path = self.folder / name
            try:
                with environment_named(path):
                    is_damaged = file_sha256(path) != self.card.sha256[name]
            except OSError as error:
                problem = f"cannot be read ({error.strerror or error}); make the bundle again"
                raise ModelError(f"{path}: {problem}") from None
            if is_damaged:
                problem = "damaged (sha256 differs from bundle.json); make it again"
                raise ModelError(f"{path}: {problem}")

    def open_tokenizer(self) -> Tokenizer:
        """Open DNABERT-S's tokenizer."""
        self.check(TOKENIZER)
        return open_tokenizer(self.folder / TOKENIZER)

    def open_dnabert_s(self, device: torch.device, dtype: torch.dtype) -> Dnabert:
        """Load DNABERT-S onto a device, matrix products in `dtype`."""
        shape = self.card.dnabert_s
        return self.load(DNABERT_S, Dnabert, shape, device, dtype, ignore=POOLER)

    def open_esm2(self, device: torch.device, dtype: torch.dtype) -> Esm2:
        """Load ESM-2 onto a device, matrix products in `dtype`."""
        return self.load(ESM2, Esm2, self.card.esm2, device, dtype)

    def load(
        self, name: str, kind: Callable[[Shape], Network], shape: Shape, *to: Any, **options: Any
    ) -> Network:
        """Load the network in a file; `to` and options: see `load_network`."""
        with self._checked(name) as path:
            return load_network(kind, shape, path, *to, **options)

    @contextmanager
    def _checked(self, name: str) -> Iterator[Path]:
        """Give the path of a file, and check its hash while the block loads it: one disk pass.

        Python opens the file first: if that hangs, other threads still run, and the watchdog of the
        load can end it. safetensors would wait while holding the GIL.
        """
        path = self.folder / name
        with suppress(OSError):  # `check` reports the error
            open_regular(path).close()
        with ThreadPoolExecutor(1) as background:
            check = background.submit(self.check, name)
            try:
                yield path
            finally:
                check.result()  # if the block failed too, the damaged file is the reason

    def open_classifier(self) -> MLPClassifier:
        """Load the classifier onto the CPU, in float32."""
        if self.card.classifier is None:
            raise ModelError(
                f"{self.folder}: bundle {self.card.name} has no classifier; its embeddings can be "
                "computed, but not classified: prepare it again with --classifier"
            )
        self.check(CLASSIFIER)
        weights = self.folder / CLASSIFIER
        return load_network(MLPClassifier, self.card.classifier, weights, "cpu", torch.float32)


def write_card(folder: Path, **fields: Any) -> BundleCard:
    """Hash the files in a folder and write the card atomically.

    `fields` are those of a BundleCard except `sha256` and `fingerprint`, which are computed.
    """
    names = FILES if fields.get("classifier") else EMBEDDING_FILES
    sha256 = {name: file_sha256(folder / name) for name in names}
    card = BundleCard(sha256=sha256, **fields)
    card = card.model_copy(update={"fingerprint": card.embedding_fingerprint()})
    write_json(folder / CARD, card)
    return card


def rewrite_card(folder: Path, **changes: Any) -> BundleCard:
    """Replace fields of the card in a folder and hash its files again.

    Call `Bundle.check` first for files that must be unchanged: the new card accepts damaged ones.
    Raises ModelError if the card is missing or was changed by hand.
    """
    fields = dict(read_card(folder))
    del fields["sha256"], fields["fingerprint"]
    return write_card(folder, **{**fields, **changes})
