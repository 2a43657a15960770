"""Reading published checkpoints into tensors with VirNuc's names, without running code of the file.

DNABERT-S: a Hugging Face folder. ESM-2: a Hugging Face folder or fair-esm's `.pt`. Classifier:
VirNucPro's `.pth`, a pickled module. Every reader returns all keys of its network, or raises
ModelError with one line. Tensors keep the file's dtype and may be mapped from it: the file must
stay as long as they are used.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from virnuc_rules.bundles.pickles import Inert, fields, read_pickle
from virnuc_rules.errors import EnvironmentProblem, ModelError, one_line
from virnuc_rules.files.environment import environment_named, open_regular, read_small
from virnuc_rules.models.card import ClassifierShape, DnabertConfig, Esm2Config
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2, rotary_frequencies
from virnuc_rules.models.weights import check_size, skeleton

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # Hugging Face's names, the safe format first
_ESM2_SETTINGS = {  # constants of all ESM-2 models that `Esm2` assumes
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "layer_norm_eps": 1e-5,
}
_FAIR_ESM_SETTINGS = {  # VirNuc's field: its names in `cfg`, then in `args`
    "num_hidden_layers": ("encoder_layers", "num_layers", "layers"),
    "hidden_size": ("encoder_embed_dim", "embed_dim"),
    "num_attention_heads": ("encoder_attention_heads", "attention_heads"),
}
_FAIR_ESM_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
_LAYERS = ("linear.Linear", "batchnorm.BatchNorm1d", "dropout.Dropout")
_CLASSIFIER_CLASSES = ("__main__.MLPClassifier", *(f"torch.nn.modules.{name}" for name in _LAYERS))
_Shape = TypeVar("_Shape", bound=BaseModel)


def read_dnabert_s(path: Path) -> tuple[DnabertConfig, dict[str, Tensor]]:
    """Read DNABERT-S from a Hugging Face folder; without pooler and language-model head."""
    config = _shape(DnabertConfig, path / "config.json", _read_json(path / "config.json"))
    tensors = _named(_read_folder(path), path, r"(bert\.)?", r"(pooler|cls)\.|.*\.position_ids$")
    return config, _fitted(Dnabert, config, tensors, path)


def read_esm2(path: Path) -> tuple[Esm2Config, dict[str, Tensor]]:
    """Read ESM-2 from a Hugging Face folder or a fair-esm `.pt`; names as in `Esm2(config)`.

    fair-esm's files of the larger models hold float16, which fair-esm itself turns to float32.
    """
    shape, tensors = _read_esm2_folder(path) if path.is_dir() else _read_fair_esm(path)
    check_size(shape, _sizes(tensors, path), path)  # before what follows from them
    tensors |= {"encoder.inv_freq": _rotary_frequencies(shape, tensors, path)}
    return shape, _fitted(Esm2, shape, tensors, path)


def read_classifier(path: Path) -> tuple[ClassifierShape, dict[str, Tensor]]:
    """Read the classifier from a pickled `__main__.MLPClassifier` or a plain state dict."""
    content = read_pickle(path, _CLASSIFIER_CLASSES)
    tensors = _tensors_of_module(content, path) if isinstance(content, Inert) else content
    tensors = _named(tensors, path)
    classes, _ = _matrix(tensors, "output_layer.weight", path)
    hidden, features = _matrix(tensors, "hidden_layer.weight", path)
    widths = {"features": features, "hidden": hidden, "classes": classes}
    shape = _shape(ClassifierShape, path, widths)
    return shape, _fitted(MLPClassifier, shape, tensors, path)


def _read_esm2_folder(path: Path) -> tuple[Esm2Config, dict[str, Any]]:
    settings = _read_json(path / "config.json")
    wrong = [key for key, value in _ESM2_SETTINGS.items() if settings.get(key) != value]
    wrong += [key for key in ("emb_layer_norm_before", "is_folding_model") if settings.get(key)]
    if wrong:
        raise ModelError(f"{path / 'config.json'}: not an ESM-2 (see {', '.join(wrong)})")
    dropped = r"(lm_head|contact_head|pooler)\.|embeddings\.position_"
    shape = _shape(Esm2Config, path / "config.json", settings)
    return shape, _named(_read_folder(path), path, r"(esm\.)?", dropped)


def _read_fair_esm(path: Path) -> tuple[Esm2Config, dict[str, Any]]:
    parts = fields(read_pickle(path, ("argparse.Namespace",)))
    given = fields(parts["cfg"] if "cfg" in parts else parts.get("args"))
    given = fields(given.get("model")) or given  # cfg["model"] as released; args is flat
    if not given or "model" not in parts:
        raise ModelError(f"{path}: not a fair-esm checkpoint (no model, or no cfg or args)")
    if given.get("token_dropout", True) is not True:
        raise ModelError(f"{path}: not an ESM-2 (trained without token dropout)")
    prefix = r"(encoder\.sentence_encoder\.|encoder\.)?"
    dropped = r"(contact_head|lm_head)\."
    named = _named(parts["model"], path, prefix, dropped)
    tensors = {_renamed(key): tensor for key, tensor in named.items()}
    settings = {
        field: given[name]
        for field, names in _FAIR_ESM_SETTINGS.items()
        for name in reversed(names)
        if name in given
    }
    inner = "encoder.layer.0.intermediate.dense.weight"
    settings["intermediate_size"], _ = _matrix(tensors, inner, path)
    return _shape(Esm2Config, path, settings), tensors


def _rotary_frequencies(shape: Esm2Config, tensors: dict[str, Any], path: Path) -> Tensor:
    """Remove the frequencies of the layers, which must be equal, and return them once.

    A file without them gets computed ones. Files in float16 hold rounded ones, as in training.
    """
    names = [key for key in tensors if key.endswith(".inv_freq")]
    if not names:
        return rotary_frequencies(shape.hidden_size // shape.num_attention_heads)
    first, *rest = [tensors.pop(key) for key in names]
    if not all(isinstance(one, Tensor) and torch.equal(one, first) for one in [first, *rest]):
        raise ModelError(f"{path}: {names[0]} is not that of all layers")
    return first  # type: ignore[no-any-return]


def _renamed(key: str) -> str:
    """Turn fair-esm's name of a parameter into VirNuc's; unknown names stay, to be reported."""
    key = re.sub(r"^embed_tokens\.", "embeddings.word_embeddings.", key)
    key = re.sub(r"^emb_layer_norm_after\.", r"encoder.\g<0>", key)
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", key)
    if layer and layer[2] in _FAIR_ESM_LAYER:
        return f"encoder.layer.{layer[1]}.{_FAIR_ESM_LAYER[layer[2]]}.{layer[3]}"
    return key


def _tensors_of_module(module: Inert, path: Path) -> dict[str, Any]:
    """Return parameters and buffers of the classifier's layers, without calling anything."""
    layers = fields(fields(module).get("_modules"))
    if fields(layers.get("bn1")).get("eps") != 1e-5:
        raise ModelError(f"{path}: not VirNucPro's classifier (it has a bn1 with eps 1e-5)")
    return {
        f"{layer}.{name}": tensor
        for layer, content in layers.items()
        # A layer within a layer is reported as unexpected.
        for group in ("_parameters", "_buffers", "_modules")
        for name, tensor in fields(fields(content).get(group)).items()
        if tensor is not None
    }


def _shape(kind: type[_Shape], path: Path, settings: Mapping[str, Any]) -> _Shape:
    """Make a `kind` from settings that may have more fields."""
    try:
        return kind(**{key: settings[key] for key in kind.model_fields if key in settings})
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]  # an input that repeats itself is endless
        reason = ": ".join([*map(str, problem["loc"]), problem["msg"][:200]])
        raise ModelError(f"{path}: cannot be used ({reason})") from None


def _named(tensors: Any, path: Path, prefix: str = "", dropped: str = "$") -> dict[str, Any]:
    """Remove `prefix` from the keys, then keys that begin with `dropped` (both are patterns)."""
    if not isinstance(tensors, dict) or not all(isinstance(key, str) for key in tensors):
        raise ModelError(f"{path}: not a checkpoint (no tensors with names in it)")
    named: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name = re.sub(f"^{prefix}", "", key)
        # TensorFlow's names, in old files and in those that transformers 5 writes for ESM-2
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if re.match(dropped, name):
            continue
        if name in named:
            raise ModelError(f"{path}: two tensors are {name!r}, one of them {key!r}")
        named[name] = tensor
    return named


def _matrix(tensors: dict[str, Any], key: str, path: Path) -> tuple[int, int]:
    """Return the shape of a matrix, from which that of the network follows."""
    matrix = tensors.get(key)
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        raise ModelError(f"{path}: does not fit the network: no matrix {key}")
    return matrix.shape[0], matrix.shape[1]


def _fitted(
    kind: Callable[[_Shape], nn.Module], shape: _Shape, tensors: dict[str, Any], path: Path
) -> dict[str, Tensor]:
    """Check keys, shapes and kinds, and return the tensors in the order of the network."""
    check_size(shape, _sizes(tensors, path), path)
    expected: dict[str, Tensor] = skeleton(kind, shape).state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    if missing or unexpected:
        raise ModelError(
            f"{path}: does not fit the network: {len(missing)} keys missing {missing[:5]}, "
            f"{len(unexpected)} unexpected {unexpected[:5]}"
        )
    for key, model in expected.items():
        tensor = tensors[key]
        if not _is_plain(tensor):
            raise ModelError(f"{path}: {key} is no plain tensor")
        if tensor.shape != model.shape or tensor.is_floating_point() != model.is_floating_point():
            kinds = [f"{each.dtype} {list(each.shape)}" for each in (tensor, model)]
            raise ModelError(f"{path}: {key} is {kinds[0]}, not {kinds[1]}")
    return {key: tensors[key].detach().contiguous() for key in expected}


def _is_plain(tensor: Any) -> bool:
    is_here = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
    return is_here and bool(tensor.layout == torch.strided)


def _sizes(tensors: dict[str, Any], path: Path) -> list[Sequence[int]]:
    """Return the shapes of tensors. Raises ModelError where they are larger than their files."""
    plain = [tensor for tensor in tensors.values() if _is_plain(tensor)]
    files = checkpoint_files(path) if path.is_dir() else [path]
    size, held = sum(each.nbytes for each in plain), sum(file.stat().st_size for file in files)
    if size > held:
        what = "expanded, or sharing memory; write copies of them (`tensor.clone()`)"
        raise ModelError(f"{path}: tensors of {size:,} bytes in {held:,}: {what}")
    return [tensor.shape for tensor in plain]


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files read of a Hugging Face folder. Raises ModelError without weights."""
    settings = [folder / "config.json", folder / "tokenizer.json", *folder.glob("*.index.json")]
    return [path for path in settings if path.exists()] + _weight_files(folder)


def _read_folder(folder: Path) -> dict[str, Any]:
    """Read all tensors of a Hugging Face folder, which may be in shards."""
    tensors: dict[str, Any] = {}
    for path in _weight_files(folder):
        if path.suffix != ".safetensors":
            tensors |= _named(read_pickle(path), path)
            continue
        try:
            with environment_named(path):
                open_regular(path).close()  # safetensors would hide why it cannot be opened
                tensors |= load_file(path, device="cpu")
        except EnvironmentProblem:
            raise
        except Exception as error:  # SafetensorError or OSError; a bare one in old versions
            raise ModelError(f"{path}: cannot be read ({one_line(error)[:200]})") from None
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            shards = _read_json(index).get("weight_map")
            names: list[Any] = list(shards.values()) if isinstance(shards, dict) else [None]
            if not all(isinstance(shard, str) and Path(shard).name == shard for shard in names):
                raise ModelError(f"{index}: not an index of shards in its folder")
            return [folder / shard for shard in sorted(set(names))]
    raise ModelError(f"{folder}: no {' or '.join(_WEIGHTS)}, whole or in shards")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with environment_named(path):
            content = json.loads(read_small(path))
        if isinstance(content, dict):
            return content
        reason = "no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error)[:200]
    raise ModelError(f"{path}: cannot be used ({reason})")
