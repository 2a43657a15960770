"""What `gpu.py` measures with the networks of one size: a function a row, each returns numbers."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import fp8
import original
import torch
import torch.nn.functional as F
from gpu_start import hashes
from measure import Stopwatch, products, timed
from random_networks import RandomBundle

from virnuc_rules.chunking.format import Chunk
from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.models import compiled
from virnuc_rules.models.device import DTYPES, clear_caches, matmul_precision

SETTINGS = Embedding()
_REPEATS = 10  # of a large product
# Rows, tokens, padding: other sizes than those of the warm-up.
_SHAPES = [(2, 34, False), (9, 131, True), (48, 168, False), (31, 170, True), (7, 1026, False)]


@dataclass
class Size:
    """Random networks of one size, and what rows are compared with."""

    bundle: RandomBundle
    device: torch.device
    chunk: Chunk
    half: str  # the precision that a worker takes by itself
    limits: dict[str, float]  # operations a second of a large product
    exact: Embeddings | None = None  # of the first frames, by VirNuc in fp32
    esm2_seconds: dict[str, float] | None = None  # a frame, each network, compiled

    def first(self, rows: int) -> Chunk:
        """The first frames of the chunk, at most all."""
        part = slice(0, max(8, min(rows, len(self.chunk.ids))))
        return Chunk(
            self.chunk.ids[part], self.chunk.nucleotide[part], self.chunk.protein[part], None
        )


@contextmanager
def opened(size: Size, precision: str, compile_it: bool) -> Iterator[Networks]:
    """The networks, as a worker opens them; their memory is free again after the block."""
    clear_caches(size.device)
    if size.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(size.device)
    with patch.dict(os.environ, {compiled.VARIABLE: str(int(compile_it))}):
        networks = Networks.open(size.bundle, size.device, precision)
    if networks.compiled != compile_it:
        raise RuntimeError("the layers were not compiled; the log says why")
    yield networks


def row(
    size: Size, precision: str, rows: int, compile_it: bool, change: Callable[[Networks], None]
) -> dict[str, Any]:
    """Speed of `embed_chunk`, and of each network in it."""
    chunk = size.first(rows)
    began = time.perf_counter()
    with opened(size, precision, compile_it) as networks:
        change(networks)
        seconds_to_open = time.perf_counter() - began
        first = embed_chunk(size.first(rows // 8), networks, SETTINGS)
        start = time.perf_counter()
        result = embed_chunk(chunk, networks, SETTINGS)
        seconds = time.perf_counter() - start
        watch = Stopwatch(size.device, dnabert_s=networks.dnabert_s, esm2=networks.esm2)
        embed_chunk(chunk, networks, SETTINGS)
        found = speeds(size, precision, chunk, seconds, dict(watch.seconds), result)
        found["seconds_to_open"] = seconds_to_open
        found["peak_bytes"] = peak(size.device)
        if not torch.isfinite(first.esm2).all():
            raise RuntimeError("numbers are not finite")
        if compile_it:
            found["without_a_graph"] = without_a_graph(networks)
            found["sha256"] = hashes(networks, [1, 0, 2], rows=64)
    return found


def speeds(
    size: Size, precision: str, chunk: Chunk, total: float, parts: dict[str, float], result: Any
) -> dict[str, Any]:
    """Frames, tokens and operations a second, and the distance to fp32."""
    rows, shape = len(chunk.ids), size.bundle.card.esm2
    if size.exact is None:
        size.exact = result
    residues = [len(protein) + 2 for protein in chunk.protein]
    wide = shape.hidden_size, 2 * shape.intermediate_size
    operations = products(residues, *wide, shape.num_hidden_layers) / parts["esm2"]
    limit = size.limits.get(precision)
    return {
        "frames_per_second": rows / total,
        "tokens_per_second": sum(residues) / total,
        "esm2_frames_per_second": rows / parts["esm2"],
        "dnabert_s_frames_per_second": rows / parts["dnabert_s"],
        "dnabert_s_share": parts["dnabert_s"] / (parts["dnabert_s"] + parts["esm2"]),
        "esm2_tflops": operations / 1e12,
        "share_of_product": operations / limit if limit else None,
        "cosine_esm2": cosine(result.esm2, size.exact.esm2),
        "cosine_dnabert_s": cosine(result.dnabert_s, size.exact.dnabert_s),
    }


def cosine(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The smallest over the rows that both have."""
    rows = min(len(found), len(exact))
    return float(F.cosine_similarity(found[:rows].double(), exact[:rows].double()).min())


def without_a_graph(networks: Networks) -> list[str]:
    """Shapes of micro-batches that would be computed by layers that are not compiled."""
    missing = []
    for network in (networks.esm2, networks.dnabert_s):
        for rows, length, padded in _SHAPES:
            shape = compiled._input(rows, length, padded, networks.device)
            with torch.inference_mode(), matmul_precision(networks.precision):
                torch.compiler.set_stance("fail_on_recompile")
                try:
                    network(*shape)
                except Exception as error:
                    first = str(error).splitlines()[0]
                    missing.append(f"{type(network).__name__} {rows} x {length}: {first}")
                finally:
                    torch.compiler.set_stance("eager_on_recompile")
    return missing


def peak(device: torch.device) -> int | None:
    """The most memory that tensors had at a time, weights included."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def the_original(size: Size, rows: int) -> dict[str, Any]:
    """VirNucPro's way: fair-esm in batches of 2,048 tokens, DNABERT-S one by one, in fp32."""
    chunk, heads = size.first(rows), size.bundle.card.esm2.num_attention_heads
    with opened(size, "fp32", False) as networks, torch.inference_mode():
        tokens = networks.tokenize_dna(chunk.nucleotide)

        def one_by_one() -> torch.Tensor:
            return torch.stack([
                networks.dnabert_s(torch.from_numpy(ids)[None].to(size.device)).mean(1)[0].cpu()
                for ids in tokens
            ])  # fmt: skip

        original.embed(size.first(8), networks.esm2, heads)
        results: dict[str, torch.Tensor] = {}
        parts = {
            "esm2": timed(size.device, lambda: results.update(
                esm2=original.embed(chunk, networks.esm2, heads))),
            "dnabert_s": timed(size.device, lambda: results.update(dnabert_s=one_by_one())),
        }  # fmt: skip
        how = embed_chunk(size.first(8), networks, SETTINGS).computed
        result = Embeddings(chunk.ids, results["dnabert_s"], results["esm2"], how)
        return speeds(size, "fp32", chunk, sum(parts.values()), parts, result)


def in_fp8(size: Size, rows: int) -> dict[str, Any]:
    """ESM-2's products in 8 bits; on a CPU its layers are not compiled."""

    def change(networks: Networks) -> None:
        torch.compiler.set_stance("default")
        fp8.to_fp8(networks.esm2, compile_it=size.device.type == "cuda")

    try:
        return row(size, size.half, rows, False, change)
    finally:
        torch.compiler.set_stance("eager_on_recompile")


def not_pinned(size: Size, rows: int) -> dict[str, Any]:
    """Compiled with inductor's own choices: what `_PINNED` costs."""
    with patch.dict(compiled._PINNED, clear=True):
        found = row(size, size.half, rows, True, lambda _: None)
    return {key: value for key, value in found.items() if key != "sha256"}


def products_alone(size: Size) -> dict[str, Any]:
    """The products of the layers of ESM-2 with weights, one after the other, and nothing else."""
    shape = size.bundle.card.esm2
    width, inner = shape.hidden_size, shape.intermediate_size
    dtype, device = DTYPES[size.half], size.device
    rows = SETTINGS.batch_tokens // (len(size.chunk.protein[0]) + 2)
    tokens = rows * (len(size.chunk.protein[0]) + 2)
    sizes = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    x = {n: torch.randn(tokens, n, device=device, dtype=dtype) for n in (width, inner)}
    weights = [
        (n, torch.randn(m, n, device=device, dtype=dtype) / n**0.5)
        for _ in range(shape.num_hidden_layers)
        for n, m in sizes
    ]

    def multiply() -> None:
        for n, weight in weights:
            F.linear(x[n], weight)

    multiply()
    seconds = min(timed(device, multiply) for _ in range(5))
    operations = 2 * tokens * sum(weight.numel() for _, weight in weights) / seconds
    return {
        "tokens_per_second": tokens / seconds,
        "esm2_tflops": operations / 1e12,
        "share_of_product": operations / limit if (limit := size.limits.get(size.half)) else None,
    }


def large_products(device: torch.device, n: int, kinds: list[str]) -> dict[str, float]:
    """Operations a second of products of two n x n matrices, by the kind of their numbers."""
    found = {}
    for kind in kinds:
        dtype = DTYPES.get(kind, torch.float32)
        x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        if kind == "fp8":
            (x, of_x), (y, of_y) = fp8.rounded(x), fp8.rounded(y)
            work = lambda x=x, y=y, a=of_x, b=of_y: torch._scaled_mm(  # noqa: E731
                x, y.t(), scale_a=a, scale_b=b.t(), out_dtype=torch.bfloat16
            )
        else:
            work = lambda x=x, y=y: F.linear(x, y)  # noqa: E731
        with matmul_precision(kind):
            work()
            seconds = min(
                timed(device, lambda w=work: [w() for _ in range(_REPEATS)]) for _ in range(3)
            )
        found[kind] = 2 * n**3 * _REPEATS / seconds
    return found
