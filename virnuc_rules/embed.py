"""Chunk in, embeddings out: the one function that both modes call, and its result files.

The batch plan is a pure function of the chunk and the settings, and a micro-batch never crosses a
chunk. So on one type of device the same chunk always gives the same bytes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from virnuc_rules.chunkfiles import Chunk
from virnuc_rules.errors import ChunkError, ModelError, ResultError
from virnuc_rules.models import esm2
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2
from virnuc_rules.tasks import SCHEMA, Settings

_METADATA = "virnuc"  # one JSON text: safetensors writes several keys in random order


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


@dataclass(frozen=True, slots=True)
class Embeddings:
    """R embeddings with the ids of their open frames; float32 on the CPU."""

    ids: list[str]
    dnabert_s: Tensor  # [R, width of DNABERT-S], mean over all tokens with [CLS] and [SEP]
    esm2: Tensor  # [R, width of ESM-2], mean over the residues only
    tokens: int = 0  # of both models, without padding
    notes: dict[str, int] = field(default_factory=dict)  # what was out of the ordinary


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


def write_result(path: Path, key: str, settings: Settings, result: Embeddings) -> None:
    """Write a result file: both matrices, and key, ids, hashes and notes as metadata."""
    tensors = {"dnabert_s": result.dnabert_s.contiguous(), "esm2": result.esm2.contiguous()}
    metadata = {
        "schema": SCHEMA,
        "key": key,
        "ids": result.ids,
        "sha256": {name: _tensor_hash(tensor) for name, tensor in tensors.items()},
        "settings": settings.model_dump(),
        "notes": result.notes,
    }
    save_file(tensors, path, metadata={_METADATA: json.dumps(metadata, sort_keys=True)})
    path.chmod(0o644)  # safetensors makes it 0600, but results are for the group


def read_result(path: Path, key: str, ids: list[str]) -> Embeddings:
    """Read a result file and check that it is whole and belongs to the rows `ids`.

    Raises ResultError where it is missing, truncated, changed, or of something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in ("dnabert_s", "esm2")}
    except FileNotFoundError:
        raise ResultError(f"{path}: no such result; run again to embed the chunk") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ResultError(f"{path}: the result is damaged ({error})") from None
    if metadata.get("key") != key or metadata.get("ids") != ids:
        raise ResultError(f"{path}: the result belongs to other open frames")
    for name, tensor in tensors.items():
        if len(tensor) != len(ids) or metadata["sha256"].get(name) != _tensor_hash(tensor):
            raise ResultError(f"{path}: the result is damaged (sha256 of {name} differs)")
    return Embeddings(ids, tensors["dnabert_s"], tensors["esm2"])


def _tensor_hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().data).hexdigest()
