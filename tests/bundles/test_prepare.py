"""A bundle made of checkpoints in the published formats works as the one that they are of."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import BUNDLE
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM

from virnuc_rules.bundles.definition import Definition, customized
from virnuc_rules.bundles.prepare import prepare_bundle
from virnuc_rules.errors import ModelError
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import BundleCard


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """The bundle's DNABERT-S and classifier, and a new ESM-2 of its shape, as published."""
    dnabert_s, esm2 = tmp_path / "DNABERT-S", tmp_path / "esm2_t4"
    dnabert_s.mkdir()
    shutil.copy(BUNDLE / "tokenizer.json", dnabert_s)
    card = BundleCard.model_validate_json((BUNDLE / "bundle.json").read_bytes())
    (dnabert_s / "config.json").write_text(card.dnabert_s.model_dump_json())
    torch.save(load_file(BUNDLE / "dnabert_s.safetensors"), dnabert_s / "pytorch_model.bin")
    shape = EsmConfig(
        **card.esm2.model_dump(), vocab_size=33, pad_token_id=1, mask_token_id=32,
        position_embedding_type="rotary", token_dropout=True, layer_norm_eps=1e-5,
        emb_layer_norm_before=False, max_position_embeddings=1026,
    )  # fmt: skip
    EsmForMaskedLM(shape).save_pretrained(esm2)
    torch.save(load_file(BUNDLE / "classifier.safetensors"), tmp_path / "500_model.pth")
    return {"dnabert_s": dnabert_s, "esm2": esm2, "classifier": tmp_path / "500_model.pth"}


def local(sources: dict[str, Path]) -> Definition:
    return customized(None, name="x", window=500, paths={**sources})


def test_a_prepared_bundle_opens(
    sources: dict[str, Path], tmp_path: Path, command: Callable[..., Any]
) -> None:
    out = tmp_path / "bundles" / "mine"
    options = [f"--{key.replace('_', '-')}={path}" for key, path in sources.items()]
    done = command("models", "prepare", *options, "--window", 500, "--out", out)
    assert done.returncode == 0, done.stderr
    bundle, known = Bundle(out), Bundle(BUNDLE)
    assert (bundle.card.name, bundle.card.window, bundle.card.demo) == ("mine", 500, False)
    cpu = torch.device("cpu")
    virnuc = bundle.open_dnabert_s(cpu, torch.float32).state_dict()
    expected = known.open_dnabert_s(cpu, torch.float32).state_dict()
    assert all(torch.equal(virnuc[key], expected[key]) for key in expected)
    features = torch.randn(5, 48), torch.randn(5, 64)
    assert torch.equal(
        bundle.open_classifier().scores(*features), known.open_classifier().scores(*features)
    )
    hidden = bundle.open_esm2(cpu, torch.float32)(
        torch.tensor([[0, 5, 6, 2]]), torch.ones(1, 4, dtype=torch.bool)
    )
    assert hidden.shape == (1, 4, 64) and torch.isfinite(hidden).all()


def test_what_does_not_fit_leaves_nothing(sources: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(BUNDLE / "classifier.safetensors")
    weights["hidden_layer.weight"] = weights["hidden_layer.weight"][:, :-1].contiguous()
    torch.save(weights, sources["classifier"])
    with pytest.raises(ModelError, match="does not fit"):
        prepare_bundle(local(sources), tmp_path / "out")
    (sources["esm2"] / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="esm2_t4"):
        prepare_bundle(local(sources), tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_an_existing_folder_stays(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "out" / "x.safetensors")
    with pytest.raises(ModelError, match="exists already"):
        prepare_bundle(local(sources), tmp_path / "out")
    assert (tmp_path / "out" / "x.safetensors").exists()
