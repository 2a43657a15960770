"""Chunk in, embeddings out: the one function that both modes call, and its result files.

The batch plan is a pure function of the chunk and the settings, and a micro-batch never crosses a
chunk. So on one type of device the same chunk always gives the same bytes; on a CPU, with the same
number of threads (matrix products add up in an order that depends on it: seen with 3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from virnuc_rules.chunkfiles import Chunk
from virnuc_rules.errors import ChunkError, ModelError
from virnuc_rules.models import esm2
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2
from virnuc_rules.results import Embeddings
from virnuc_rules.tasks import Settings


@dataclass(frozen=True, slots=True)
class Networks:
    """The resident models of a worker, on its device."""

    tokenizer: Tokenizer
    dnabert_s: Dnabert
    esm2: Esm2
    device: torch.device

    @property
    def pad(self) -> int:
        """Return the id of [PAD]: 3 in the real tokenizer, though its config.json says 0."""
        pad = self.tokenizer.token_to_id("[PAD]")
        if pad is None:
            raise ModelError("the tokenizer has no [PAD] token; make the bundle again")
        return int(pad)


def micro_batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of similar length: at most `batch_tokens` tokens each, padding included.

    Longest first, equal lengths in input order; a row above the budget is alone.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # The first row of a batch is its longest, and decides the width of all.
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def embed_chunk(
    chunk: Chunk, networks: Networks, settings: Settings, check: Callable[[], None] = lambda: None
) -> Embeddings:
    """Embed the open frames of a chunk with both models.

    `check` is called before each micro-batch and may raise to interrupt. Raises ChunkError where a
    sequence cannot be embedded or an embedding is not finite; it names the rows.
    """
    notes: dict[str, int] = {}
    encoded = networks.tokenizer.encode_batch_fast(chunk.nucleotide)
    dna_tokens = [encoding.ids for encoding in encoded]
    residues = [esm2.tokenize(protein) for protein in chunk.protein]
    run = _Run(networks.device, settings, check, notes)
    dnabert_s = run.embed(dna_tokens, networks.dnabert_s, networks.pad, skip=0)
    proteins = run.embed(residues, networks.esm2, esm2.PAD, skip=1)
    for name, rows in (("DNABERT-S", dnabert_s), ("ESM-2", proteins)):
        bad = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
        if bad:
            names = ", ".join(chunk.ids[row] for row in bad[:5])
            raise ChunkError(f"{name} gave non-finite embeddings for {len(bad)} rows: {names}")
    tokens = sum(map(len, dna_tokens)) + sum(map(len, residues))
    return Embeddings(chunk.ids, dnabert_s, proteins, tokens, notes)


def self_check(networks: Networks, settings: Settings) -> Tensor:
    """Embed a tiny fixed chunk; float32 [1, both widths]. On a sound device: always the same."""
    chunk = Chunk(
        ["self_check"], ["ATGGCTAAAGGTTTCGATCCGTAA" * 4], ["MAKGFDPQWERTYHILCNVS" * 2], None
    )
    result = embed_chunk(chunk, networks, settings)
    return torch.cat([result.dnabert_s, result.esm2], dim=1)


@dataclass(frozen=True, slots=True)
class _Run:
    device: torch.device
    settings: Settings
    check: Callable[[], None]
    notes: dict[str, int]

    @torch.inference_mode()
    def embed(self, tokens: list[list[int]], network: nn.Module, pad: int, skip: int) -> Tensor:
        """Return the mean hidden state of each row, float32 [R, width].

        The first and last `skip` tokens do not count: 1 leaves out <cls> and <eos>.
        """
        means: Tensor | None = None
        for rows in micro_batches([len(row) for row in tokens], self.settings.batch_tokens):
            self.check()
            part = self.means([tokens[row] for row in rows], network, pad, skip).float().cpu()
            if means is None:
                means = torch.empty(len(tokens), part.shape[1])
            means[torch.tensor(rows)] = part
        if means is None:
            raise ChunkError("the chunk has no open frames; such chunks are never written")
        return means

    def means(self, tokens: list[list[int]], network: nn.Module, pad: int, skip: int) -> Tensor:
        """Run one micro-batch; where memory does not suffice, its halves."""
        try:
            return _means(tokens, network, pad, skip, self.device)
        except torch.OutOfMemoryError:
            if len(tokens) == 1:
                raise
        # Outside the handler: its traceback would keep the failed attempt's tensors alive.
        self.notes["out_of_memory"] = self.notes.get("out_of_memory", 0) + 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(tokens) // 2
        parts = (self.means(part, network, pad, skip) for part in (tokens[:half], tokens[half:]))
        return torch.cat(list(parts))


def _means(
    tokens: list[list[int]], network: nn.Module, pad: int, skip: int, device: torch.device
) -> Tensor:
    lengths = torch.tensor([len(row) for row in tokens])
    ids = torch.full((len(tokens), int(lengths.max())), pad)
    for row, values in enumerate(tokens):
        ids[row, : len(values)] = torch.tensor(values)
    place = torch.arange(ids.shape[1])
    present = place < lengths[:, None]
    counted = (place >= skip) & (place < lengths[:, None] - skip)
    hidden: Tensor = network(ids.to(device), present.to(device)).float()
    weights = counted.to(device)[:, :, None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
