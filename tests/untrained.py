"""An untrained bundle: tiny networks of the real architectures with seeded random weights.

It proves the plumbing. Its scores mean nothing, and its card says so. The bundle in `tests/data`
was made by it: `PYTHONPATH=tests python -m untrained demo/data/lake.fa.gz demo/data/gut.fa.gz`.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import nn

from virnuc_rules.models import card
from virnuc_rules.models.bundle import write_card
from virnuc_rules.models.card import ClassifierShape, DnabertConfig, Esm2Config
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2
from virnuc_rules.reading.fastx import Sequences

_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]  # ids as in the real tokenizer
_DNABERT_S = DnabertConfig(
    hidden_size=48,
    num_attention_heads=12,  # not a power of two: ALiBi's general case
    num_hidden_layers=3,
    intermediate_size=128,
    vocab_size=1024,
)
_ESM2 = Esm2Config(
    hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256
)
_CLASSIFIER = ClassifierShape(features=48 + 64, hidden=32)
_WINDOW = 500


def make_untrained_bundle(fasta: Iterable[Path], out: Path, seed: int) -> card.BundleCard:
    """Write an untrained bundle: tokenizer trained on `fasta`, weights drawn from `seed`."""
    out.mkdir(parents=True, exist_ok=True)
    train_tokenizer(fasta).save(str(out / card.TOKENIZER))
    generator = torch.Generator().manual_seed(seed)
    networks: dict[str, nn.Module] = {
        card.DNABERT_S: Dnabert(_DNABERT_S),
        card.ESM2: Esm2(_ESM2),
        card.CLASSIFIER: MLPClassifier(_CLASSIFIER),
    }
    for name, network in networks.items():
        save_file(_drawn(network, generator), out / name)
    return write_card(
        out,
        name="virnuc-untrained",
        description=(
            "UNTRAINED. Networks of the architectures of DNABERT-S, ESM-2 and VirNucPro's "
            f"classifier with random weights (seed {seed}). Its scores and calls mean nothing: "
            "it shows how data flow, not what is viral."
        ),
        demo=True,
        window=_WINDOW,
        dnabert_s=_DNABERT_S,
        esm2=_ESM2,
        classifier=_CLASSIFIER,
    )


def train_tokenizer(fasta: Iterable[Path]) -> Tokenizer:
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=_DNABERT_S.vocab_size, special_tokens=_SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(_windows(fasta), trainer)
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return tokenizer


def _windows(fasta: Iterable[Path]) -> Iterator[str]:
    for path in fasta:
        for contig in Sequences([path], path.name).contigs():
            bases = contig.bases(0, contig.length).upper().decode()
            yield from (bases[at : at + _WINDOW] for at in range(0, contig.length, _WINDOW))


def _drawn(network: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw the weights wider than for training, so that different sequences differ in score."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 2:
            scale = 1.0 if "embeddings" in name else 1.5 / tensor.shape[1] ** 0.5
            tensors[name] = scale * torch.randn(tensor.shape, generator=generator)
        else:  # norms stay at one, biases at zero, running statistics at their start
            is_bias = name.endswith("bias")
            tensors[name] = torch.zeros_like(tensor) if is_bias else tensor.clone()
    return tensors


if __name__ == "__main__":
    make_untrained_bundle(map(Path, sys.argv[1:]), Path("tests/data/bundle"), seed=1)
