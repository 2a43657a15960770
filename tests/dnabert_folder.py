"""Loading DNABERT-S from a Hugging Face folder, without a bundle."""

import json
from pathlib import Path

import torch

from virnuc_rules.errors import ModelError
from virnuc_rules.models.card import DnabertConfig
from virnuc_rules.models.dnabert import POOLER, Dnabert
from virnuc_rules.models.weights import load_network


def read_config(folder: Path) -> DnabertConfig:
    """Pick the fields out of a `config.json`, which has many more."""
    settings = json.loads((folder / "config.json").read_text())
    return DnabertConfig(**{k: settings[k] for k in DnabertConfig.model_fields if k in settings})


def load(folder: Path | str, device: torch.device | str, dtype: torch.dtype) -> Dnabert:
    """Load `config.json` and `model.safetensors` of a folder onto a device.

    The module's `forward(input_ids [B, T] int64, attention_mask [B, T] bool)` gives the hidden
    states [B, T, width]. Raises ModelError for missing, damaged or unfitting files.
    """
    folder = Path(folder)
    try:
        config = read_config(folder)
    except (OSError, ValueError, TypeError) as error:  # pydantic's error is a ValueError
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder / 'config.json'}: cannot be used ({reason})") from None
    weights = folder / "model.safetensors"
    return load_network(Dnabert, config, weights, device, dtype, ignore=POOLER)
