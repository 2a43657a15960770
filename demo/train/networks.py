"""The demo's networks, and how they are trained in minutes on a CPU.

Composition (codons, pairs of codons, short words) distinguishes most viral windows of 500 bases
from cellular ones. The shapes are chosen so that composition is learned first, and fast:

* DNABERT's tokens are two codons in frame. It has one layer with one head, whose ALiBi slope is
  2^-8; with queries and keys of zero its attention is a fixed, nearly even mean of the values of
  all tokens. So values are looked up in a table of the vocabulary, and the layer is computed only
  at a few random positions of a frame: an unbiased sample of its mean over all positions.
* ESM-2 has one layer whose heads look at fixed offsets (`look_at_offsets`), so a residue's hidden
  state depends on its neighbours only: those of all triplets are computed at once, and looked up.

Each network is trained with a head of its own, with the shape of the classifier. VirNuc loads both
as ordinary networks of their architectures.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from Bio.Data import CodonTable
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from virnuc_rules.models import esm2
from virnuc_rules.models.card import ClassifierShape, DnabertConfig, Esm2Config
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]  # ids as in the real tokenizer
PAD = SPECIAL.index("[PAD]")
WORD = 6  # bases of a token: two codons
WORDS = ["".join(word) for n in range(1, WORD + 1) for word in product("ACGT", repeat=n)]
DICODONS = len(SPECIAL) + len(WORDS) - 4**WORD  # id of the first token of six bases
OFFSETS = (-1, 0, 1, -1, 0, 1)  # of ESM-2's heads
RESIDUES = 20  # the standard amino acids, the first of ESM-2's residues
FIRST_RESIDUE = esm2.ALPHABET.index("L")

DNABERT_S = DnabertConfig(
    hidden_size=384,
    num_attention_heads=1,
    num_hidden_layers=1,
    intermediate_size=1024,
    vocab_size=len(SPECIAL) + len(WORDS),
)
ESM2 = Esm2Config(
    hidden_size=96, num_hidden_layers=1, num_attention_heads=len(OFFSETS), intermediate_size=768
)
HIDDEN, DROPOUT = 512, 0.5  # of the heads, as of the classifier


def build_tokenizer() -> Tokenizer:
    """Return a tokenizer into pieces of six bases; the last token may be shorter.

    All words of up to six letters are tokens, so that a piece is one token. A piece with a letter
    other than A, C, G, T becomes single letters.
    """
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    model = BPE(vocabulary, [], unk_token="[UNK]", ignore_merges=True)  # noqa: S106 - of a tokenizer
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = Split(Regex(f".{{{WORD}}}"), "isolated")
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return tokenizer


def dicodon_features() -> Tensor:
    """Count codons, words of four bases, and pairs of residues in each dicodon; [4096, 720]."""
    codons = ["".join(codon) for codon in product("ACGT", repeat=3)]
    words = ["".join(word) for word in product("ACGT", repeat=4)]
    code = CodonTable.unambiguous_dna_by_id[1].forward_table
    pairs = ["".join(pair) for pair in product(sorted(set(code.values())), repeat=2)]
    column = {name: index for index, name in enumerate([*codons, *words])}
    column |= {f"aa{pair}": len(column) + index for index, pair in enumerate(pairs)}
    counts = torch.zeros(4**WORD, len(column))
    for row, dicodon in enumerate(WORDS[-(4**WORD) :]):
        first, second = dicodon[:3], dicodon[3:]
        features = [first, second, *(dicodon[at : at + 4] for at in range(3))]
        if first in code and second in code:
            features.append(f"aa{code[first]}{code[second]}")
        for name in features:
            counts[row, column[name]] += 1
    return counts


class TrainedDnabert(nn.Module):
    """DNABERT and a head; logits [B, 2] of tokens [B, T], from a few positions of each frame."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        """`mean` and `deviation`, [720]: of the features of a frame (`dicodon_features`)."""
        super().__init__()
        self.network = Dnabert(DNABERT_S)
        self.head = _head(DNABERT_S.hidden_size)
        scaled = ((dicodon_features() - mean) / deviation.clamp_min(3e-4)).clamp(-60, 60)
        features = torch.zeros(DNABERT_S.vocab_size, len(mean))
        features[DICODONS:] = scaled / scaled.norm(dim=1).mean()
        self.features: Tensor
        self.register_buffer("features", features)
        width = DNABERT_S.hidden_size
        self.projection = nn.Parameter(torch.randn(len(mean), width))
        layer = self.network.encoder.layer[0]
        with torch.no_grad():
            self.network.embeddings.token_type_embeddings.weight.zero_()
            self.own.normal_(0, 0.3)
            qkv, dense = layer.attention["self"].Wqkv, layer.attention["output"].dense
            for linear in (qkv, dense):
                linear.weight.zero_()
                linear.bias.zero_()
            qkv.weight[2 * width :].fill_diagonal_(3.0)  # the values; queries and keys stay zero
            dense.weight.fill_diagonal_(3.0)

    @property
    def own(self) -> nn.Parameter:
        """The part of a token's embedding that is not its features'."""
        return self.network.embeddings.word_embeddings.weight

    def table(self) -> Tensor:
        """Return the embedding of each token: that of its features, plus its own."""
        return self.features @ self.projection + self.own

    def forward(self, dna: Tensor, positions: int, dropped: float) -> Tensor:
        """Drop a fraction `dropped` of the tokens; compute the layer at `positions` positions."""
        layer, width = self.network.encoder.layer[0], DNABERT_S.hidden_size
        states = self.network.embeddings.LayerNorm(self.table())
        qkv = layer.attention["self"].Wqkv
        values = F.linear(states, qkv.weight[2 * width :], qkv.bias[2 * width :])
        present = dna != PAD
        position = (torch.rand(len(dna), positions) * present.sum(dim=1, keepdim=True)).long()
        seen = present & (torch.rand(dna.shape) >= dropped)
        seen[:, 0] = True  # [CLS]
        distance = (position[:, :, None] - torch.arange(dna.shape[1])).abs()
        bias = (-self.network.encoder.slopes[0] * distance).masked_fill(~seen[:, None], -math.inf)
        value = F.embedding(dna, values)
        mixed = torch.bmm(bias.softmax(dim=2).to(value.dtype), value)
        here = F.embedding(dna.gather(1, position), states)
        hidden = layer.mlp(layer.attention["output"](mixed, here))
        return self.head(hidden.float().mean(dim=1))  # type: ignore[no-any-return]

    def folded(self) -> dict[str, Tensor]:
        """Return the network's tensors with the embeddings as one table."""
        tensors = self.network.state_dict()
        return {**tensors, "embeddings.word_embeddings.weight": self.table().detach()}


class TrainedEsm2(nn.Module):
    """ESM-2 and a head; logits [B, 2] of tokens [B, P]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Esm2(ESM2)
        self.head = _head(ESM2.hidden_size)
        with torch.no_grad():
            for name, tensor in self.network.named_parameters():
                if tensor.ndim == 2:
                    tensor.normal_(0, 0.5 if "embeddings" in name else tensor.shape[1] ** -0.5)
                elif name.endswith("bias"):
                    tensor.zero_()
            attention = self.network.encoder.layer[0].attention["self"]
            look_at_offsets(attention, self.network.encoder.inv_freq)
        for linear in (attention.query, attention.key):  # else the table of triplets would be wrong
            linear.requires_grad_(False)

    def forward(self, protein: Tensor, positions: int, dropped: float) -> Tensor:
        """All positions are looked up; `positions` is not used."""
        states = triplet_states(self.network).float()
        rows = triplets(protein)
        rows = torch.where(torch.rand(rows.shape) < dropped, len(states) - 1, rows)
        count = (rows < len(states) - 1).sum(dim=1, keepdim=True).clamp_min(1)
        return self.head(F.embedding_bag(rows, states, mode="sum") / count)  # type: ignore[no-any-return]

    def folded(self) -> dict[str, Tensor]:
        """Return the network's tensors."""
        return self.network.state_dict()


def _head(width: int) -> MLPClassifier:
    return MLPClassifier(ClassifierShape(features=width, hidden=HIDDEN), DROPOUT)


def look_at_offsets(attention: nn.Module, frequencies: Tensor) -> None:
    """Set the biases of queries and keys so that each head attends to one fixed offset.

    Rotated, query and key make the sum over the frequencies w of a * cos(w * (distance - offset)),
    whose largest value is at the offset. The first few frequencies distinguish close positions.
    """
    size = 2 * len(frequencies)
    strength = torch.zeros(len(frequencies))
    strength[:3] = torch.tensor([16.0, 12.0, 8.0])
    root = (strength * math.sqrt(size)).sqrt()
    attention.query.weight.mul_(0.1)
    attention.key.weight.mul_(0.1)
    for head, offset in enumerate(OFFSETS):
        at = slice(head * size, (head + 1) * size)
        angle = frequencies * offset
        attention.query.bias[at] = torch.cat([root, torch.zeros_like(root)])
        attention.key.bias[at] = torch.cat([root * angle.cos(), -root * angle.sin()])


def triplet_states(network: Esm2) -> Tensor:
    """Return ESM-2's hidden state of the middle of each triplet; [triplets + 1, width].

    The index of a triplet has its letters as base-22 digits: 20 residues, then the two ends. The
    last row is 0: it stands for padding and dropped residues.
    """
    letters = torch.tensor([*range(FIRST_RESIDUE, FIRST_RESIDUE + RESIDUES), esm2.CLS, esm2.EOS])
    triplets = torch.cartesian_prod(letters, letters[:RESIDUES], letters)
    states: Tensor = network(triplets)[:, 1]
    return torch.cat([states, states.new_zeros(1, states.shape[1])])


def triplets(protein: Tensor) -> Tensor:
    """Return the triplet around each residue as a row of `triplet_states`; [B, P] -> [B, P - 2]."""
    ends = RESIDUES + 2
    letter = protein - FIRST_RESIDUE
    letter = torch.where(protein == esm2.CLS, RESIDUES, letter)
    letter = torch.where(protein == esm2.EOS, RESIDUES + 1, letter)
    left, middle, right = letter[:, :-2], letter[:, 1:-1], letter[:, 2:]
    index = (left * RESIDUES + middle) * ends + right
    is_residue = (protein[:, 1:-1] >= FIRST_RESIDUE) & (middle < RESIDUES)
    return torch.where(is_residue, index, ends * RESIDUES * ends)
