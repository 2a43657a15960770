"""A model bundle: one folder with everything that turns open frames into scores.

bundle.json               what this is, shapes of the networks, sha256 of the files
dnabert_s.safetensors     tokenizer.json
esm2.safetensors
classifier.safetensors
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from virnuc_rules.errors import ModelError
from virnuc_rules.files import replacing
from virnuc_rules.models import classifier, dnabert, esm2
from virnuc_rules.models.classifier import ClassifierShape, MLPClassifier
from virnuc_rules.models.dnabert import Dnabert, DnabertConfig
from virnuc_rules.models.esm2 import Esm2

DNABERT_S, TOKENIZER = "dnabert_s.safetensors", "tokenizer.json"
ESM2, CLASSIFIER = "esm2.safetensors", "classifier.safetensors"
EMBEDDING_FILES = (DNABERT_S, TOKENIZER, ESM2)
FILES = (*EMBEDDING_FILES, CLASSIFIER)


class BundleCard(BaseModel):
    """`bundle.json`: what a bundle is and how its files are to be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str  # what it was made from, and what its scores are worth
    demo: bool  # True: a demo model, no substitute for the published ones
    window: int  # bases of the windows that the classifier was trained on
    dnabert_s: DnabertConfig
    esm2: dict[str, Any]  # hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
    classifier: ClassifierShape
    sha256: dict[str, str] = Field(description="of each file of the bundle")

    @property
    def fingerprint(self) -> str:
        """Identify the embeddings that the bundle gives: a hash of both networks and tokenizer.

        The classifier does not enter: embeddings are computed once for all classifiers.
        """
        parts = self.model_dump(include={"dnabert_s", "esm2"}, mode="json")
        parts["sha256"] = {name: self.sha256[name] for name in EMBEDDING_FILES}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
                with path.open("rb") as handle:
                    found = hashlib.file_digest(handle, "sha256").hexdigest()
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
        """Load DNABERT-S onto a device."""
        self.check(DNABERT_S)
        return dnabert.open_network(self.card.dnabert_s, self.folder / DNABERT_S, device, dtype)

    def open_esm2(self, device: torch.device, dtype: torch.dtype) -> Esm2:
        """Load ESM-2 onto a device."""
        self.check(ESM2)
        return esm2.open_network(self.card.esm2, self.folder / ESM2, device, dtype)

    def open_classifier(self) -> MLPClassifier:
        """Load the classifier; it runs on the CPU in float32."""
        self.check(CLASSIFIER)
        return classifier.open_network(self.card.classifier, self.folder / CLASSIFIER)


def read_card(folder: Path) -> BundleCard:
    """Read `bundle.json`. Raises ModelError where it is missing, wrong, or names no files."""
    path = folder / "bundle.json"
    try:
        card = BundleCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the folder of a model bundle") from None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: not a bundle card ({reason}); make the bundle again") from None
    if missing := set(FILES) - set(card.sha256):
        raise ModelError(
            f"{path}: no sha256 of {', '.join(sorted(missing))}; make the bundle again"
        )
    return card


def write_card(folder: Path, **fields: Any) -> BundleCard:
    """Hash the files in a folder and write the card over them."""
    sha256 = {}
    for name in FILES:
        with (folder / name).open("rb") as handle:
            sha256[name] = hashlib.file_digest(handle, "sha256").hexdigest()
    card = BundleCard(sha256=sha256, **fields)
    with replacing(folder / "bundle.json") as handle:
        handle.write(card.model_dump_json(indent=1) + "\n")
    return card
