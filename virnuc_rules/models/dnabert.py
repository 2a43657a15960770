"""DNABERT-S: BERT with ALiBi instead of positions, one Wqkv, a gated GELU MLP, post-norm.

The architecture is MosaicBERT's as published with DNABERT-2 and DNABERT-S
(Zhou et al., arXiv 2402.08777); the names of the parameters are those of its checkpoint.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.files.environment import environment_named, read_regular
from virnuc_rules.models.card import DnabertConfig
from virnuc_rules.models.layers import Linear, aligned, dtype_of, product

POOLER = ("pooler.",)  # keys in a checkpoint that are not used: embeddings are means of all tokens


class Dnabert(nn.Module):
    """Hidden states of token ids; [B, T] -> [B, T, hidden_size]."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return float32 hidden states [B, T, width] of the last layer.

        input_ids: int64 [B, T]; attention_mask: bool [B, T], False at padding, whose hidden states
        are undefined. Without a mask there is no padding.
        """
        return self.encoder(self.embeddings(input_ids), attention_mask)  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """Token embeddings plus the embedding of segment 0, normalised."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The layers, and the ALiBi bias of their attention."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.slopes = torch.tensor(alibi_slopes(config.num_attention_heads), device="cpu")

    def forward(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        self.slopes = self.slopes.to(x.device)  # once: a copy to the device waits for it
        bias = self.bias(x.shape[1]).to(dtype_of(self))
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask[:, None, None, :], -math.inf)
        # Of each row also where all are equal: a compiled layer needs only one graph so.
        bias = aligned(bias.expand(len(x), -1, -1, -1))
        for layer in self.layer:
            x = layer(x, bias)
        return x

    def bias(self, length: int) -> Tensor:
        """Return -slope * distance, the bias of attention scores; float32 [1, heads, T, T]."""
        position = torch.arange(length, device=self.slopes.device)
        distance = (position[:, None] - position[None, :]).abs()
        return (-self.slopes[:, None, None] * distance)[None]


class Layer(nn.Module):
    """Attention, then the gated MLP; each is added to its input and normalised."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(config), "output": AttentionOutput(config)}
        )
        self.mlp = GatedMlp(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, bias), x)
        return self.mlp(x)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.Wqkv = Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.Wqkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return x.transpose(1, 2).reshape(batch, length, width)


class AttentionOutput(nn.Module):
    """The projection after attention, added to the layer's input and normalised."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)  # type: ignore[no-any-return]


class GatedMlp(nn.Module):
    """GELU of the first half of `gated_layers` times the second half, then `wo`."""

    def __init__(self, config: DnabertConfig) -> None:
        super().__init__()
        self.gated_layers = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gated_layers.weight.chunk(2)
        gated = product(x, gate, gelu=True) * product(x, value)
        return self.layernorm(self.wo(gated) + x)  # type: ignore[no-any-return]


def alibi_slopes(heads: int) -> list[float]:
    """Return the slope of each head (Press et al., arXiv 2108.12409, and its reference code).

    For a power of two: a geometric series from 2^(-8/heads). Otherwise: the slopes of the next
    smaller power of two, then every second slope of the next larger one.
    """
    below = 2 ** math.floor(math.log2(heads))
    series = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    if below == heads:
        return series
    return series + alibi_slopes(2 * below)[0::2][: heads - below]


def open_tokenizer(path: Path) -> Tokenizer:
    """Open `tokenizer.json`, without its padding and its truncation to 2,000 tokens."""
    try:
        with environment_named(path):
            tokenizer = Tokenizer.from_buffer(read_regular(path))
    except VirnucError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path}: not a tokenizer ({error})") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
