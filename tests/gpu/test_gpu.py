"""What needs a GPU: run wherever there is one. Where this was written there was none."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from chunk_folders import manifest_of
from embedded import worker_of
from harness import BUNDLE, DEMO
from torch._dynamo.utils import counters

from virnuc_rules.chunking.format import Chunk, read_chunk
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config, Embedding
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.models import compiled
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.device import (
    choose_device,
    choose_precision,
    clear_caches,
    matmul_precision,
)
from virnuc_rules.serving.worker import CHUNKS_BETWEEN_CLEARINGS, Exit, Worker

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
pytestmark = pytest.mark.gpu
SETTINGS = Embedding(precision="auto", batch_tokens=8192)


@pytest.fixture(scope="module")
def chunk(tmp_path_factory: pytest.TempPathFactory) -> Chunk:
    folder = tmp_path_factory.mktemp("chunks")
    write_chunks(
        [DEMO["lake"]], folder, sample="lake", chunking=Chunking(window=500, chunk_size=200)
    )
    entry = manifest_of(folder).chunks[0]
    return read_chunk(folder / entry.file, entry)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    clear_caches(torch.device("cuda"))


def embed(chunk: Chunk, device: str, precision: str) -> Embeddings:
    where = choose_device(device)
    networks = Networks.open(Bundle(BUNDLE), where, choose_precision(precision, where))
    return embed_chunk(chunk, networks, SETTINGS)


def test_fp32_is_that_of_the_cpu(chunk: Chunk) -> None:
    on_cpu, on_gpu = embed(chunk, "cpu", "fp32"), embed(chunk, "cuda", "fp32")
    assert torch.allclose(on_gpu.dnabert_s, on_cpu.dnabert_s, atol=1e-4)
    assert torch.allclose(on_gpu.esm2, on_cpu.esm2, atol=1e-4)


def test_auto_is_fp16_near_fp32_and_repeatable(chunk: Chunk) -> None:
    exact = embed(chunk, "cuda", "fp32")
    first, second = embed(chunk, "auto", "auto"), embed(chunk, "auto", "auto")
    assert str(first.computed) == "fp16 on cuda, compiled"
    for name in ("dnabert_s", "esm2"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert F.cosine_similarity(getattr(first, name), getattr(exact, name)).min() > 0.999


# --- compiled layers ---------------------------------------------------------------------------


def networks_of(precision: str) -> Networks:
    device = choose_device("cuda")
    return Networks.open(Bundle(BUNDLE), device, precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32", "fp32"])
def test_compiled_layers_are_near_others_with_few_graphs_for_all_sizes(
    chunk: Chunk, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counters["stats"]["unique_graphs"]
    networks = networks_of(precision)
    made = counters["stats"]["unique_graphs"] - before
    assert networks.compiled and made <= 4  # of both; with and without padding
    for network in (networks.esm2, networks.dnabert_s):
        for shape in [(2, 34, False), (9, 131, True), (48, 168, False), (3, 999, True)]:
            torch.compiler.set_stance("fail_on_recompile")
            try:
                with torch.inference_mode(), matmul_precision(precision):
                    network(*compiled._input(*shape, networks.device))
            finally:
                torch.compiler.set_stance("eager_on_recompile")
    found = embed_chunk(chunk, networks, SETTINGS)
    assert counters["stats"]["unique_graphs"] - before == made
    monkeypatch.setenv("VIRNUC_COMPILE", "0")
    expected = embed_chunk(chunk, networks_of(precision), SETTINGS)
    assert (found.computed.compiled, expected.computed.compiled) == (True, False)
    for name in ("dnabert_s", "esm2"):
        one, other = getattr(found, name).double(), getattr(expected, name).double()
        assert F.cosine_similarity(one, other).min() >= 0.99999


EMBED = """
import sys
sys.path[:0] = {path!r}
from test_gpu import hashes
print(*hashes({order!r}))
"""


def hashes(order: list[int]) -> list[str]:
    """The hashes of the chunks of 40 frames, in the order of the chunks, embedded in another."""
    found = {}
    networks = networks_of("fp16")
    assert networks.compiled
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lake"
        write_chunks([DEMO["lake"]], out, Chunking(window=500, chunk_size=40), sample="lake")
        entries = manifest_of(out).chunks
        for number in order:
            result = embed_chunk(
                read_chunk(out / entries[number].file, entries[number]), networks, SETTINGS
            )
            both = torch.cat([result.dnabert_s, result.esm2], dim=1)
            found[number] = hashlib.sha256(both.numpy().tobytes()).hexdigest()
    return [found[number] for number in sorted(found)]


def test_equal_bytes_in_any_order_in_any_process_with_a_cold_and_a_warm_cache(
    tmp_path: Path,
) -> None:
    here = hashes([0, 1, 2])
    for order in ([2, 0, 1], [1, 2, 0]):  # the first finds an empty folder
        code = EMBED.format(path=sys.path, order=order)
        printed = subprocess.check_output(
            [sys.executable, "-c", code],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            text=True,
        )
        assert printed.split() == here


# --- memory, workers ---------------------------------------------------------------------------


def peak(chunk: Chunk, networks: Networks, settings: Embedding) -> int:
    """Bytes that torch takes from the device for a chunk, weights included."""
    clear_caches(networks.device)
    torch.cuda.reset_peak_memory_stats()
    embed_chunk(chunk, networks, settings)
    return torch.cuda.max_memory_reserved()


def test_out_of_memory_halves_the_batch(chunk: Chunk) -> None:
    device = choose_device("cuda")
    networks = Networks.open(Bundle(BUNDLE), device, choose_precision("fp32", device))
    whole = SETTINGS.model_copy(update={"batch_tokens": 10**6})  # all frames at once
    expected = embed_chunk(chunk, networks, SETTINGS)
    most = peak(chunk, networks, whole)
    least = peak(chunk, networks, SETTINGS.model_copy(update={"batch_tokens": 2048}))
    assert least < 0.7 * most
    clear_caches(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / total)
    found = embed_chunk(chunk, networks, whole)
    assert found.notes["out_of_memory"] > 0
    assert torch.allclose(found.dnabert_s, expected.dnabert_s, atol=1e-4)
    assert torch.allclose(found.esm2, expected.esm2, atol=1e-4)


def work(results: Path, chunks: slice) -> tuple[Worker, dict[str, bytes]]:
    """Let a worker embed some of the chunks of a sample; also its results."""
    out = results / "chunks" / "lake"
    write_chunks([DEMO["lake"]], out, sample="lake", chunking=Chunking(window=500, chunk_size=40))
    config = Config.of(results=results, bundle=BUNDLE)
    tasks = list(Tasks.of(config.run, config.embedding).of_samples(["lake"]).items())[chunks]
    worker = worker_of(config, "0", dict(tasks))
    assert worker.run() == Exit.DRAINED
    store = worker.queue.store
    return worker, {key: store.result(key).read_bytes() for key, _ in tasks}


def test_a_worker_for_all_chunks_and_one_for_a_single_chunk(tmp_path: Path) -> None:
    worker, files = work(tmp_path / "all", slice(None))
    assert worker.report.device.startswith("cuda:0 (") and worker.report.precision == "fp16"
    assert worker.report.cache_clears == 13 // CHUNKS_BETWEEN_CLEARINGS
    assert all(point.device for point in worker.report.memory)
    for number in (0, 12):
        _, alone = work(tmp_path / str(number), slice(number, number + 1))
        assert alone.items() < files.items()
