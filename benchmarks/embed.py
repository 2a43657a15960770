"""Speed of embedding beside VirNucPro's way, and beside the fastest matrix product.

    python benchmarks/embed.py [--esm2 150M] [--sequences 48] [--threads 2] [--tokenizer FILE]

One process, the same random weights of the real shapes, real open frames of 500 bp windows:
- VirNucPro: one sequence after the other through DNABERT-S, fair-esm in batches of 2,048
  tokens, both in fp32 with PyTorch's own operations;
- VirNuc: `embed_chunk`, in each precision that the device has.
Prints sequences per second, ratios, the largest speed of a matrix product on this machine (in the
shapes of the networks), the fraction of it that each reaches, and a profile. fair-esm must be
installed.
"""

import argparse
import platform
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import esm
import torch
import torch.nn.functional as F
from measure import Stopwatch, products, timed
from safetensors.torch import save_file
from shapes import DNABERT_S, ESM2

from virnuc_rules.bundles.checkpoints import read_esm2
from virnuc_rules.chunking.format import Chunk, read_chunk
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Embedding
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.models import card, layers
from virnuc_rules.models.bundle import Bundle, write_card
from virnuc_rules.models.device import DTYPES, choose_device
from virnuc_rules.models.dnabert import Dnabert

Device = torch.device
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
REPO = Path(__file__).parents[1]
LAKE = REPO / "demo/data/lake.fa.gz"
TOKENIZER = REPO / "tests/data/bundle" / card.TOKENIZER


def fair_esm(size: str) -> Any:
    """fair-esm's network with random weights, rounded to float16 as in its files."""
    shape = ESM2[size]
    torch.manual_seed(1)
    network = esm.model.esm2.ESM2(
        num_layers=shape.num_hidden_layers,
        embed_dim=shape.hidden_size,
        attention_heads=shape.num_attention_heads,
    )
    return network.half().float().eval().requires_grad_(False)


def make_bundle(folder: Path, fair: Any, tokenizer: Path) -> Bundle:
    """A bundle with the weights of fair-esm's network `fair`, converted from its file format."""
    shape = Namespace(
        encoder_layers=fair.num_layers,
        encoder_embed_dim=fair.embed_dim,
        encoder_attention_heads=fair.attention_heads,
        token_dropout=True,
    )
    tensors = {
        f"encoder.sentence_encoder.{key}": tensor.half()
        for key, tensor in fair.state_dict().items()
        if not key.startswith(("contact_head", "lm_head"))
    }
    checkpoint = folder / "esm2.pt"
    torch.save({"cfg": {"model": shape}, "model": tensors}, checkpoint)
    config, tensors = read_esm2(checkpoint)
    bundle = folder / "bundle"
    bundle.mkdir()
    save_file({key: tensor.float() for key, tensor in tensors.items()}, bundle / card.ESM2)
    torch.manual_seed(2)
    save_file(Dnabert(DNABERT_S).state_dict(), bundle / card.DNABERT_S)
    (bundle / card.TOKENIZER).write_bytes(tokenizer.read_bytes())
    write_card(
        bundle, name="benchmark", description="random", demo=True, window=500,
        dnabert_s=DNABERT_S, esm2=config, classifier=None,
    )  # fmt: skip
    return Bundle(bundle)


def open_frames(folder: Path, rows: int) -> Chunk:
    """The first open frames of the demo that span a window of 500 bp."""
    out = folder / "chunks"
    write_chunks([LAKE], out, Chunking(window=500, chunk_size=100_000), sample="lake")
    (entry,) = read_manifest(ChunkFolder(out)).chunks
    chunk = read_chunk(out / entry.file, entry)
    whole = [row for row, protein in enumerate(chunk.protein) if len(protein) >= 165][:rows]
    parts = (
        [column[row] for row in whole] for column in (chunk.ids, chunk.nucleotide, chunk.protein)
    )
    return Chunk(*parts, chunk.table.take(whole))


def limit(multiply: Product, widths: tuple[int, ...], dtype: torch.dtype, device: Device) -> float:
    """The fastest matrix product of the networks' shapes, operations per second."""
    best = 0.0
    for width in widths:
        x = torch.randn(4096, width, device=device).to(dtype)
        for outputs in (width, 4 * width):
            weight = torch.randn(outputs, width, device=device).to(dtype)
            multiply(x, weight)
            seconds = min(timed(device, lambda w=weight, x=x: multiply(x, w)) for _ in range(20))
            best = max(best, 2 * x.numel() * outputs / seconds)
    return best


@torch.inference_mode()
def virnucpro(
    chunk: Chunk, dnabert_s: Any, fair: Any, networks: Networks
) -> tuple[float, float, torch.Tensor]:
    """Seconds of VirNucPro's way with each network, and its ESM-2 embeddings."""
    device = networks.device
    seconds_dna = timed(device, lambda: [
        dnabert_s(torch.from_numpy(ids)[None].to(device)).mean(1).cpu()
        for ids in networks.tokenize_dna(chunk.nucleotide)
    ])  # fmt: skip
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    data = esm.FastaBatchedDataset(chunk.ids, chunk.protein)
    convert = alphabet.get_batch_converter(truncation_seq_length=1024)
    means: dict[str, torch.Tensor] = {}

    def embed() -> None:
        for batch in data.get_batch_indices(2048, extra_toks_per_seq=1):
            labels, proteins, ids = convert([data[row] for row in batch])
            result = fair(ids.to(device), repr_layers=[fair.num_layers])
            for label, protein, states in zip(
                labels, proteins, result["representations"][fair.num_layers], strict=True
            ):
                means[label] = states[1 : len(protein) + 1].mean(0).cpu()

    return seconds_dna, timed(device, embed), torch.stack([means[name] for name in chunk.ids])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--esm2", choices=ESM2, default="150M")
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{name}, {options.threads} threads, torch {torch.__version__}, ESM-2 {options.esm2}")
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options, device)


def compare(folder: Path, options: argparse.Namespace, device: torch.device) -> None:
    chunk = open_frames(folder, options.sequences)
    rows = len(chunk.ids)
    fair = fair_esm(options.esm2)
    bundle = make_bundle(folder, fair, options.tokenizer)
    shape = bundle.card.esm2
    networks = Networks(bundle.open_tokenizer(), fair, fair, device)
    lengths = [len(ids) for ids in networks.tokenize_dna(chunk.nucleotide)]
    residues = [len(protein) + 2 for protein in chunk.protein]
    work = {
        "dnabert_s": products(lengths, 768, 3 * 3072, 12),
        "esm2": products(
            residues, shape.hidden_size, 8 * shape.hidden_size, shape.num_hidden_layers
        ),
    }
    print(f"{rows} open frames: {sum(lengths)} tokens of DNABERT-S, {sum(residues)} of ESM-2")
    print(f"matrix products: {sum(work.values()) / rows / 1e9:.1f} GFLOP a sequence")

    plain = layers._ONEDNN
    layers._ONEDNN = False  # DNABERT-S as its authors run it: PyTorch's own operations
    dnabert_s = bundle.open_dnabert_s(device, torch.float32)
    runs = [virnucpro(chunk, dnabert_s, fair.to(device), networks) for _ in range(options.repeats)]
    layers._ONEDNN = plain
    expected = runs[0][2]
    base = {
        "dnabert_s": statistics.median(run[0] for run in runs),
        "esm2": statistics.median(run[1] for run in runs),
    }
    del fair, networks, dnabert_s
    print(f"\n{'':22}  DNABERT-S      ESM-2       both   sequences/s (ratio to VirNucPro)")
    report("VirNucPro, fp32", rows, base, sum(base.values()), base)
    for precision in DTYPES:
        if device.type == "cpu" and precision in ("tf32", "fp16"):
            continue
        networks = Networks.open(bundle, device, precision)
        settings = Embedding(precision=precision, batch_tokens=options.batch_tokens)
        embed_chunk(chunk, networks, settings)
        watch = Stopwatch(device, dnabert_s=networks.dnabert_s, esm2=networks.esm2)
        totals, parts = [], []
        for _ in range(options.repeats):
            watch.seconds.clear()
            start = time.perf_counter()
            result = embed_chunk(chunk, networks, settings)  # it waits for the device
            totals.append(time.perf_counter() - start)
            parts.append(dict(watch.seconds))
        seconds = {key: statistics.median(part[key] for part in parts) for key in base}
        total = statistics.median(totals)
        report(f"VirNuc, {precision}", rows, seconds, total, base)
        widths = (768, shape.hidden_size)
        for maker, multiply in (("torch's", F.linear), ("oneDNN's", layers.product)):
            best = limit(multiply, widths, DTYPES[precision], device)
            fractions = ", ".join(f"{key} {work[key] / seconds[key] / best:.2f}" for key in base)
            both = sum(work.values()) / total / best
            print(f"{'':22}  of {maker} fastest product, {best / 1e9:.0f} GFLOP/s: ", end="")
            print(f"{fractions}, both {both:.2f}")
        padding = result.padding / (result.padding + result.tokens)
        difference = (result.esm2 - expected).abs().max()
        print(f"{'':22}  padding {padding:.2%}, ESM-2 differs from fair-esm by {difference:.1e}")
        print_profile(networks, chunk, settings)
        del networks


def print_profile(networks: Networks, chunk: Chunk, settings: Embedding) -> None:
    """The operations on the CPU that take most of the time of one more chunk."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        embed_chunk(chunk, networks, settings)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    parts = (f"{e.key} {e.self_cpu_time_total / total:.1%}" for e in events[:8])
    print(f"{'':22}  profile: {', '.join(parts)}")


def report(
    name: str, rows: int, seconds: dict[str, float], total: float, base: dict[str, float]
) -> None:
    cells = [f"{rows / s:6.2f} {base[key] / s:4.2f}x" for key, s in seconds.items()]
    cells.append(f"{rows / total:6.2f} {sum(base.values()) / total:4.2f}x")
    print(f"{name:22}" + "".join(cells))


if __name__ == "__main__":
    main()
