"""ESM-2 through transformers' `EsmModel`, without its heads.

Lin et al., Science 379 (2023). The representation is `last_hidden_state`, that is, after the final
norm (`emb_layer_norm_after`), as fair-esm's `representations[last layer]`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EsmConfig, EsmModel

from virnuc_rules.errors import ChunkError
from virnuc_rules.models.card import Esm2Config
from virnuc_rules.models.weights import load_weights

# fair-esm's alphabet "ESM-1b": the place of a token is its id.
ALPHABET = (
    "<cls>",
    "<pad>",
    "<eos>",
    "<unk>",
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    "<null_1>",
    "<mask>",
)
CLS, PAD, EOS, MASK = (ALPHABET.index(t) for t in ("<cls>", "<pad>", "<eos>", "<mask>"))
MAX_RESIDUES = 1024  # upstream's truncation_seq_length

_RESIDUES = "LAGVSERTIDPKQNFYMHWCXBUZO"
_ID = np.full(256, -1, np.int64)
for _residue in _RESIDUES:
    _ID[ord(_residue)] = ALPHABET.index(_residue)


def tokenize(protein: str) -> list[int]:
    """Return the ids of <cls>, at most MAX_RESIDUES residues, <eos>.

    Raises ChunkError for a letter that is no amino acid.
    """
    ids = _ID[np.frombuffer(protein[:MAX_RESIDUES].encode(), np.uint8)]
    if (ids < 0).any():
        letter = next(letter for letter in protein if letter not in _RESIDUES)
        raise ChunkError(f"protein {protein[:20]!r}...: {letter!r} is not an amino acid")
    return [CLS, *ids.tolist(), EOS]


class Esm2(nn.Module):
    """Hidden states of token ids; [B, T] -> [B, T, hidden_size]."""

    def __init__(self, shape: Esm2Config) -> None:
        super().__init__()
        config = EsmConfig(
            vocab_size=len(ALPHABET),
            pad_token_id=PAD,
            mask_token_id=MASK,
            position_embedding_type="rotary",
            token_dropout=True,  # scales by 0.88 also at inference, as trained
            emb_layer_norm_before=False,
            layer_norm_eps=1e-5,
            max_position_embeddings=MAX_RESIDUES + 2,
            attn_implementation="sdpa",
            **shape.model_dump(),
        )
        self.esm = EsmModel(config, add_pooling_layer=False)
        self.esm.contact_head = nn.Identity()  # predicts contacts; its weights are not needed

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return hidden states [B, T, width] after the final norm; see `Dnabert.forward`."""
        return self.esm(input_ids, attention_mask=attention_mask).last_hidden_state  # type: ignore[no-any-return]


def open_network(
    shape: Esm2Config, weights: Path, device: torch.device | str, dtype: torch.dtype
) -> Esm2:
    """Build the network and load its weights. Raises ModelError where they do not fit."""
    with torch.device("meta"):
        network = Esm2(shape)
    # What is computed must not be asked of the file: set aside, then made anew on the device.
    rotary = type(network.esm.rotary_embeddings)
    network.esm.rotary_embeddings = nn.Identity()
    load_weights(network.esm, weights, device, dtype)
    with torch.device(device):
        network.esm.rotary_embeddings = rotary(config=network.esm.config)
        network.esm.embeddings.position_ids = torch.arange(MAX_RESIDUES + 2).expand((1, -1))
    return network.eval()
