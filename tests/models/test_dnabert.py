"""DNABERT-S: what the original model code computed, and files that are not taken for weights."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dnabert_folder import load
from harness import BUNDLE, REPO
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from virnuc_rules.errors import ModelError
from virnuc_rules.models.dnabert import Dnabert, alibi_slopes, open_tokenizer

TINY = REPO / "tests/data/dnabert_s_tiny"
ROWS: list[list[int]] = json.loads((TINY / "input_ids.json").read_text())
EXPECTED = load_file(TINY / "expected.safetensors")
PAD = 3


@pytest.fixture(scope="module")
def network() -> Dnabert:
    torch.set_num_threads(1)  # the network is small
    return load(TINY, "cpu", torch.float32)


@torch.inference_mode()
def hidden_states(network: Dnabert, rows: list[list[int]], pad: int = PAD) -> list[Tensor]:
    """Hidden states [T, width] of each row, all rows in one padded batch."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    present = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    hidden = network(ids, present)
    return [states[: len(row)] for states, row in zip(hidden, rows, strict=True)]


# --- the numbers of the original ---------------------------------------------------------------


def test_each_sequence_alone(network: Dnabert) -> None:
    means = [hidden_states(network, [row])[0].mean(dim=0) for row in ROWS]
    torch.testing.assert_close(torch.stack(means), EXPECTED["mean_embedding"], rtol=0, atol=1e-5)


def test_all_sequences_in_one_padded_batch(network: Dnabert) -> None:
    assert len(set(map(len, ROWS))) > 5  # else nothing is padded
    means = [states.mean(dim=0) for states in hidden_states(network, ROWS)]
    torch.testing.assert_close(torch.stack(means), EXPECTED["mean_embedding"], rtol=0, atol=1e-5)


def test_every_hidden_state_of_a_sequence(network: Dnabert) -> None:
    for rows in ([ROWS[0]], ROWS):
        states = hidden_states(network, rows)[0]
        torch.testing.assert_close(states, EXPECTED["hidden_states_0"], rtol=0, atol=1e-5)


def test_what_fills_the_padding_does_not_matter(network: Dnabert) -> None:
    pairs = zip(hidden_states(network, ROWS), hidden_states(network, ROWS, pad=777), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_alibi_slopes() -> None:
    eight = [2.0**-n for n in range(1, 9)]
    sixteen = [2.0 ** (-n / 2) for n in range(1, 17)]
    assert alibi_slopes(8) == eight
    assert alibi_slopes(16) == sixteen
    assert alibi_slopes(12) == [*eight, sixteen[0], sixteen[2], sixteen[4], sixteen[6]]


# --- weights -----------------------------------------------------------------------------------

SOME = "encoder.layer.1.mlp.gated_layers.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, tmp_path / name)
    return tmp_path


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def model_error(folder: Path, name: str) -> str:
    """Load; it must be refused with one line that begins with the file's path."""
    with pytest.raises(ModelError) as raised:
        load(folder, "cpu", torch.float32)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{folder / name}: ")
    return message


MISFITS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "a missing key": lambda tensors: tensors.pop(SOME),
    "an unexpected key": lambda tensors: tensors.update({f"{SOME}.more": torch.zeros(1)}),
    "the key of another network": lambda tensors: tensors.update(
        {SOME.replace("gated_layers", "dense"): tensors.pop(SOME)}
    ),
    "a layer too many": lambda tensors: tensors.update(
        {key.replace("layer.2", "layer.3"): tensor.clone() for key, tensor in tensors.items()}
    ),
    "a wrong shape": lambda tensors: tensors.update({SOME: tensors[SOME].T.contiguous()}),
    "a row too few": lambda tensors: tensors.update({SOME: tensors[SOME][1:].clone()}),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit(folder: Path, misfit: str) -> None:
    change_weights(folder, MISFITS[misfit])
    message = model_error(folder, "model.safetensors")
    assert "does not fit the network" in message
    assert "encoder.layer." in message  # names the key


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 1_000_000, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in model_error(folder, "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "o such file" in model_error(folder, name)


def test_a_pooler_is_not_used(folder: Path, network: Dnabert) -> None:
    change_weights(folder, lambda tensors: tensors.update({"pooler.dense.bias": torch.ones(96)}))
    with_pooler = load(folder, "cpu", torch.float32)
    assert with_pooler.state_dict().keys() == network.state_dict().keys()
    same = zip(hidden_states(with_pooler, ROWS[:2]), hidden_states(network, ROWS[:2]), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def test_only_matrix_products_are_in_the_lower_precision(network: Dnabert) -> None:
    half = load(TINY, "cpu", torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in half.state_dict().items()}
    products = {name for name in dtypes if re.search(r"Wqkv|dense|gated_layers|wo\.", name)}
    assert {dtypes[name] for name in products} == {torch.bfloat16}
    assert {dtypes[name] for name in dtypes.keys() - products} == {torch.float32}
    one, other = hidden_states(half, ROWS[:1])[0], hidden_states(network, ROWS[:1])[0]
    assert one.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.mean(dim=0), other.mean(dim=0), rtol=0, atol=0.05)


def test_float16_weights_become_float32(folder: Path) -> None:
    change_weights(folder, lambda t: t.update({key: value.half() for key, value in t.items()}))
    network = load(folder, "cpu", torch.float32)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_it_is_loaded_for_inference(network: Dnabert) -> None:
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


# --- config.json -------------------------------------------------------------------------------

SHAPE = json.loads((TINY / "config.json").read_text())
GARBAGE = {
    "empty": b"",
    "not JSON": b"hidden_size: 96",
    "cut in half": (TINY / "config.json").read_bytes()[:100],
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[96, 12, 3]",
    "a number": b"96",
    "null": b"null",
    "a key too few": json.dumps({k: v for k, v in SHAPE.items() if k != "vocab_size"}).encode(),
}


@pytest.mark.parametrize("content", GARBAGE)
def test_garbage_in_config_json(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(GARBAGE[content])
    assert "cannot be used" in model_error(folder, "config.json")


def test_a_config_of_another_shape(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": 2}))
    assert "does not fit the network" in model_error(folder, "model.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "96"},
        {"hidden_size": -96},
        {"num_hidden_layers": 2.5},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"layer_norm_eps": "small"},
    ],
    ids=str,
)
def test_impossible_shapes(folder: Path, wrong: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps({**SHAPE, **wrong}))
    model_error(folder, "config.json")


# --- tokenizer ---------------------------------------------------------------------------------


def test_padding_and_truncation_of_the_tokenizer_are_switched_off(tmp_path: Path) -> None:
    baked = Tokenizer.from_file(str(BUNDLE / "tokenizer.json"))
    plain = {text: baked.encode(text).ids for text in ("ACGT", "ACGTTGCA" * 100)}
    baked.enable_truncation(20)
    baked.enable_padding(length=20, pad_id=PAD, pad_token="[PAD]")
    path = tmp_path / "tokenizer.json"
    baked.save(str(path))
    assert {len(Tokenizer.from_file(str(path)).encode(text).ids) for text in plain} == {20}
    opened = open_tokenizer(path)
    for text, ids in plain.items():
        assert opened.encode(text).ids == ids
        assert (ids[0], ids[-1]) == (opened.token_to_id("[CLS]"), opened.token_to_id("[SEP]"))
        assert len(ids) != 20
    together = [encoding.ids for encoding in opened.encode_batch_fast(list(plain))]
    assert together == list(plain.values())


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_something_else_than_a_tokenizer(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as raised:
        open_tokenizer(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value).splitlines()) == 1
