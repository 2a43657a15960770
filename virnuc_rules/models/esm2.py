"""ESM-2: a pre-norm transformer over amino acids with rotary positions.

Lin et al., Science 379 (2023). The representation is the last layer's after the final norm
(`emb_layer_norm_after`), as fair-esm's `representations[last layer]`; the names of the parameters
are those of Hugging Face's checkpoints.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from virnuc_rules.errors import ChunkError
from virnuc_rules.models.card import Esm2Config
from virnuc_rules.models.layers import Linear, LinearGelu, aligned, dtype_of

# fair-esm's alphabet "ESM-1b": the index of a token is its id.
_RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO"
ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *_RESIDUES, ".", "-", "<null_1>", "<mask>")
CLS, PAD, EOS, MASK = (ALPHABET.index(t) for t in ("<cls>", "<pad>", "<eos>", "<mask>"))
MAX_RESIDUES = 1024  # upstream's truncation_seq_length
_MASKED_IN_TRAINING = 0.15 * 0.8  # fraction of the tokens that were <mask>
_EPS = 1e-5  # of the norms, in ESM-2 of every size
_ID = np.full(256, -1, np.int64)
for _residue in _RESIDUES:
    _ID[ord(_residue)] = ALPHABET.index(_residue)
_ID[2], _ID[3] = CLS, EOS  # ASCII's start and end of text


def tokenize(protein: str) -> list[int]:
    """Return the ids of <cls>, at most MAX_RESIDUES residues, <eos>; raise as `tokenize_all`."""
    ids: list[int] = tokenize_all([protein])[0].tolist()
    return ids


def tokenize_all(proteins: list[str]) -> list[NDArray[np.int64]]:
    """Return the ids of `tokenize` of each protein.

    Raises ChunkError for a letter that is no amino acid.
    """
    cut = [protein[:MAX_RESIDUES] for protein in proteins]
    text = "".join(f"\2{protein}\3" for protein in cut).encode("ascii", "replace")
    ids = _ID[np.frombuffer(text, np.uint8)]
    if np.count_nonzero(ids <= EOS) > 2 * len(cut):  # residues have higher ids, others -1
        protein, letter = next((p, c) for p in cut for c in p if c not in _RESIDUES)
        raise ChunkError(f"protein {protein[:20]!r}...: {letter!r} is not an amino acid")
    return np.split(ids, np.cumsum([len(protein) + 2 for protein in cut])[:-1])


class Esm2(nn.Module):
    """Hidden states of token ids; [B, T] -> [B, T, hidden_size]."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return float32 hidden states [B, T, width] after the final norm.

        input_ids: int64 [B, T]; attention_mask: bool [B, T], False at padding, whose hidden states
        are undefined. Without a mask there is no padding, and attention is faster.
        """
        x = self.embeddings(input_ids, attention_mask)
        return self.encoder(x, attention_mask)  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """Token embeddings, scaled to make up for the tokens masked in training (token dropout)."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(len(ALPHABET), config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Scale as in training: by 0.88 where no token is <mask>."""
        masked = input_ids == MASK
        present = torch.ones_like(masked) if attention_mask is None else attention_mask
        x = self.word_embeddings(input_ids) * (present & ~masked)[..., None]
        observed = masked.sum(1) / present.sum(1)
        return x * ((1 - _MASKED_IN_TRAINING) / (1 - observed))[:, None, None]  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The layers and the final norm."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, _EPS)
        head_size = config.hidden_size // config.num_attention_heads
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", rotary_frequencies(head_size))

    def forward(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        cos, sin = rotary_angles(self.inv_freq, x.shape[1])
        bias = None
        if attention_mask is not None:
            bias = torch.zeros(attention_mask.shape, dtype=dtype_of(self), device=x.device)
            bias = aligned(bias.masked_fill(~attention_mask, -math.inf)[:, None, None, :])
        for layer in self.layer:
            x = layer(x, cos, sin, bias)
        return self.emb_layer_norm_after(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and MLP; the input of each is normalised, its output added to the input."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = nn.ModuleDict(
            {
                "self": SelfAttention(config),
                "output": nn.ModuleDict({"dense": Linear(width, width)}),
                "LayerNorm": nn.LayerNorm(width, _EPS),
            }
        )
        self.LayerNorm = nn.LayerNorm(width, _EPS)
        self.intermediate = nn.ModuleDict({"dense": LinearGelu(width, config.intermediate_size)})
        self.output = nn.ModuleDict({"dense": Linear(config.intermediate_size, width)})

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        # x is float32: a float16 residual was not shown to be as exact, and gains 1 to 3 %.
        h = self.attention["self"](self.attention["LayerNorm"](x), cos, sin, bias)
        x = x + self.attention["output"]["dense"](h)  # type: ignore[index]
        h = self.intermediate["dense"](self.LayerNorm(x))
        return x + self.output["dense"](h)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions; names of parameters as in checkpoints."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv: Linear | None = None  # after `fuse`, instead of the three
        self.query, self.key, self.value = (
            Linear(config.hidden_size, config.hidden_size) for _ in range(3)
        )

    def fuse(self) -> None:
        """Replace the three matrices by one with their rows, which reads x once; for inference."""
        parts = (self.query, self.key, self.value)
        weight, bias = (
            nn.Parameter(torch.cat([getattr(part, name) for part in parts]), requires_grad=False)
            for name in ("weight", "bias")
        )
        self.qkv = self.query
        self.qkv.weight, self.qkv.bias, self.qkv.out_features = weight, bias, len(bias)
        del self.query, self.key, self.value

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        if self.qkv is not None:
            parts = self.qkv(x).chunk(3, dim=-1)
        else:
            parts = tuple(project(x) for project in (self.query, self.key, self.value))
        query, key, value = (part.view(shape).transpose(1, 2) for part in parts)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return x.transpose(1, 2).reshape(batch, length, width)


def rotary_frequencies(head_size: int) -> Tensor:
    """Return 10000^(-2i/head_size), float32 [head_size/2] (Su et al., arXiv 2104.09864).

    A checkpoint that holds them rounded to float16 was trained with the rounded ones.
    """
    # Not on the meta device: arithmetic on it imports torch for 2 s.
    pair = torch.arange(0, head_size, 2, dtype=torch.int64, device="cpu").float()
    return 1 / 10000 ** (pair / head_size)


def rotary_angles(inv_freq: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return cosine and signed sine of the angle of each position, float32 [length, head_size].

    The sine is negative in the first half: `rotate` multiplies it with exchanged halves.
    """
    angle = torch.outer(torch.arange(length, device=inv_freq.device), inv_freq)
    return angle.cos().repeat(1, 2), torch.cat((-angle.sin(), angle.sin()), dim=1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_size/2) of queries or keys [B, heads, T, head_size]."""
    turned = x * cos + x.roll(x.shape[-1] // 2, -1) * sin
    return turned.to(x.dtype)
