"""ESM-2: fair-esm's token ids, and the network against a plain computation of its formulas."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from harness import BUNDLE
from safetensors.torch import load_file, save_file
from torch import Tensor

from virnuc_rules.errors import ChunkError, ModelError
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.esm2 import ALPHABET, EOS, MASK, PAD, Esm2, tokenize, tokenize_all
from virnuc_rules.models.weights import load_network

CARD = Bundle(BUNDLE).card
HEADS, LAYERS = CARD.esm2.num_attention_heads, CARD.esm2.num_hidden_layers
PROTEINS = ["MKAILVWERTYHPSDFGNCQ" * 8, "M", "MKLV", "GGXBUZO", "WYHDE" * 30]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's weights, with norms and biases that differ from ones and zeros."""
    generator = torch.Generator().manual_seed(7)
    tensors = load_file(BUNDLE / "esm2.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 1 and name != "encoder.inv_freq":
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    path = tmp_path_factory.mktemp("esm2") / "esm2.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> Esm2:
    torch.set_num_threads(1)  # the networks are small
    return load_network(Esm2, CARD.esm2, weights, "cpu", torch.float32)


@torch.inference_mode()
def hidden_states(network: Esm2, rows: list[list[int]]) -> list[Tensor]:
    """Hidden states [T, width] of each row, all rows in one padded batch."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    present = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    hidden = network(ids, present)
    return [states[: len(row)] for states, row in zip(hidden, rows, strict=True)]


# --- token ids ---------------------------------------------------------------------------------


def test_ids_are_those_of_fair_esm() -> None:
    assert tokenize("MKL") == [0, 20, 15, 4, 2]
    # fair-esm's Alphabet.from_architecture("ESM-1b"): L is 4, A 5, ... O 28
    assert tokenize("LAGVSERTIDPKQNFYMHWCXBUZO") == [0, *range(4, 29), 2]
    assert (PAD, EOS, MASK) == (1, 2, 32)


def test_at_most_1024_residues() -> None:
    residues = tokenize("MKL" * 1000)[1:-1]
    assert residues == ([20, 15, 4] * 1000)[:1024]
    assert len(tokenize("A" * 1024)) == len(tokenize("A" * 1025)) == 1026
    assert len(tokenize("A" * 1023)) == 1025


@pytest.mark.parametrize("letter", ["J", "m", "*", "-", ".", " ", "1", "\n"])
def test_a_letter_that_is_no_amino_acid(letter: str) -> None:
    with pytest.raises(ChunkError) as raised:
        tokenize(f"MK{letter}L")
    assert repr(letter) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_letter_beyond_ascii_is_named() -> None:
    with pytest.raises(ChunkError, match="'é' is not an amino acid"):
        tokenize("MKé")


def test_all_proteins_at_once_are_as_each_alone() -> None:
    proteins = [*PROTEINS, "MKL" * 1000, "A" * 1024]
    rows = [row.tolist() for row in tokenize_all(proteins)]
    assert rows == [[0, *map(ALPHABET.index, protein[:1024]), 2] for protein in proteins]
    with pytest.raises(ChunkError, match=r"protein 'MK1L'\.\.\.: '1' is not an amino acid"):
        tokenize_all(["MKL", "MK1L", "M*"])
    for control in ("MK\2L", "M\3", "\2"):
        with pytest.raises(ChunkError, match="is not an amino acid"):
            tokenize_all(["MKL", control])
    assert len(tokenize_all(["", ""])) == 2


# --- the network -------------------------------------------------------------------------------


def plain_esm2(tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Compute the hidden states [T, width] of one sequence without padding or masks."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def rotated(x: Tensor) -> Tensor:  # [heads, T, d]: pairs (i, i + d/2) turned by the position
        half = x.shape[-1] // 2
        speed = 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * speed
        cos, sin = angle.cos(), angle.sin()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    x = (1 - 0.15 * 0.8) * tensors["embeddings.word_embeddings.weight"][torch.tensor(ids)]
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        y = norm(f"{layer}.attention.LayerNorm", x)
        query, key, value = (
            linear(f"{layer}.attention.self.{name}", y).view(len(ids), HEADS, -1).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        scores = rotated(query) @ rotated(key).transpose(1, 2) / math.sqrt(query.shape[-1])
        mixed = (scores.softmax(dim=-1) @ value).transpose(0, 1).reshape(len(ids), -1)
        x = x + linear(f"{layer}.attention.output.dense", mixed)
        y = F.gelu(linear(f"{layer}.intermediate.dense", norm(f"{layer}.LayerNorm", x)))
        x = x + linear(f"{layer}.output.dense", y)
    return norm("encoder.emb_layer_norm_after", x).float()


@pytest.mark.parametrize("protein", PROTEINS)
def test_the_network_computes_its_formulas(network: Esm2, weights: Path, protein: str) -> None:
    ids = tokenize(protein)
    expected = plain_esm2(load_file(weights), ids)
    torch.testing.assert_close(hidden_states(network, [ids])[0], expected, rtol=0, atol=1e-4)


def test_a_padded_batch_is_as_each_alone(network: Esm2) -> None:
    rows = [tokenize(protein) for protein in PROTEINS]
    for row, states in zip(rows, hidden_states(network, rows), strict=True):
        torch.testing.assert_close(states, hidden_states(network, [row])[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_three_matrices_of_attention_are_one(network: Esm2, weights: Path) -> None:
    """With the rows of those in the file, and the states of a network that has three."""
    plain, tensors = Esm2(CARD.esm2), load_file(weights)
    plain.load_state_dict(tensors)
    ids = [tokenize(protein) for protein in PROTEINS]
    for one, other in zip(hidden_states(network, ids), hidden_states(plain, ids), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    parts = [f"encoder.layer.1.attention.self.{part}" for part in ("query", "key", "value")]
    for name in ("weight", "bias"):
        fused = network.get_parameter(f"encoder.layer.1.attention.self.qkv.{name}")
        assert torch.equal(fused, torch.cat([tensors[f"{part}.{name}"] for part in parts]))
    assert not any(".query." in name for name, _ in network.named_parameters())
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == numbers


@torch.inference_mode()
def test_token_dropout_scales_the_embeddings(network: Esm2) -> None:
    """By 0.88, as in training, where 12 % of the tokens were masked and these left out."""
    ids = torch.tensor([tokenize("MKLV"), [*tokenize("MK"), PAD, PAD]])
    words = network.embeddings.word_embeddings(ids)
    torch.testing.assert_close(network.embeddings(ids[:1], None), 0.88 * words[:1])
    scaled = network.embeddings(ids, ids != PAD)
    torch.testing.assert_close(scaled, 0.88 * words * (ids != PAD)[..., None])
    ids[0, 2] = MASK  # one of six: 0.88 / (5/6)
    scaled = network.embeddings(ids, ids != PAD)
    assert not scaled[0, 2].any()
    torch.testing.assert_close(scaled[0, 1], 0.88 * 6 / 5 * words[0, 1])


def test_no_mask_is_a_mask_without_padding(network: Esm2) -> None:
    ids = torch.tensor([tokenize("MKLV" * 20), tokenize("WYHD" * 20)])
    with torch.inference_mode():
        masked, unmasked = network(ids, torch.ones_like(ids, dtype=torch.bool)), network(ids)
    torch.testing.assert_close(masked, unmasked, rtol=0, atol=1e-5)


def test_only_matrix_products_are_in_the_lower_precision(network: Esm2, weights: Path) -> None:
    low = load_network(Esm2, CARD.esm2, weights, "cpu", torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in low.state_dict().items()}
    products = {name for name in dtypes if "attention.self" in name or ".dense." in name}
    assert {dtypes[name] for name in products} == {torch.bfloat16}
    assert {dtypes[name] for name in dtypes.keys() - products} == {torch.float32}
    ids = [tokenize(PROTEINS[0])]
    one, other = hidden_states(low, ids)[0], hidden_states(network, ids)[0]
    assert one.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.mean(dim=0), other.mean(dim=0), rtol=0, atol=0.05)


def test_it_is_loaded_for_inference(network: Esm2) -> None:
    tensors = [*network.parameters(), *network.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}  # none is left on "meta"
    assert not any(parameter.requires_grad for parameter in network.parameters())


# --- weights that do not fit -------------------------------------------------------------------


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit(tmp_path: Path, weights: Path, change: str) -> None:
    key = "encoder.layer.2.attention.self.query.bias"
    tensors = load_file(weights)
    if change == "missing":
        del tensors[key]
    elif change == "unexpected":
        tensors["contact_head.regression.weight"] = torch.zeros(1, LAYERS * HEADS)
        key = "contact_head.regression.weight"
    else:
        tensors[key] = tensors[key][:-1].clone()
    path = tmp_path / "esm2.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelError) as raised:
        load_network(Esm2, CARD.esm2, path, "cpu", torch.float32)
    message = str(raised.value)
    assert message.startswith(f"{path}: does not fit the network")
    assert key in message
    assert len(message.splitlines()) == 1
