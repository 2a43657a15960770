"""Published checkpoints: every layout of them gives the same network, and nothing in them runs."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dnabert_folder import load as load_dnabert
from dnabert_folder import read_config
from esm.model.esm2 import ESM2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from virnuc_rules.bundles.checkpoints import read_classifier, read_dnabert_s, read_esm2
from virnuc_rules.errors import ModelError
from virnuc_rules.models import esm2
from virnuc_rules.models.card import ClassifierShape, Esm2Config
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.weights import load_network

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/data/dnabert_s_tiny"
ROWS: list[list[int]] = json.loads((TINY / "input_ids.json").read_text())
READERS: list[Callable[[Path], Any]] = [read_dnabert_s, read_esm2, read_classifier]
LAYERS, WIDTH, HEADS = 2, 32, 4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)  # the networks are small


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        read(path)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path))
    return message


def in_shards(tensors: dict[str, Tensor], folder: Path, kind: str) -> None:
    """Write tensors as Hugging Face does: two files and their index."""
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    keys = sorted(tensors)
    names = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        shard = {key: tensors[key] for key in part}
        if kind == "safetensors":
            save_file(shard, folder / name)
        else:
            torch.save(shard, folder / name)
    weight_map = {key: names[place % 2] for place, key in enumerate(keys)}
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# --- DNABERT-S ---------------------------------------------------------------------------------


def dnabert_folder(tmp_path: Path, tensors: dict[str, Tensor], layout: str = "bin") -> Path:
    shutil.copy(TINY / "config.json", tmp_path)
    if layout == "bin":
        torch.save(OrderedDict(tensors), tmp_path / "pytorch_model.bin")
    elif layout == "legacy bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif layout == "safetensors":
        save_file(tensors, tmp_path / "model.safetensors")
    else:
        in_shards(tensors, tmp_path, layout.removeprefix("sharded "))
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize(
    "layout", ["bin", "legacy bin", "safetensors", "sharded bin", "sharded safetensors"]
)
def test_dnabert_s_in_every_layout(tmp_path: Path, layout: str, prefix: str) -> None:
    tensors = load_file(TINY / "model.safetensors")
    tensors["pooler.dense.weight"] = torch.ones(96, 96)
    tensors["embeddings.position_ids"] = torch.arange(512)[None]
    tensors = {prefix + key: tensor for key, tensor in tensors.items()}
    tensors["cls.predictions.bias"] = torch.ones(4096)
    config, found = read_dnabert_s(dnabert_folder(tmp_path, tensors, layout))
    assert config.num_attention_heads == 12
    network = Dnabert(config).eval()
    network.load_state_dict(found, strict=True)
    virnuc = load_dnabert(TINY, "cpu", torch.float32)
    for row in ROWS[:4]:
        ids = torch.tensor([row])
        present = torch.ones_like(ids, dtype=torch.bool)
        with torch.inference_mode():
            assert torch.equal(network(ids, present), virnuc(ids, present))


def test_what_is_read_can_be_saved(tmp_path: Path) -> None:
    tensors = load_file(TINY / "model.safetensors")
    _, found = read_dnabert_s(dnabert_folder(tmp_path, tensors))
    save_file(found, tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[key], tensors[key]) for key in again)


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    tensors = load_file(TINY / "model.safetensors")
    gone = sorted(key for key in tensors if ".Wqkv." in key)
    for key in gone:
        tensors[key.replace("Wqkv", "query")] = tensors.pop(key)
    message = refusal(read_dnabert_s, dnabert_folder(tmp_path, tensors))
    assert f"{len(gone)} keys missing" in message
    assert f"{len(gone)} unexpected" in message
    assert sum(key in message for key in gone) == 5
    assert message.count("query") == 5


def test_a_shape_that_differs(tmp_path: Path) -> None:
    tensors = load_file(TINY / "model.safetensors")
    tensors["encoder.layer.1.mlp.wo.bias"] = torch.zeros(95)
    message = refusal(read_dnabert_s, dnabert_folder(tmp_path, tensors))
    assert "encoder.layer.1.mlp.wo.bias is torch.float32 [95], not torch.float32 [96]" in message


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(96, dtype=torch.int64),
        torch.zeros(96, device="meta"),
        torch.zeros(96).to_sparse(),
        "text",
        [0.0] * 96,
    ],
    ids=str,
)
def test_something_that_is_no_plain_tensor(tmp_path: Path, wrong: object) -> None:
    tensors: dict[str, Any] = load_file(TINY / "model.safetensors")
    tensors["encoder.layer.1.mlp.wo.bias"] = wrong
    folder = dnabert_folder(tmp_path, tensors)
    assert "encoder.layer.1.mlp.wo.bias" in refusal(read_dnabert_s, folder)


def test_one_key_with_and_without_prefix(tmp_path: Path) -> None:
    tensors = load_file(TINY / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.bias"] = torch.zeros(96)
    message = refusal(read_dnabert_s, dnabert_folder(tmp_path, tensors))
    assert "two tensors are 'embeddings.LayerNorm.bias'" in message


def test_an_index_cannot_leave_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    dnabert_folder(folder, load_file(TINY / "model.safetensors"), "sharded safetensors")
    index = folder / "model.safetensors.index.json"
    shard = folder / "model-00001-of-00002.safetensors"
    shard.rename(tmp_path / shard.name)
    index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    refusal(read_dnabert_s, folder)


@pytest.mark.parametrize("content", ["", "[]", '{"hidden_size": 96}', '{"hidden_size": "96"}', "{"])
def test_a_config_that_is_none(tmp_path: Path, content: str) -> None:
    folder = dnabert_folder(tmp_path, load_file(TINY / "model.safetensors"))
    (folder / "config.json").write_text(content)
    for read in (read_dnabert_s, read_esm2):
        assert "config.json" in refusal(read, folder)


# --- ESM-2 -------------------------------------------------------------------------------------


def random_(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def our_esm2(path: Path) -> esm2.Esm2:
    """What read_esm2 found in our network, opened as a bundle's is."""
    shape, tensors = read_esm2(path)
    assert shape == Esm2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
    )
    weights = path.parent / "virnuc.safetensors"
    save_file(tensors, weights)
    return load_network(esm2.Esm2, shape, weights, "cpu", torch.float32)


def hf_config(**changes: Any) -> Any:
    from transformers import EsmConfig

    settings = {
        "vocab_size": 33,
        "pad_token_id": 1,
        "mask_token_id": 32,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "emb_layer_norm_before": False,
        "layer_norm_eps": 1e-5,
    }
    return EsmConfig(**settings | changes)


def proteins(count: int) -> tuple[Tensor, Tensor]:
    """Return a padded batch of `count` proteins of 1 to 200 residues, and where no padding is."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.linspace(1, 200, count).long()
    ids = torch.full((count, 202), esm2.PAD)
    for row, length in zip(ids, lengths.tolist(), strict=True):
        row[0], row[length + 1] = esm2.CLS, esm2.EOS
        row[1 : length + 1] = torch.randint(4, 24, (length,), generator=generator)
    return ids, ids != esm2.PAD


@pytest.mark.parametrize("layout", ["masked", "bare", "sharded", "bin", "sharded bin"])
@torch.inference_mode()
def test_esm2_of_hugging_face(tmp_path: Path, layout: str) -> None:
    from transformers import EsmForMaskedLM, EsmModel

    folder = tmp_path / "hf"
    kind = EsmModel if layout == "bare" else EsmForMaskedLM
    published = random_(kind(hf_config()))
    published.save_pretrained(folder, max_shard_size="20KB" if layout == "sharded" else "1GB")
    assert (folder / "model.safetensors.index.json").exists() == (layout == "sharded")
    if layout.endswith("bin"):  # as facebook's, with the buffers that were once stored
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        tensors["esm.embeddings.position_ids"] = torch.arange(1026)[None]
        tensors["esm.embeddings.position_embeddings.weight"] = torch.zeros(1026, WIDTH)
        for layer in range(LAYERS):
            name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
            tensors[name] = esm2.rotary_frequencies(WIDTH // HEADS)
        if layout == "bin":
            torch.save(tensors, folder / "pytorch_model.bin")
        else:
            in_shards(tensors, folder, "bin")
    ids, present = proteins(9)
    base = published if layout == "bare" else published.esm
    expected = base(ids, attention_mask=present).last_hidden_state
    found = our_esm2(folder)(ids, present)
    torch.testing.assert_close(found[present], expected[present], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"position_embedding_type": "absolute"},
        {"token_dropout": False},
        {"emb_layer_norm_before": True},
        {"layer_norm_eps": 1e-12},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_esm_than_esm2(tmp_path: Path, change: dict[str, Any]) -> None:
    from transformers import EsmModel

    EsmModel(hf_config(**change)).save_pretrained(tmp_path)
    assert f"not an ESM-2 (see {next(iter(change))})" in refusal(read_esm2, tmp_path)


def settings(style: str) -> dict[str, Any]:
    """The settings beside the weights, as fair-esm's files have them."""
    cfg = Namespace(
        encoder_layers=LAYERS,
        encoder_embed_dim=WIDTH,
        encoder_attention_heads=HEADS,
        token_dropout=True,
        tokens_per_sample=1024,
        data="/path",
    )
    return {
        "cfg[model]": {"cfg": {"model": cfg, "task": None}},
        "cfg.model": {"cfg": Namespace(model=cfg)},
        "cfg": {"cfg": cfg},
        "args": {"args": Namespace(layers=LAYERS, embed_dim=WIDTH, attention_heads=HEADS)},
        "args, num_layers": {
            "args": Namespace(num_layers=LAYERS, embed_dim=WIDTH, attention_heads=HEADS)
        },
    }[style]


STYLES = ["cfg[model]", "cfg.model", "cfg", "args", "args, num_layers"]


@pytest.fixture(scope="module")
def fair_esm() -> Any:
    return random_(ESM2(num_layers=LAYERS, embed_dim=WIDTH, attention_heads=HEADS))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("prefix", ["encoder.sentence_encoder.", "encoder.", ""])
@torch.inference_mode()
def test_esm2_of_fair_esm(tmp_path: Path, fair_esm: Any, style: str, prefix: str) -> None:
    tensors = {
        ("encoder." if key.startswith("lm_head") and prefix else prefix) + key: tensor
        for key, tensor in fair_esm.state_dict().items()
        if not key.startswith("contact_head")  # beside the file, in -contact-regression.pt
    }
    path = tmp_path / "esm2_t2.pt"
    torch.save({**settings(style), "model": tensors}, path)
    ids, present = proteins(200 if style == STYLES[0] and "sentence" in prefix else 5)
    virnuc = our_esm2(path)
    expected = fair_esm(ids, repr_layers=[LAYERS])["representations"][LAYERS]
    torch.testing.assert_close(virnuc(ids, present)[present], expected[present], rtol=0, atol=1e-4)
    for row, there in zip(ids[::20], present[::20], strict=True):  # and alone
        alone = row[there][None]
        expected = fair_esm(alone, repr_layers=[LAYERS])["representations"][LAYERS]
        found = virnuc(alone, torch.ones_like(alone, dtype=torch.bool))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


BACK = {  # our names, in fair-esm's
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}


@pytest.fixture
def renamed_back() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of our ESM-2 under our names and under fair-esm's."""
    shape = Esm2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
    )
    network = random_(esm2.Esm2(shape))
    virnuc = network.state_dict()
    published = {}
    for key, tensor in network.named_parameters():
        name = key.removeprefix("encoder.")
        if name.startswith("layer."):
            _, number, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            name = f"layers.{number}.{BACK[part]}.{kind}"
        name = name.replace("embeddings.word_embeddings", "embed_tokens")
        published[f"encoder.sentence_encoder.{name}"] = tensor.detach().half()
    return virnuc, published


def test_esm2_renamed_back(tmp_path: Path, renamed_back: Any) -> None:
    virnuc, published = renamed_back
    path = tmp_path / "esm2.pt"
    published["encoder.lm_head.weight"] = published["encoder.sentence_encoder.embed_tokens.weight"]
    for layer in range(LAYERS):
        name = f"encoder.sentence_encoder.layers.{layer}.self_attn.rot_emb.inv_freq"
        published[name] = virnuc["encoder.inv_freq"].half()
    torch.save({**settings("cfg[model]"), "model": published}, path)
    shape, found = read_esm2(path)
    assert (shape.num_hidden_layers, shape.hidden_size) == (LAYERS, WIDTH)
    assert found.keys() == virnuc.keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float16  # as in the file
        assert torch.equal(tensor, virnuc[key].half())


def test_layers_with_rotary_frequencies_of_their_own(tmp_path: Path, renamed_back: Any) -> None:
    _, published = renamed_back
    for layer in range(LAYERS):
        name = f"encoder.sentence_encoder.layers.{layer}.self_attn.rot_emb.inv_freq"
        published[name] = torch.full((WIDTH // HEADS // 2,), 0.5 + layer)
    path = tmp_path / "esm2.pt"
    torch.save({**settings("cfg[model]"), "model": published}, path)
    assert "rot_emb.inv_freq is not that of all layers" in refusal(read_esm2, path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file["cfg"]["model"].__setattr__("encoder_layers", 3), "16 keys missing"),
        (lambda file: file["cfg"]["model"].__setattr__("encoder_layers", 1), "16 unexpected"),
        (lambda file: file["cfg"]["model"].__setattr__("encoder_embed_dim", 64), "[33, 64]"),
        (lambda file: file["cfg"]["model"].__setattr__("token_dropout", False), "token dropout"),
        (lambda file: file["cfg"]["model"].__delattr__("encoder_embed_dim"), "hidden_size"),
        (lambda file: file.pop("cfg"), "no cfg or args"),
        (lambda file: file.pop("model"), "no model"),
        (lambda file: file["model"].popitem(), "1 keys missing"),
        (lambda file: file["model"].update(version=torch.zeros(1)), "unexpected ['version']"),
        (lambda file: file.update(model=[1]), "not a checkpoint"),
    ],
)
def test_a_fair_esm_file_that_does_not_fit(
    tmp_path: Path, renamed_back: Any, change: Callable[[Any], object], expected: str
) -> None:
    content = {**settings("cfg[model]"), "model": renamed_back[1]}
    change(content)
    torch.save(content, tmp_path / "esm2.pt")
    assert expected in refusal(read_esm2, tmp_path / "esm2.pt")


# --- the classifier ----------------------------------------------------------------------------

SCRIPT = """
import sys, torch
from torch import nn

class MLPClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_layer = nn.Linear(24, 16)
        self.bn1 = nn.BatchNorm1d(16)
        self.output_layer = nn.Linear(16, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.output_layer(self.dropout(torch.relu(self.bn1(self.hidden_layer(x)))))

torch.manual_seed(1)
network, folder = MLPClassifier(), sys.argv[1]
for _ in range(20):  # running statistics that differ from their start
    network(3 * torch.randn(40, 24) + 1)
network.eval()
features = torch.randn(50, 24)
torch.save(network, f"{folder}/module.pth")
torch.save(network, f"{folder}/legacy_module.pth", _use_new_zipfile_serialization=False)
torch.save(network.state_dict(), f"{folder}/state.pth")
torch.save(network.state_dict(), f"{folder}/legacy_state.pth", _use_new_zipfile_serialization=False)
torch.save({"features": features, "logits": network(features).detach()}, f"{folder}/logits.pt")
network.bn1.eps = 1e-3
torch.save(network, f"{folder}/eps.pth")
network.bn1 = nn.LayerNorm(16)
torch.save(network, f"{folder}/layernorm.pth")
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers saved by a script whose class is `__main__.MLPClassifier`."""
    folder = tmp_path_factory.mktemp("classifier")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script, folder], check=True)
    return folder


@pytest.mark.parametrize("name", ["module.pth", "state.pth", "legacy_state.pth"])
def test_the_classifier(published: Path, name: str) -> None:
    shape, tensors = read_classifier(published / name)
    assert shape == ClassifierShape(features=24, hidden=16)
    network = MLPClassifier(shape).eval()
    network.load_state_dict(tensors, strict=True)
    expected = torch.load(published / "logits.pt", weights_only=True)
    with torch.inference_mode():
        logits = network(expected["features"])
    assert torch.equal(logits, expected["logits"])
    assert not any(isinstance(tensor, nn.Parameter) for tensor in tensors.values())


def test_what_other_code_allowed_changes_nothing(published: Path) -> None:
    allowed = [nn.Linear, Canary, Namespace]
    with torch.serialization.safe_globals(allowed):
        before = set(torch.serialization.get_safe_globals())
        read_classifier(published / "module.pth")
        assert "layernorm" in refusal(read_classifier, published / "layernorm.pth").lower()
        assert set(torch.serialization.get_safe_globals()) == before
    assert not set(allowed) & set(torch.serialization.get_safe_globals())


def test_a_classifier_that_is_another(published: Path, tmp_path: Path) -> None:
    assert "torch.nn.modules.normalization.LayerNorm" in refusal(
        read_classifier, published / "layernorm.pth"
    )
    assert "eps" in refusal(read_classifier, published / "eps.pth")
    refusal(read_classifier, published / "legacy_module.pth")  # old torch's: not supported
    tensors = torch.load(published / "state.pth", weights_only=True)
    path = tmp_path / "state.pth"
    torch.save({**tensors, "output_layer.weight": torch.zeros(3, 16)}, path)
    assert "classes" in refusal(read_classifier, path)
    del tensors["bn1.running_mean"]
    torch.save(tensors, path)
    assert "1 keys missing ['bn1.running_mean']" in refusal(read_classifier, path)
    del tensors["hidden_layer.weight"]
    torch.save(tensors, path)
    assert "hidden_layer.weight" in refusal(read_classifier, path)


# --- files that carry something else -----------------------------------------------------------


class Canary:
    """Creates a file when it is unpickled; by whichever function."""

    def __init__(self, path: Path, function: str) -> None:
        self.path, self.function = path, function

    def __reduce__(self) -> Any:
        if self.function == "posix.system":
            return os.system, (f"touch {self.path}",)
        if self.function == "eval":
            return eval, (f"open({str(self.path)!r}, 'w')",)
        return Path.touch, (self.path,)


class Custom:
    def __setstate__(self, state: Any) -> None:
        Path(state).touch()

    def __getstate__(self) -> str:
        return self.path

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def as_file(kind: str, content: Any, tmp_path: Path, how: str) -> Path:
    """Write content where the reader of a kind looks, alone or within a file that is right."""
    path = tmp_path / "model.pth"
    if kind == "read_dnabert_s":
        shutil.copy(TINY / "config.json", tmp_path)
        path = tmp_path / "pytorch_model.bin"
    if how == "nested":
        content = {"cfg": {"model": Namespace(x=content)}, "model": {"a": [content]}}
        if kind != "read_esm2":
            content = OrderedDict(a=torch.zeros(2), b=[content["model"]])
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    return path


HOWS = ["alone", "nested", "legacy", "pickle 2", "pickle 4", "pickle 5"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("function", ["posix.system", "eval", "Custom"])
@pytest.mark.parametrize("read", READERS)
def test_nothing_in_a_file_runs(
    tmp_path: Path, read: Callable[[Path], Any], function: str, how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    content = Custom(canary) if function == "Custom" else Canary(canary, function)
    path = as_file(read.__name__, content, tmp_path, how)
    place = path.parent if read is read_dnabert_s else path
    message = refusal(read, place)
    assert str(path) in message
    wanted = f"{__name__}.Custom" if function == "Custom" else function
    assert wanted in message, message
    assert not canary.exists()
    if how.startswith("pickle"):  # the canary sings
        with path.open("rb") as handle:
            pickle.load(handle)
        assert canary.exists()


def test_a_module_of_another_class(tmp_path: Path) -> None:
    """Only `__main__.MLPClassifier` has a stand-in; not what has its layers, nor its name."""
    torch.save(MLPClassifier(ClassifierShape(features=24, hidden=16)), tmp_path / "module.pth")
    message = refusal(read_classifier, tmp_path / "module.pth")
    assert "asks for virnuc_rules.models.classifier.MLPClassifier" in message


@pytest.mark.parametrize("read", [read_dnabert_s, read_esm2])
def test_a_module_where_there_should_be_tensors(
    tmp_path: Path, published: Path, read: Callable[[Path], Any]
) -> None:
    path = as_file(read.__name__, None, tmp_path, "alone")
    shutil.copy(published / "module.pth", path)
    place = path.parent if read is read_dnabert_s else path
    assert "asks for __main__.MLPClassifier" in refusal(read, place)


@pytest.mark.parametrize("read", [read_dnabert_s, read_classifier])
def test_settings_where_there_should_be_none(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = as_file(read.__name__, {"args": Namespace(x=1)}, tmp_path, "alone")
    place = path.parent if read is read_dnabert_s else path
    assert "asks for argparse.Namespace" in refusal(read, place)


# --- files that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
def test_missing_truncated_garbage(
    tmp_path: Path, published: Path, read: Callable[[Path], Any]
) -> None:
    refusal(read, tmp_path / "nowhere")
    whole = (published / "module.pth").read_bytes()
    generator = torch.Generator().manual_seed(0)
    noise = bytes(torch.randint(0, 256, (5000,), generator=generator).tolist())
    old = (published / "legacy_state.pth").read_bytes()
    contents = [b"", b"\x80", b"text\n" * 99, noise, b"PK\x03\x04" + noise]
    contents += [whole[: len(whole) * part // 10] for part in range(1, 10)]
    contents += [old[: len(old) * part // 10] for part in range(1, 10)]
    for content in contents:
        path = as_file(read.__name__, None, tmp_path, "alone")
        path.write_bytes(content)
        refusal(read, path.parent if read is read_dnabert_s else path)


def test_a_damaged_safetensors_file(tmp_path: Path) -> None:
    folder = dnabert_folder(tmp_path, load_file(TINY / "model.safetensors"), "safetensors")
    weights = folder / "model.safetensors"
    for length in (0, 5, 100, weights.stat().st_size - 1):
        weights.write_bytes(weights.read_bytes()[:length])
        assert "model.safetensors: cannot be read" in refusal(read_dnabert_s, folder)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    shutil.copy(TINY / "config.json", tmp_path)
    assert "model.safetensors or pytorch_model.bin" in refusal(read_dnabert_s, tmp_path)


def test_dnabert_config_is_the_folders(tmp_path: Path) -> None:
    folder = dnabert_folder(tmp_path, load_file(TINY / "model.safetensors"))
    config, _ = read_dnabert_s(folder)
    assert config == read_config(TINY)
