"""The shapes of the published networks, for bundles of random weights."""

from virnuc_rules.models.card import DnabertConfig, Esm2Config

DNABERT_S = DnabertConfig(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    vocab_size=4096,
)
TINY = DnabertConfig(  # to try a benchmark out
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=12,
    intermediate_size=128,
    vocab_size=4096,
)
_ESM2 = {  # layers, width, heads
    "tiny": (2, 64, 4),
    "8M": (6, 320, 20),
    "35M": (12, 480, 20),
    "150M": (30, 640, 20),
    "650M": (33, 1280, 20),
    "3B": (36, 2560, 40),
}
ESM2 = {
    size: Esm2Config(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    for size, (layers, width, heads) in _ESM2.items()
}
