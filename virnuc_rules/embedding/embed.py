"""Computing the embeddings of a chunk.

The micro-batches depend only on the chunk and the settings, and belong to one chunk. So on one type
of device the same chunk always gives the same bytes; on a CPU, with the same number of threads (the
order of additions in matrix products depends on it).
"""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from virnuc_rules.chunking.format import Chunk
from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embedding_file import Computation, Embeddings
from virnuc_rules.errors import ChunkError, ModelError
from virnuc_rules.models import esm2
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.compiled import compile_layers
from virnuc_rules.models.device import (
    DTYPES,
    clear_caches,
    is_out_of_memory,
    matmul_precision,
    reuse_memory,
)

Model = Literal["dnabert_s", "esm2"]
Ids = NDArray[np.int64]  # token ids of one sequence
Timed = Callable[
    [str, Callable[[], Any]], Any
]  # calls the function that loads the network of that name

_MAX_PADDING = 0.02  # fraction of a micro-batch's tokens
_NAMES = {"dnabert_s": "DNABERT-S", "esm2": "ESM-2"}
_EXACT = ("fp32", "tf32")  # the range of fp32: not finite here means not finite in fp32


@dataclass(slots=True)
class Networks:
    """The networks of a worker on its device."""

    tokenizer: Tokenizer
    dnabert_s: nn.Module
    esm2: nn.Module
    device: torch.device
    precision: str = "fp32"  # of the matrix products
    compiled: bool = False  # the layers of both
    open_fp32: Callable[[Model], nn.Module] | None = None
    _fp32: dict[Model, nn.Module] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        device: torch.device,
        precision: str,
        timed: Timed = lambda _, load: load(),
    ) -> Self:
        """Load both networks, compile their layers where that is possible (`compile_layers`).

        The device must support `precision` (see `choose_precision`). Networks that are opened later
        in fp32 are not compiled.
        """
        if device.type == "cpu":
            reuse_memory()

        def load(model: Model, name: str, dtype: torch.dtype) -> Any:
            opened = bundle.open_dnabert_s if model == "dnabert_s" else bundle.open_esm2
            return timed(name, lambda: opened(device, dtype))

        tokenizer = bundle.open_tokenizer()
        dnabert_s = load("dnabert_s", "dnabert_s", DTYPES[precision])
        proteins = load("esm2", "esm2", DTYPES[precision])
        return cls(
            tokenizer,
            dnabert_s,
            proteins,
            device,
            precision,
            compile_layers([proteins, dnabert_s], device, precision),
            lambda model: load(model, f"{model}_fp32", torch.float32),
        )

    @property
    def pad(self) -> int:
        """The id of [PAD]: 3 in the published tokenizer, although its config.json says 0."""
        pad = self.tokenizer.token_to_id("[PAD]")
        if pad is None:
            raise ModelError("the tokenizer has no [PAD] token; make the bundle again")
        return int(pad)

    def tokenize_dna(self, sequences: list[str]) -> list[Ids]:
        """Return [CLS], the tokens and [SEP] of each nucleotide sequence."""
        encoded = self.tokenizer.encode_batch_fast(sequences)
        return [np.array(encoding.ids, np.int64) for encoding in encoded]

    def in_fp32(self, model: Model) -> nn.Module | None:
        """Return a network in fp32, loaded at the first call; None if the precision is exact."""
        if self.precision in _EXACT or self.open_fp32 is None:
            return None
        if model not in self._fp32:
            self._fp32[model] = self.open_fp32(model)
        return self._fp32[model]


def micro_batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of similar length: at most `batch_tokens` tokens each, padding included.

    At most 2 % of a micro-batch is padding. Longest rows first, equal lengths in input order; a row
    above the limit is a micro-batch of its own.
    """
    batches: list[list[int]] = []
    width = tokens = 0  # of the last batch; its first row is the longest and sets the width
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        tokens += lengths[row]
        slots = (len(batches[-1]) + 1) * width if batches else 0
        if not batches or slots > batch_tokens or slots - tokens > _MAX_PADDING * slots:
            batches.append([])
            width = tokens = lengths[row]
        batches[-1].append(row)
    return batches


def embed_chunk(
    chunk: Chunk, networks: Networks, settings: Embedding, check: Callable[[], None] = lambda: None
) -> Embeddings:
    """Embed the open frames of a chunk with both models.

    `check` is called before each micro-batch and may raise to interrupt. Rows that are not finite
    in a lower precision are computed again in fp32. Raises ChunkError with the ids of rows that are
    not finite in fp32 either, and for a protein with a letter that is no amino acid.
    """
    run = _Run(networks, settings, check)
    with ThreadPoolExecutor(1) as background:
        dna = background.submit(networks.tokenize_dna, chunk.nucleotide)  # during ESM-2
        residues = esm2.tokenize_all(chunk.protein)
        means = run.begin("esm2", residues)
    bases = dna.result()
    more = run.begin("dnabert_s", bases)  # before the first results are waited for
    proteins = run.end("esm2", residues, means, chunk)
    dnabert_s = run.end("dnabert_s", bases, more, chunk)
    return Embeddings(
        chunk.ids,
        dnabert_s,
        proteins,
        Computation(
            precision=networks.precision,
            device=networks.device.type,
            compiled=networks.compiled,
        ),
        run.tokens,
        run.padding,
        dict(run.notes),
    )


def self_check(networks: Networks, settings: Embedding) -> Tensor:
    """Embed a tiny fixed chunk; float32 [1, both widths], equal in all calls on a sound device."""
    chunk = Chunk(
        ["self_check"], ["ATGGCTAAAGGTTTCGATCCGTAA" * 4], ["MAKGFDPQWERTYHILCNVS" * 2], None
    )
    result = embed_chunk(chunk, networks, settings)
    return torch.cat([result.dnabert_s, result.esm2], dim=1)


class _Run:
    """Embeds one chunk with both networks, and counts tokens, padding and notes."""

    def __init__(self, networks: Networks, settings: Embedding, check: Callable[[], None]) -> None:
        self.networks, self.settings, self.check = networks, settings, check
        self.tokens = self.padding = 0
        self.notes: Counter[str] = Counter()

    @torch.inference_mode()
    def begin(self, model: Model, tokens: list[Ids]) -> Tensor:
        """Return the mean hidden state of each row, float32 [R, width] on the device.

        On CUDA it returns before they are computed. The device's memory does not grow with what
        waits: micro-batches use the same memory, one after the other.
        """
        network = self.networks.dnabert_s if model == "dnabert_s" else self.networks.esm2
        return self._rows(model, tokens, network)

    @torch.inference_mode()
    def end(self, model: Model, tokens: list[Ids], means: Tensor, chunk: Chunk) -> Tensor:
        """Wait for the means of `begin`; return them on the CPU, all finite."""
        rows = means.cpu()
        bad = _not_finite(rows)
        if bad and (network_fp32 := self.networks.in_fp32(model)):
            self.notes["recomputed_in_fp32"] += len(bad)
            rows[bad] = self._rows(model, [tokens[row] for row in bad], network_fp32).cpu()
            bad = _not_finite(rows)
        if bad:
            names = ", ".join(chunk.ids[row] for row in bad[:5])
            raise ChunkError(
                f"{_NAMES[model]} gave non-finite embeddings for {len(bad)} rows: {names}"
            )
        return rows

    def _rows(self, model: Model, tokens: list[Ids], network: nn.Module) -> Tensor:
        """Embed all rows by micro-batches; nothing waits for the device."""
        # skip: tokens at each end that are not in the mean: <cls> and <eos> of ESM-2.
        pad, skip = (self.networks.pad, 0) if model == "dnabert_s" else (esm2.PAD, 1)
        batches = micro_batches([len(row) for row in tokens], self.settings.batch_tokens)
        if not batches:
            raise ChunkError("the chunk has no open frames; such chunks are never written")
        order = np.concatenate(batches)  # longest first
        lengths = np.array([len(tokens[row]) for row in order])
        ids = np.concatenate([tokens[row] for row in order])
        arrays = (ids, np.cumsum(lengths) - lengths, lengths, np.argsort(order))
        moved, first, known, back = (_moved(array, self.networks.device) for array in arrays)
        queued = _Queued(moved, first, known, lengths, pad, skip)
        parts: list[Tensor] = []
        start = 0
        for batch in batches:
            self.check()
            parts.append(self._means(queued, slice(start, start + len(batch)), network))
            self.padding += len(batch) * int(lengths[start])
            start += len(batch)
        self.tokens += len(ids)
        self.padding -= len(ids)
        return torch.cat(parts)[back]

    def _means(self, queued: "_Queued", rows: slice, network: nn.Module) -> Tensor:
        """Embed one micro-batch; if memory is not sufficient, its two halves."""
        try:
            with matmul_precision(self.networks.precision):
                return _means(queued, rows, network)
        except RuntimeError as error:
            if rows.stop - rows.start == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler: its traceback would keep the failed attempt's tensors alive.
        self.notes["out_of_memory"] += 1
        clear_caches(self.networks.device)
        half = (rows.start + rows.stop) // 2
        halves = (slice(rows.start, half), slice(half, rows.stop))
        return torch.cat([self._means(queued, part, network) for part in halves])


def _not_finite(rows: Tensor) -> list[int]:
    return (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()


def _moved(array: Ids, device: torch.device) -> Tensor:
    """Copy numbers to a device without waiting for what it computes."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class _Queued(NamedTuple):
    """The tokens of a chunk on the device, and where those of each row are, longest rows first."""

    ids: Tensor
    first: Tensor  # [R], the place of a row's first token
    lengths: Tensor  # [R]
    known: Ids  # the same on the CPU
    pad: int
    skip: int  # tokens at each end of a row that are not in its mean


def _means(queued: _Queued, rows: slice, network: nn.Module) -> Tensor:
    """Return float32 [B, width] on the device, without waiting for its computation."""
    first, lengths, known = queued.first[rows, None], queued.lengths[rows, None], queued.known[rows]
    position = torch.arange(int(known[0]), device=first.device)
    present = position < lengths
    ids = queued.ids[(first + position).clamp(max=len(queued.ids) - 1)]
    is_padded = known[0] != known[-1]
    if is_padded:
        ids = torch.where(present, ids, queued.pad)
    hidden: Tensor = network(ids, present if is_padded else None)
    weights = ((position >= queued.skip) & (position < lengths - queued.skip))[:, :, None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
