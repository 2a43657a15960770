"""Networks of random weights in the published shapes, made on the device, and frames for them."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import torch
from Bio.Data import CodonTable
from shapes import DNABERT_S, ESM2, TINY
from torch import nn

from virnuc_rules.chunking.format import Chunk
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.models import card
from virnuc_rules.models.bundle import Bundle, write_card
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2, rotary_frequencies
from virnuc_rules.models.layers import Linear
from virnuc_rules.models.weights import skeleton
from virnuc_rules.vocabulary import STANDARD_CODE

REPO = Path(__file__).parents[1]
TOKENIZER = REPO / "tests/data/bundle" / card.TOKENIZER
WINDOW = 500
RESIDUES = WINDOW // 3
SAMPLE = "random"
_STOPS = {"TAA", "TAG", "TGA"}


class RandomBundle(Bundle):
    """A bundle whose networks are drawn on the device; its files of weights are empty."""

    def open_dnabert_s(self, device: torch.device, dtype: torch.dtype) -> Dnabert:
        return random_network(Dnabert, self.card.dnabert_s, device, dtype)

    def open_esm2(self, device: torch.device, dtype: torch.dtype) -> Esm2:
        return random_network(Esm2, self.card.esm2, device, dtype)


def make_bundle(folder: Path, size: str) -> RandomBundle:
    """A bundle with ESM-2 of some size, "tiny" with a DNABERT-S that is small too."""
    folder.mkdir(parents=True)
    for name in card.EMBEDDING_FILES:
        (folder / name).touch()
    (folder / card.TOKENIZER).write_bytes(TOKENIZER.read_bytes())
    write_card(
        folder, name=size, description="random", demo=True, window=WINDOW, classifier=None,
        dnabert_s=TINY if size == "tiny" else DNABERT_S, esm2=ESM2[size],
    )  # fmt: skip
    return RandomBundle(folder)


def random_network(kind: Any, shape: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A network as `load_network` makes it; each layer keeps the size of numbers, about 1."""
    network, generator = skeleton(kind, shape), torch.Generator(device).manual_seed(1)
    for module in network.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            values = torch.randn(tensor.shape, generator=generator, device=device)
            if tensor.ndim == 2:
                values /= math.sqrt(tensor.shape[1])
            else:
                values = 0.1 * values + (name == "weight")  # of norms: about 1
            values = values.half().to(dtype if isinstance(module, Linear) else torch.float32)
            setattr(module, name, nn.Parameter(values, requires_grad=False))
    if kind is Esm2:
        head_size = shape.hidden_size // shape.num_attention_heads
        network.encoder.inv_freq = rotary_frequencies(head_size).half().float().to(device)
    for module in list(network.modules()):
        getattr(module, "fuse", lambda: None)()
    return network.requires_grad_(False).eval()


def frames(rows: int, seed: int, cuts: tuple[int, ...] = (0,)) -> Chunk:
    """Open frames of a window each without a pattern, shortened by one of `cuts` codons."""
    draw = random.Random(seed)
    code = CodonTable.unambiguous_dna_by_id[STANDARD_CODE].forward_table  # no stop codons
    codons = sorted(code)
    drawn = [draw.choices(codons, k=RESIDUES - draw.choice(cuts)) for _ in range(rows)]
    proteins = ["".join(map(code.__getitem__, row)) for row in drawn]
    return Chunk([f"r{i}" for i in range(rows)], ["".join(row) for row in drawn], proteins, None)


def has_one_open_frame(dna: str) -> bool:
    """Whether five of the six frames have stop codons."""
    reverse = dna[::-1].translate(str.maketrans("ACGT", "TGCA"))
    others = (dna[1:], dna[2:], reverse, reverse[1:], reverse[2:])
    return all(_STOPS & {o[i : i + 3] for i in range(0, len(o), 3)} for o in others)


def chunk_it(results: Path, rows: int, chunks: int) -> None:
    """Cut contigs of one window each, with an open frame that is all of it, into chunks."""
    drawn = frames(2 * rows * chunks, seed=3).nucleotide
    sequences = list(itertools.islice(filter(has_one_open_frame, drawn), rows * chunks))
    fasta = results / "random.fa"
    results.mkdir(parents=True, exist_ok=True)
    fasta.write_text("".join(f">c{i}\n{dna}AC\n" for i, dna in enumerate(sequences)))
    folder = RunFolder(results).chunks(SAMPLE).path
    write_chunks([fasta], folder, Chunking(window=WINDOW, chunk_size=rows), sample=SAMPLE)
