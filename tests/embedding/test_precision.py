"""Which device and precision a run takes, what it says about them, and what goes wrong in them."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chunk_folders import chunk_it, manifest_of, some_contigs
from embedded import predict, worker_of
from harness import BUNDLE, DEMO, copy_bundle
from safetensors import safe_open
from torch import Tensor, nn

from virnuc_rules.bundles.verified import read_verified
from virnuc_rules.chunking.format import Chunk, read_chunk
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config, Embedding
from virnuc_rules.embedding import embed
from virnuc_rules.embedding.embed import Model, Networks, embed_chunk, micro_batches, self_check
from virnuc_rules.embedding.embedding_file import Embeddings
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.errors import ChunkError, ModelError
from virnuc_rules.inspection.verify import Data, verify, verify_precision
from virnuc_rules.models import esm2
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.device import (
    choose_device,
    choose_precision,
    is_out_of_memory,
    matmul_precision,
)
from virnuc_rules.queue.store import Store
from virnuc_rules.serving.worker import Exit
from virnuc_rules.serving.worker_report import WorkerReport

CPU = torch.device("cpu")
SETTINGS = Embedding(precision="bf16", batch_tokens=2048)
MODELS: list[Model] = ["dnabert_s", "esm2"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave torch as it was: precision and threads are the process's."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gut(tmp_path_factory: pytest.TempPathFactory) -> list[Chunk]:
    """The first chunks of a demo sample, of 8 open frames each."""
    folder = tmp_path_factory.mktemp("chunks") / "gut"
    write_chunks([DEMO["gut"]], folder, sample="gut", chunking=Chunking(window=500, chunk_size=8))
    return [read_chunk(folder / entry.file, entry) for entry in manifest_of(folder).chunks[:3]]


# --- devices and precisions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "number", "devices", "expected"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 5, 0, "cpu"),
        ("auto", 0, 1, "cuda:0"),
        ("auto", 3, 1, "cuda:0"),
        ("auto", 1, 4, "cuda:1"),
        ("auto", 6, 4, "cuda:2"),
        ("cpu", 1, 4, "cpu"),
        ("cuda", 1, 4, "cuda"),
        ("cuda:0", 1, 4, "cuda:0"),
        ("cuda:3", 0, 4, "cuda:3"),
        ("cuda:4", 0, 4, None),
        ("cuda", 0, 0, None),
        ("cuda:0", 0, 0, None),
    ],
)
def test_the_device(
    monkeypatch: pytest.MonkeyPatch, wanted: str, number: int, devices: int, expected: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    if expected:
        assert choose_device(wanted, number) == torch.device(expected)
    else:
        with pytest.raises(ModelError) as raised:
            choose_device(wanted, number)
        told = f"device {wanted} is not available: {devices} CUDA devices are visible"
        assert str(raised.value) == told


def test_the_device_of_a_machine_without_gpu() -> None:
    assert choose_device("auto", 5) == CPU
    with pytest.raises(
        ModelError, match="device cuda is not available: 0 CUDA devices are visible"
    ):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("wanted", "device", "expected"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "cuda", "fp16"),
        ("fp32", "cpu", "fp32"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("bf16", "cuda:1", "bf16"),
        ("fp16", "cuda", "fp16"),
        ("tf32", "cuda", "tf32"),
        ("fp16", "cpu", None),
        ("tf32", "cpu", None),
    ],
)
def test_the_precision(wanted: str, device: str, expected: str | None) -> None:
    if expected:
        assert choose_precision(wanted, torch.device(device)) == expected
    else:
        with pytest.raises(ModelError) as raised:
            choose_precision(wanted, torch.device(device))
        told = f"precision {wanted} needs a CUDA device; take fp32 or bf16 on cpu"
        assert str(raised.value) == told


@pytest.mark.parametrize(
    ("precision", "within"),
    [("fp32", "highest"), ("tf32", "high"), ("bf16", "highest"), ("fp16", "highest")],
)
@pytest.mark.parametrize("before", ["medium", "high", "highest"])
def test_a_precision_ends_with_its_block(precision: str, within: str, before: str) -> None:
    torch.set_float32_matmul_precision(before)
    with pytest.raises(ValueError, match="oh"), matmul_precision(precision):
        assert torch.get_float32_matmul_precision() == within
        raise ValueError("oh")
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("precision", "within"), [("fp32", "highest"), ("tf32", "high")])
def test_networks_multiply_in_their_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str, within: str
) -> None:
    seen = []
    means = embed._means

    def noting(*args: Any) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return means(*args)

    monkeypatch.setattr(embed, "_means", noting)
    torch.set_float32_matmul_precision("medium")
    self_check(Networks.open(Bundle(BUNDLE), CPU, precision), SETTINGS)
    assert seen == [within] * 2
    assert torch.get_float32_matmul_precision() == "medium"


# --- what a run says ---------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A chunked sample, a bundle of its own, and a precision that nobody verified."""
    fasta, out = tmp_path / "lake.fa", tmp_path / "results" / "chunks" / "lake"
    some_contigs(fasta, DEMO["lake"], slice(10, 11))
    chunk_it(fasta, out, window=500, chunk_size=10)
    return Config.of(
        results=tmp_path / "results",
        bundle=copy_bundle(tmp_path),
        precision="bf16",
        device="cpu",
        threads=1,
        lease_seconds=2,
    )


@pytest.fixture
def data(tmp_path: Path, gut: list[Chunk]) -> Path:
    path = tmp_path / "data.fa"
    path.write_text(f">one\n{gut[0].nucleotide[0]}\n")
    return path


def work(config: Config, expected: Exit = Exit.DRAINED) -> WorkerReport:
    """Run a worker in this process; return what it left as its report."""
    tasks = Tasks.of(config.run, config.embedding).of_samples(["lake"])
    assert worker_of(config, "0", tasks).run() == expected
    path = Store(config.run.results).workers / "0.json"
    return WorkerReport.model_validate_json(path.read_bytes())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    caplog.clear()
    return found


def computed(config: Config) -> list[dict[str, Any]]:
    """What the metadata of the results say."""
    found = []
    for path in Store(config.run.results).embeddings.glob("*/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found.append(json.loads(file.metadata()["virnuc"])["computed"])
    return found


def remove_results(config: Config) -> None:
    for path in Store(config.run.results).embeddings.glob("*/*.safetensors"):
        path.unlink()


def test_a_worker_says_whether_its_precision_was_verified(
    config: Config, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = work(config)
    assert (report.precision, report.verified, report.device) == ("bf16", False, "cpu")
    (warning,) = warnings_of(caplog)
    assert "precision bf16 has not been verified on cpu" in warning
    command = f"virnuc-rules models verify {config.run.bundle} --precision bf16 --data FASTA"
    assert command in warning
    assert computed(config) == [{"precision": "bf16", "device": "cpu", "compiled": False}] * 3
    list(verify(Bundle(config.run.bundle), CPU, "bf16", SETTINGS, data))
    remove_results(config)
    report = work(config)
    assert (report.precision, report.verified) == ("bf16", True)
    assert warnings_of(caplog) == []


def test_what_was_verified_elsewhere_is_not_verified_here(
    config: Config, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(verify(Bundle(config.run.bundle), CPU, "bf16", SETTINGS, data))
    file = config.run.bundle / "verified.json"
    content = file.read_text()
    for name, other in (("device", "cuda"), ("precision", "fp16"), ("fingerprint", "0" * 64)):
        changed = json.loads(content)
        changed["precisions"][0][name] = other
        file.write_text(json.dumps(changed))
        remove_results(config)
        assert not work(config).verified
        assert len(warnings_of(caplog)) == 1


def test_auto_is_fp32_on_a_cpu_and_needs_no_verification(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    report = work(config.replace(precision="auto"))
    assert (report.precision, report.verified) == ("fp32", True)
    assert warnings_of(caplog) == []
    assert computed(config) == [{"precision": "fp32", "device": "cpu", "compiled": False}] * 3


def test_a_precision_that_the_device_has_not(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    report = work(config.replace(precision="fp16"), Exit.NO_MODELS)
    assert "precision fp16 needs a CUDA device" in (report.exit_reason or "")
    assert len(warnings_of(caplog)) == 1
    assert report.load_count == {}


def test_predict_says_how_the_embeddings_were_computed(
    config: Config, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "virnuc_rules")

    def said() -> list[str]:
        caplog.clear()
        predict(config, "lake", tmp_path / "out")
        found = [r.getMessage() for r in caplog.records if "computed in" in r.getMessage()]
        return [line.removeprefix("sample lake: embeddings computed in ") for line in found]

    work(config)
    assert said() == ["bf16 on cpu (not verified with this bundle)"]
    list(verify(Bundle(config.run.bundle), CPU, "bf16", SETTINGS, data))
    assert said() == ["bf16 on cpu"]
    config = config.replace(precision="auto")
    work(config)
    assert said() == ["fp32 on cpu"]


# --- numbers that are not finite ---------------------------------------------------------------


class Broken(nn.Module):
    """A network that gives `value` in one number of some rows: those of the token ids `bad`."""

    def __init__(self, network: nn.Module, bad: list[list[int]], value: float) -> None:
        super().__init__()
        self.network, self.bad, self.value = network, bad, value

    def forward(self, ids: Tensor, present: Tensor | None) -> Tensor:
        hidden: Tensor = self.network(ids, present)
        rows = ids if present is None else ids.masked_fill(~present, -1)
        for number, row in enumerate(rows.tolist()):
            if [token for token in row if token >= 0] in self.bad:
                hidden[number, 1, 7] = self.value
        return hidden


class Opened:
    """Opens fp32 networks for rows that are not finite, and counts; `bad` ones where wanted."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda network: network) -> None:
        self.wrap, self.names = wrap, list[str]()

    def __call__(self, model: Model) -> nn.Module:
        self.names.append(model)
        return self.wrap(getattr(Networks.open(Bundle(BUNDLE), CPU, "fp32"), model))


def tokens_of(chunk: Chunk, rows: list[int], model: Model, networks: Networks) -> list[list[int]]:
    if model == "esm2":
        return [esm2.tokenize(chunk.protein[row]) for row in rows]
    return [networks.tokenizer.encode(chunk.nucleotide[row]).ids for row in rows]


def in_precision(precision: str) -> Networks:
    return Networks.open(Bundle(BUNDLE), CPU, precision)


def broken(
    model: Model, chunk: Chunk, rows: list[int], value: float, precision: str = "bf16"
) -> Networks:
    """Networks of which one gives `value` for some rows of a chunk."""
    networks = in_precision(precision)
    bad = tokens_of(chunk, rows, model, networks)
    return replace(
        networks,
        **{model: Broken(getattr(networks, model), bad, value)},
        open_fp32=Opened(),
        _fp32={},
    )


@pytest.fixture(scope="module")
def clean(gut: list[Chunk]) -> dict[str, Embeddings]:
    return {name: embed_chunk(gut[0], in_precision(name), SETTINGS) for name in ("fp32", "bf16")}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("model", MODELS)
def test_rows_that_are_not_finite_are_computed_in_fp32(
    gut: list[Chunk], clean: dict[str, Embeddings], model: Model, value: float
) -> None:
    bad = [2, 5, 7]
    networks = broken(model, gut[0], bad, value)
    found = embed_chunk(gut[0], networks, SETTINGS)
    assert found.notes == {"recomputed_in_fp32": 3}
    assert str(found.computed) == "bf16 on cpu"
    rows, lower, exact = (getattr(e, model) for e in (found, clean["bf16"], clean["fp32"]))
    torch.testing.assert_close(rows[bad], exact[bad], rtol=0, atol=1e-5)
    assert ((rows - lower)[bad].abs().amax(dim=1) > 1e-3).all()
    others = [row for row in range(8) if row not in bad]
    assert torch.equal(rows[others], lower[others])
    (other,) = set(MODELS) - {model}
    assert torch.equal(getattr(found, other), getattr(clean["bf16"], other))


def test_fp32_is_loaded_when_it_is_wanted_and_once(gut: list[Chunk]) -> None:
    networks = broken("esm2", gut[0], [0], float("nan"))
    opened = networks.open_fp32
    assert isinstance(opened, Opened)
    embed_chunk(gut[1], networks, SETTINGS)
    assert opened.names == []
    for _ in range(3):
        embed_chunk(gut[0], networks, SETTINGS)
    assert opened.names == ["esm2"]
    assert embed_chunk(gut[1], networks, SETTINGS).notes == {}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_rows_that_are_not_finite_in_fp32_either(
    gut: list[Chunk], model: Model, precision: str
) -> None:
    lower = "fp32" if precision == "tf32" else precision  # on a CPU they are the same
    networks = broken(model, gut[0], [5, 2], float("inf"), lower)
    networks.precision = precision
    bad = tokens_of(gut[0], [5, 2], model, networks)
    networks.open_fp32 = opened = Opened(lambda network: Broken(network, bad, float("nan")))
    with pytest.raises(ChunkError) as raised:
        embed_chunk(gut[0], networks, SETTINGS)
    names = f"{gut[0].ids[2]}, {gut[0].ids[5]}"
    name = {"esm2": "ESM-2", "dnabert_s": "DNABERT-S"}[model]
    assert str(raised.value) == f"{name} gave non-finite embeddings for 2 rows: {names}"
    assert opened.names == ([model] if precision == "bf16" else [])


def test_a_worker_loads_fp32_once_for_all_chunks(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = Tasks.of(config.run, config.embedding).of_samples(["lake"]).values()
    bad = [esm2.tokenize(task.read().protein[row]) for task in tasks for row in (0, 7)]
    sound = Bundle.open_esm2

    def open_esm2(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Any:
        network = sound(bundle, device, dtype)
        return network if dtype == torch.float32 else Broken(network, bad, float("inf"))

    monkeypatch.setattr(Bundle, "open_esm2", open_esm2)
    report = work(config)
    assert report.load_count == {"dnabert_s": 1, "esm2": 1, "esm2_fp32": 1}
    assert report.load_seconds.keys() == report.load_count.keys()
    assert report.chunks == 3
    noted = [line for line in warnings_of(caplog) if line.endswith("{'recomputed_in_fp32': 2}")]
    assert len(noted) == 3
    folder = config.run.results / "verify"
    bundle = Bundle(config.run.bundle)
    run = verify_precision(
        bundle, Data(config.run.results.parent / "lake.fa", 500, folder), CPU, "bf16", SETTINGS
    )
    assert run.recomputed_in_fp32 == 6
    assert read_verified(config.run.bundle, bundle.card.fingerprint).precisions == []


# --- memory that does not suffice --------------------------------------------------------------


def ask_the_allocator_for_too_much() -> None:
    torch.empty(1 << 50, dtype=torch.uint8)  # 1 PiB: more than a process can have addresses for


def raise_as_cuda_does() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


LACKS = [ask_the_allocator_for_too_much, raise_as_cuda_does]


class Limited(nn.Module):
    """A network with memory for some rows at a time; it notes how many it was asked for."""

    def __init__(self, network: nn.Module, rows: int, lack: Callable[[], None]) -> None:
        super().__init__()
        self.network, self.rows, self.lack, self.asked = network, rows, lack, list[int]()

    def forward(self, ids: Tensor, present: Tensor | None) -> Any:
        self.asked.append(len(ids))
        if len(ids) > self.rows:
            self.lack()
        return self.network(ids, present)


def limited(rows: int, lack: Callable[[], None]) -> Networks:
    """fp32 networks with memory for some rows."""
    networks = in_precision("fp32")
    for model in MODELS:
        setattr(networks, model, Limited(getattr(networks, model), rows, lack))
    return networks


@pytest.mark.parametrize("lack", LACKS)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_micro_batch_that_does_not_fit_is_halved(
    gut: list[Chunk], clean: dict[str, Embeddings], rows: int, lack: Callable[[], None]
) -> None:
    networks = limited(rows, lack)
    found = embed_chunk(gut[0], networks, SETTINGS)
    for model in MODELS:
        one, other = getattr(found, model), getattr(clean["fp32"], model)
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    expected = []
    for model in MODELS:
        lengths = [len(t) for t in tokens_of(gut[0], list(range(8)), model, networks)]
        expected += [n for b in micro_batches(lengths, 2048) for n in halved(len(b), rows)]
    asked = networks.dnabert_s.asked + networks.esm2.asked
    assert asked == expected
    assert found.notes == {"out_of_memory": sum(n > rows for n in expected)}
    assert found.notes["out_of_memory"] > 1


def halved(size: int, rows: int) -> list[int]:
    """The sizes in which a batch is tried, in order."""
    if size <= rows:
        return [size]
    return [size, *halved(size // 2, rows), *halved(size - size // 2, rows)]


@pytest.mark.parametrize("lack", LACKS)
def test_a_row_that_does_not_fit(gut: list[Chunk], lack: Callable[[], None]) -> None:
    networks = limited(0, lack)
    with pytest.raises(RuntimeError) as raised:
        embed_chunk(gut[0], networks, SETTINGS)
    assert is_out_of_memory(raised.value)
    assert isinstance(networks.esm2, Limited)
    assert networks.esm2.asked[-1] == 1
    assert networks.esm2.asked == sorted(networks.esm2.asked, reverse=True)


@pytest.mark.parametrize(
    "message", ["mat1 and mat2 shapes cannot be multiplied", "CUDA error: device-side assert"]
)
def test_other_errors_are_not_swallowed(gut: list[Chunk], message: str) -> None:
    def fail() -> None:
        raise RuntimeError(message)

    networks = limited(0, fail)
    with pytest.raises(RuntimeError, match=message) as raised:
        embed_chunk(gut[0], networks, SETTINGS)
    assert not is_out_of_memory(raised.value)
    assert isinstance(networks.esm2, Limited)
    assert len(networks.esm2.asked) == 1
