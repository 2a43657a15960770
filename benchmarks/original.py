"""ESM-2 as fair-esm computes it: float32, with PyTorch's plain operations, one after the other.

fair-esm's `ESM2` and its `MultiheadAttention`, step by step, on the weights of VirNuc's network.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from virnuc_rules.chunking.format import Chunk
from virnuc_rules.models import esm2

TOKENS = 2048  # of a batch, in VirNucPro


def batches(chunk: Chunk) -> list[list[int]]:
    """The rows of each batch, shortest first, as fair-esm's `get_batch_indices`."""
    found: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(chunk.ids)), key=lambda row: len(chunk.protein[row])):
        longest = max(longest, len(chunk.protein[row]) + 1)
        if not found or longest * (len(found[-1]) + 1) > TOKENS:
            found.append([])
            longest = len(chunk.protein[row]) + 1
        found[-1].append(row)
    return found


@torch.inference_mode()
def embed(chunk: Chunk, network: Any, heads: int) -> Tensor:
    """The embeddings that VirNucPro takes; each row is fetched on its own."""
    device, means = network.encoder.inv_freq.device, {}
    for batch in batches(chunk):
        rows = [esm2.tokenize(chunk.protein[row]) for row in batch]
        ids = torch.full((len(rows), max(map(len, rows))), esm2.PAD)
        for place, tokens in enumerate(rows):
            ids[place, : len(tokens)] = torch.tensor(tokens)
        for row, tokens, states in zip(
            batch, rows, forward(ids.to(device), network, heads), strict=True
        ):
            means[row] = states[1 : len(tokens) - 1].mean(0).cpu()
    return torch.stack([means[row] for row in range(len(chunk.ids))])


def forward(ids: Tensor, network: Any, heads: int) -> Tensor:
    """Hidden states [B, T, width] of token ids [B, T]."""
    padding = ids.eq(esm2.PAD)
    x = network.embeddings.word_embeddings(ids) * (1 - 0.15 * 0.8)
    x = x * (1 - padding.unsqueeze(-1).type_as(x))
    x = x.transpose(0, 1)
    for layer in network.encoder.layer:
        x = x + attention(layer, norm(layer.attention["LayerNorm"], x), network, heads, padding)
        dense = layer.intermediate["dense"]
        y = F.linear(norm(layer.LayerNorm, x), dense.weight, dense.bias)
        y = y * 0.5 * (1.0 + torch.erf(y / math.sqrt(2.0)))
        x = x + F.linear(y, layer.output["dense"].weight, layer.output["dense"].bias)
    return norm(network.encoder.emb_layer_norm_after, x).transpose(0, 1)


def norm(layer: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, 1e-5)


def attention(layer: Any, x: Tensor, network: Any, heads: int, padding: Tensor) -> Tensor:
    length, batch, width = x.shape
    qkv = layer.attention["self"].qkv
    parts = zip(qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True)
    q, k, v = (F.linear(x, weight, bias) for weight, bias in parts)
    q = q * (width // heads) ** -0.5
    q, k, v = (
        part.contiguous().view(length, batch * heads, width // heads).transpose(0, 1)
        for part in (q, k, v)
    )
    angle = torch.outer(torch.arange(length, device=x.device).float(), network.encoder.inv_freq)
    angle = torch.cat((angle, angle), dim=-1)
    q, k = rotated(q, angle), rotated(k, angle)
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    scores = scores.masked_fill(padding[:, None, None, :], -math.inf)
    weights = F.softmax(scores.view(batch * heads, length, length), dim=-1, dtype=torch.float32)
    mixed = torch.bmm(weights, v).transpose(0, 1).contiguous().view(length, batch, width)
    out = layer.attention["output"]["dense"]
    return F.linear(mixed, out.weight, out.bias)


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat((-second, first), dim=-1) * angle.sin()
