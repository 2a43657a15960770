"""What needs a GPU: run wherever there is one. Where this was written there was none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from virnuc_rules.chunkfiles import Chunk, read_chunk, read_manifest
from virnuc_rules.chunks import write_chunks
from virnuc_rules.embed import Networks, embed_chunk
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.device import choose_device, choose_precision, clear_caches
from virnuc_rules.results import Embeddings
from virnuc_rules.tasks import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
DEMO = Path(__file__).parents[2] / "demo"
SETTINGS = Settings(precision="auto", batch_tokens=8192)


@pytest.fixture(scope="module")
def chunk(tmp_path_factory: pytest.TempPathFactory) -> Chunk:
    folder = tmp_path_factory.mktemp("chunks")
    write_chunks(DEMO / "data" / "lake.fa.gz", folder, sample="lake", window=500, chunk_size=200)
    entry = read_manifest(folder).chunks[0]
    return read_chunk(folder / entry.file, entry)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.set_float32_matmul_precision("highest")
    clear_caches(torch.device("cuda"))


def embed(chunk: Chunk, device: str, precision: str) -> Embeddings:
    where = choose_device(device)
    networks = Networks.open(Bundle(DEMO / "bundle"), where, choose_precision(precision, where))
    return embed_chunk(chunk, networks, SETTINGS)


def test_fp32_is_that_of_the_cpu(chunk: Chunk) -> None:
    on_cpu, on_gpu = embed(chunk, "cpu", "fp32"), embed(chunk, "cuda", "fp32")
    assert torch.allclose(on_gpu.dnabert_s, on_cpu.dnabert_s, atol=1e-4)
    assert torch.allclose(on_gpu.esm2, on_cpu.esm2, atol=1e-4)


def test_auto_is_fp16_near_fp32_and_repeatable(chunk: Chunk) -> None:
    exact = embed(chunk, "cuda", "fp32")
    first, second = embed(chunk, "auto", "auto"), embed(chunk, "auto", "auto")
    assert first.computed == "fp16 on cuda"
    for name in ("dnabert_s", "esm2"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert F.cosine_similarity(getattr(first, name), getattr(exact, name)).min() > 0.999


def test_out_of_memory_halves_the_batch(chunk: Chunk) -> None:
    expected = embed(chunk, "cuda", "fp32")
    device = choose_device("cuda")
    networks = Networks.open(Bundle(DEMO / "bundle"), device, "fp32")
    clear_caches(device)
    used = torch.cuda.memory_reserved(device) + 24 * 2**20  # too little for a whole batch
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(used / total)
    found = embed_chunk(chunk, networks, SETTINGS)
    assert found.notes["out_of_memory"] > 0
    assert torch.allclose(found.esm2, expected.esm2, atol=1e-4)


def test_tf32_is_switched_by_the_precision() -> None:
    device = choose_device("cuda")
    choose_precision("tf32", device)
    assert torch.get_float32_matmul_precision() == "high"
    choose_precision("fp32", device)
    assert torch.get_float32_matmul_precision() == "highest"
