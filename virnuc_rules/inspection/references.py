"""The networks as others wrote them: ESM-2 of fair-esm and of transformers, BERT of transformers.

They take the original checkpoints, one sequence at a time, in float32, as VirNucPro does. They need
the extra `reference`, and run no code of a checkpoint.
"""

import argparse
import re
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnuc_rules.bundles.checkpoints import read_dnabert_s, read_esm2
from virnuc_rules.errors import VirnucError
from virnuc_rules.models.card import TOKENIZER

Embed = Callable[[str], Tensor]  # of a sequence: float32 [width]
_BERT = {"mlp.gated_layers": "intermediate", "mlp.wo": "output.dense"}


def reference_versions() -> dict[str, str]:
    """Return the versions of the extra's packages. Raises VirnucError if one is missing."""
    try:
        return {name: version(name) for name in ("transformers", "fair-esm")}
    except PackageNotFoundError as error:
        fix = "pip install 'virnuc_rules[reference]'"
        raise VirnucError(f"{error.name} is needed and not installed: {fix}") from None


def open_fair_esm(checkpoint: Path, device: torch.device) -> Embed:
    """Open a `.pt` with fair-esm's own code, but unpickle it safely: its loader does not."""
    from esm.pretrained import load_model_and_alphabet_core

    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    with warnings.catch_warnings(action="ignore"), device:  # the head for contacts is not used
        # It goes by the name, which a user may have changed.
        network = load_model_and_alphabet_core("esm2", content)[0].float().eval()
    last = network.num_layers
    return _mean(lambda ids: network(ids, repr_layers=[last])["representations"][last], device)


def open_transformers_esm2(checkpoint: Path, device: torch.device) -> Embed:
    """Give the weights of a checkpoint to ESM-2 of transformers."""
    from transformers import EsmConfig, EsmModel

    shape, tensors = read_esm2(checkpoint)
    config = EsmConfig(
        **shape.model_dump(), vocab_size=33, pad_token_id=1, mask_token_id=32, token_dropout=True,
        position_embedding_type="rotary", layer_norm_eps=1e-5, emb_layer_norm_before=False,
    )  # fmt: skip
    with device:
        network = EsmModel(config, add_pooling_layer=False).eval()
    network.contact_head = None  # checkpoints have it in another file
    tensors["rotary_embeddings.inv_freq"] = tensors.pop("encoder.inv_freq")
    network.load_state_dict(tensors)
    return _mean(lambda ids: network(ids).last_hidden_state, device)


def _mean(forward: Callable[[Tensor], Tensor], device: torch.device) -> Embed:
    """Return the mean over a protein's residues, at most 1,024, with fair-esm's own token ids."""
    from esm.data import Alphabet

    convert = Alphabet.from_architecture("ESM-1b").get_batch_converter(truncation_seq_length=1024)
    return lambda protein: forward(convert([("", protein)])[2].to(device))[0, 1:-1].mean(0)


class _Gated(nn.Linear):
    """GELU of one half times the other: the part of DNABERT-S's MLP that BERT does not have."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., inner]."""
        gated, plain = super().forward(x).chunk(2, dim=-1)
        return F.gelu(gated) * plain


def open_transformers_dnabert_s(checkpoint: Path, device: torch.device) -> Embed:
    """Give the weights of a checkpoint to BERT of transformers, with ALiBi's slopes of its BLOOM.

    The code that comes with the checkpoint would have to be trusted.
    """
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    shape, tensors = read_dnabert_s(checkpoint)
    config = BertConfig(**shape.model_dump(), max_position_embeddings=1)
    config._attn_implementation = "eager"  # which adds any bias to the scores of attention
    network = BertModel(config, add_pooling_layer=False)
    for layer in network.encoder.layer:
        layer.intermediate = _Gated(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
    named = {"embeddings.position_embeddings.weight": torch.zeros(1, shape.hidden_size)}
    for name, tensor in tensors.items():
        bert = re.sub(r"mlp\.\w+", lambda part: _BERT.get(part[0], "output.LayerNorm"), name)
        parts = ("query", "key", "value") if "Wqkv" in name else ("",)
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            named[bert.replace("Wqkv", part)] = rows
    network.load_state_dict(named)
    network = network.eval().to(device)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / TOKENIZER))
    one = torch.ones(1, 2, device=device)
    slopes = build_alibi_tensor(one, shape.num_attention_heads, torch.float32)[:, 0, 1, None, None]

    def embed(sequence: str) -> Tensor:
        ids = torch.tensor([tokenizer.encode(sequence)], device=device)
        place = torch.arange(ids.shape[1], device=device)
        bias = -slopes * (place[:, None] - place).abs()
        # Of positions there is one embedding, of zeros.
        hidden = network(ids, attention_mask=bias[None], position_ids=torch.zeros_like(ids))
        return hidden.last_hidden_state[0].mean(0)  # type: ignore[no-any-return]

    return embed


# By name: the network of a bundle, and the function that opens a checkpoint of it.
REFERENCES = {
    "BERT of transformers": ("dnabert_s", open_transformers_dnabert_s),
    "ESM-2 of transformers": ("esm2", open_transformers_esm2),
    "fair-esm": ("esm2", open_fair_esm),
}
