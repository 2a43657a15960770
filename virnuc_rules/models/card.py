"""The card of a model bundle: what it is, and the hashes of its files. Needs no torch to read."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from virnuc_rules.errors import ModelError

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
    dnabert_s: dict[str, Any]  # shape of the network, fields of DnabertConfig
    esm2: dict[str, Any]  # hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
    classifier: dict[str, int]  # fields of ClassifierShape
    sha256: dict[str, str]  # of each file of the bundle

    @property
    def fingerprint(self) -> str:
        """Identify the embeddings that the bundle gives: a hash of both networks and tokenizer.

        The classifier does not enter: embeddings are computed once for all classifiers.
        """
        parts = {"dnabert_s": self.dnabert_s, "esm2": self.esm2}
        hashes = {name: self.sha256[name] for name in EMBEDDING_FILES}
        return hashlib.sha256(json.dumps([parts, hashes], sort_keys=True).encode()).hexdigest()


def read_card(folder: Path) -> BundleCard:
    """Read `bundle.json`. Raises ModelError where it is missing, wrong, or names no files."""
    path = folder / "bundle.json"
    try:
        card = BundleCard.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path}: no such file; give the folder of a model bundle") from None
    except (OSError, ValidationError) as error:
        reason = "; ".join(str(error).splitlines()[:3])
        raise ModelError(f"{path}: not a bundle card ({reason}); make the bundle again") from None
    if missing := set(FILES) - set(card.sha256):
        names = ", ".join(sorted(missing))
        raise ModelError(f"{path}: no sha256 of {names}; make the bundle again")
    return card
