"""Compiled layers, here with inductor's C++: few graphs, all made before the first chunk."""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from harness import BUNDLE
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from virnuc_rules.chunking.format import CHUNK_SCHEMA, Chunk
from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.errors import ModelError
from virnuc_rules.models import compiled
from virnuc_rules.models.bundle import Bundle

CPU = torch.device("cpu")
SETTINGS = Embedding(precision="fp32", batch_tokens=700)


def opened() -> Networks:
    return Networks.open(Bundle(BUNDLE), CPU, "fp32")


def own_forwards(network: nn.Module) -> int:
    return sum("forward" in vars(module) for module in network.modules())


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module")
def eager() -> Networks:
    torch.set_num_threads(1)
    return opened()


@pytest.fixture(scope="module")
def made() -> list[int]:
    """How many graphs `networks` made."""
    return []


@pytest.fixture(scope="module")
def networks(
    eager: Networks, tmp_path_factory: pytest.TempPathFactory, made: list[int]
) -> Iterator[Networks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VIRNUC_COMPILE", "1")
        before = graphs()
        networks = opened()
        made.append(graphs() - before)
        yield networks


@pytest.fixture
def chunk() -> Chunk:
    """Frames of many lengths: equal, padded a little, alone, longer than a micro-batch."""
    draw = random.Random(1)
    lengths = [*[166] * 12, *range(120, 150), 5, 30, 64, 64, 128, 128, 300]
    proteins = ["".join(draw.choices("LAGVSERTIDPKQNFYMHWC", k=length)) for length in lengths]
    dna = ["".join(draw.choices("ACGT", k=3 * length)) for length in lengths]
    return Chunk([str(n) for n in range(len(lengths))], dna, proteins, CHUNK_SCHEMA.empty_table())


def test_all_layers_of_a_network_share_their_graphs(networks: Networks, made: list[int]) -> None:
    assert networks.compiled
    assert made == [3]  # ESM-2 with and without padding; DNABERT-S always has a bias
    for network, layers in ((networks.esm2, 4), (networks.dnabert_s, 3)):
        assert own_forwards(network) == layers


def test_a_chunk_is_near_that_of_layers_that_are_not_compiled_and_compiles_nothing(
    networks: Networks, eager: Networks, chunk: Chunk
) -> None:
    before = graphs()
    found, expected = (embed_chunk(chunk, each, SETTINGS) for each in (networks, eager))
    assert graphs() == before
    assert found.padding > 0
    assert str(found.computed) == "fp32 on cpu, compiled"
    assert str(expected.computed) == "fp32 on cpu"
    for name in ("dnabert_s", "esm2"):
        one, other = getattr(found, name), getattr(expected, name)
        assert F.cosine_similarity(one.double(), other.double()).min() > 0.99999
        assert not torch.equal(one, other)  # else nothing was compiled
    alone = Chunk(["4"], chunk.nucleotide[4:5], chunk.protein[4:5], chunk.table)
    one, other = (embed_chunk(alone, each, SETTINGS).esm2 for each in (networks, eager))
    assert torch.equal(one, other)  # a single row has no graph


@pytest.mark.parametrize("shape", [(2, 34, False), (9, 131, True), (8, 168, False), (3, 999, True)])
@torch.inference_mode()
def test_the_graphs_are_for_all_sizes(networks: Networks, shape: tuple[int, int, bool]) -> None:
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for network in (networks.esm2, networks.dnabert_s):
            network(*compiled._input(*shape, CPU))
    finally:
        torch.compiler.set_stance("eager_on_recompile")


def test_networks_for_rows_that_are_not_finite_are_not_compiled(networks: Networks) -> None:
    assert networks.open_fp32
    assert own_forwards(networks.open_fp32("esm2")) == 0


def test_options_are_those_of_this_torch() -> None:
    known = inductor.get_config_copy()
    assert {name for name in compiled._PINNED if name not in known} == set()


# --- where it is not compiled ------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "\n" not in record.getMessage()
    return record.getMessage()


@pytest.mark.parametrize("value", [None, "", "0"])
def test_on_a_cpu_it_is_only_if_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str | None
) -> None:
    monkeypatch.delenv("VIRNUC_COMPILE", raising=False)
    if value is not None:
        monkeypatch.setenv("VIRNUC_COMPILE", value)
    networks = opened()
    assert (networks.compiled, own_forwards(networks.esm2), caplog.records) == (False, 0, [])


def test_a_value_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRNUC_COMPILE", "yes")
    with pytest.raises(ModelError, match="VIRNUC_COMPILE is 'yes'; it can be 0 or 1"):
        opened()


def test_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIRNUC_COMPILE", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not opened().compiled
    assert said(caplog) == "layers are not compiled: RuntimeError: there is no C compiler"


def test_with_a_compiler_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    eager: Networks,
    chunk: Chunk,
) -> None:
    monkeypatch.setenv("VIRNUC_COMPILE", "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with inductor.patch({"cpp.cxx": ("/bin/false",)}):
        networks = opened()
    assert not networks.compiled
    assert said(caplog).startswith("layers are not compiled: ")
    assert own_forwards(networks.esm2) == own_forwards(networks.dnabert_s) == 0
    found, expected = (embed_chunk(chunk, each, SETTINGS) for each in (networks, eager))
    assert torch.equal(found.esm2, expected.esm2)
    assert str(found.computed) == "fp32 on cpu"


# --- the folder of compiled layers -------------------------------------------------------------


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "removed below, restored after the test")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


CUDA = torch.device("cuda")


@pytest.mark.usefixtures("no_folder")
def test_the_folder_is_the_users_and_of_this_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compiled._cache_folder(CUDA)
    assert folder == tmp_path / "virnuc" / f"torch-{torch.__version__}"
    assert folder.is_dir() and not any(folder.iterdir())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "other"))
    assert compiled._cache_folder(CUDA) == tmp_path / "other"
    assert caplog.records == []


@pytest.mark.usefixtures("no_folder")
@pytest.mark.parametrize("place", ["/dev/full", "/proc"])
def test_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    folder = compiled._cache_folder(CUDA)
    assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    assert f"{place}/virnuc" in said(caplog)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)


@pytest.mark.usefixtures("no_folder")
def test_libraries_for_a_cpu_are_not_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A compiler that is killed leaves half a library, and torch takes it for a whole one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compiled._cache_folder(torch.device("cpu"))
    assert folder.is_dir() and not folder.is_relative_to(tmp_path / "virnuc")
    assert list(tmp_path.iterdir()) == [] and caplog.records == []


@pytest.mark.usefixtures("no_folder")
def test_without_a_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert compiled._cache_folder(CUDA).is_dir()
    assert "home" in said(caplog)
