"""Chunk in, embeddings out: the batch plan, the means, and result files that can be trusted."""

import hashlib
import itertools
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chunk_folders import manifest_of
from harness import BUNDLE, DEMO, UNREADABLE, no_more_open_files
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from virnuc_rules.chunking.format import Chunk, read_chunk
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Embedding
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.embedding import embed, tasks
from virnuc_rules.embedding.embed import Networks, embed_chunk, micro_batches, self_check
from virnuc_rules.embedding.embedding_file import (
    Computation,
    Embeddings,
    ResultCard,
    ids_hash,
    read_result,
    write_result,
)
from virnuc_rules.embedding.tasks import Tasks, result_key
from virnuc_rules.errors import ChunkError, EnvironmentProblem, ResultError
from virnuc_rules.files import environment
from virnuc_rules.models import esm2
from virnuc_rules.models.bundle import Bundle

SETTINGS = Embedding(precision="fp32", batch_tokens=2048)
HOW = Computation(precision="fp32", device="cpu")
KEY = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.set_num_threads(1)
    bundle, cpu = Bundle(BUNDLE), torch.device("cpu")
    return Networks(
        bundle.open_tokenizer(),
        bundle.open_dnabert_s(cpu, torch.float32),
        bundle.open_esm2(cpu, torch.float32),
        cpu,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chunk folder of the demo's sample `gut`, of 40 open frames a chunk."""
    out = tmp_path_factory.mktemp("chunks") / "gut"
    write_chunks([DEMO["gut"]], out, sample="gut", chunking=Chunking(window=500, chunk_size=40))
    return out


@pytest.fixture(scope="module")
def chunks(folder: Path) -> list[Chunk]:
    return [read_chunk(folder / entry.file, entry) for entry in manifest_of(folder).chunks[:2]]


@pytest.fixture(scope="module")
def embedded(chunks: list[Chunk], networks: Networks) -> Embeddings:
    return embed_chunk(chunks[0], networks, SETTINGS)


def first(chunk: Chunk, rows: int) -> Chunk:
    """The first rows of a chunk, as a chunk."""
    sequences = (chunk.ids[:rows], chunk.nucleotide[:rows], chunk.protein[:rows])
    return Chunk(*sequences, chunk.table.slice(0, rows))


def assert_close(one: Embeddings, other: Embeddings) -> None:
    assert one.ids == other.ids
    torch.testing.assert_close(one.dnabert_s, other.dnabert_s, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.esm2, other.esm2, rtol=0, atol=1e-5)


def equal(one: Embeddings, other: Embeddings) -> bool:
    same = torch.equal(one.dnabert_s, other.dnabert_s) and torch.equal(one.esm2, other.esm2)
    return same and one.ids == other.ids


# --- the batch plan ----------------------------------------------------------------------------


def slots(batch: list[int], lengths: list[int]) -> int:
    return len(batch) * lengths[batch[0]]


def padding(batch: list[int], lengths: list[int]) -> int:
    return slots(batch, lengths) - sum(lengths[row] for row in batch)


@given(st.lists(st.integers(2, 3000) | st.integers(90, 110), max_size=200), st.integers(64, 10_000))
def test_micro_batches(lengths: list[int], batch_tokens: int) -> None:
    batches = micro_batches(lengths, batch_tokens)
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert all(batches)
    # longest first, and of equal lengths the first in the input first
    assert order == sorted(order, key=lambda row: (-lengths[row], row))
    for batch in batches:
        assert len(batch) == 1 or slots(batch, lengths) <= batch_tokens
        assert padding(batch, lengths) <= 0.02 * slots(batch, lengths)
    for batch, following in itertools.pairwise(batches):  # none is smaller than need be
        more = [*batch, following[0]]
        full = slots(more, lengths) > batch_tokens
        assert full or padding(more, lengths) > 0.02 * slots(more, lengths)
        assert lengths[following[0]] <= lengths[batch[-1]]
    assert micro_batches(lengths, batch_tokens) == batches


def test_micro_batches_of_a_few() -> None:
    assert micro_batches([], 100) == []
    assert micro_batches([500], 100) == [[0]]
    assert micro_batches([10, 60, 50, 10, 200, 50], 100) == [[4], [1], [2, 5], [0, 3]]
    assert micro_batches([96, 98, 100, 99, 97], 1000) == [[2, 3, 1, 4, 0]]  # 2 % of padding
    assert micro_batches([94, 98, 100, 99, 97], 1000) == [[2, 3, 1, 4], [0]]


# --- embeddings --------------------------------------------------------------------------------


@torch.inference_mode()
def by_hand(chunk: Chunk, networks: Networks) -> Embeddings:
    """Embed one open frame at a time, without padding."""
    dna, proteins = [], []
    for nucleotide, protein in zip(chunk.nucleotide, chunk.protein, strict=True):
        ids = networks.tokenizer.encode(nucleotide).ids
        assert (ids[0], ids[-1]) == (1, 2)  # [CLS] and [SEP], which count
        present = torch.ones(1, len(ids), dtype=torch.bool)
        dna.append(networks.dnabert_s(torch.tensor([ids]), present)[0].mean(dim=0))
        ids = [0, *(esm2.ALPHABET.index(letter) for letter in protein), 2]
        present = torch.ones(1, len(ids), dtype=torch.bool)
        proteins.append(networks.esm2(torch.tensor([ids]), present)[0, 1:-1].mean(dim=0))
    return Embeddings(chunk.ids, torch.stack(dna), torch.stack(proteins), HOW)


def test_embeddings_are_those_of_each_frame_alone(
    chunks: list[Chunk], networks: Networks, embedded: Embeddings
) -> None:
    assert embedded.dnabert_s.shape == (40, 48)
    assert embedded.esm2.shape == (40, 64)
    assert embedded.dnabert_s.dtype == embedded.esm2.dtype == torch.float32
    assert_close(embedded, by_hand(chunks[0], networks))
    assert embedded.esm2.std(dim=0).mean() > 0.01  # else every order of rows would do
    encoded = networks.tokenizer.encode_batch(chunks[0].nucleotide)
    residues = sum(map(len, chunks[0].protein))
    assert embedded.tokens == sum(len(e.ids) for e in encoded) + residues + 2 * 40
    assert embedded.notes == {}


@torch.inference_mode()
def by_micro_batches(chunk: Chunk, networks: Networks, settings: Embedding) -> Embeddings:
    """Embed a chunk micro-batch by micro-batch, each padded in Python and waited for."""
    found = []
    for network, pad, skip, tokens in (
        (networks.dnabert_s, 3, 0, [networks.tokenizer.encode(n).ids for n in chunk.nucleotide]),
        (networks.esm2, esm2.PAD, 1, [esm2.tokenize(protein) for protein in chunk.protein]),
    ):
        means: list[Tensor] = [torch.empty(0)] * len(tokens)
        for batch in micro_batches([len(row) for row in tokens], settings.batch_tokens):
            width = len(tokens[batch[0]])
            ids = torch.tensor([tokens[r] + [pad] * (width - len(tokens[r])) for r in batch])
            lengths = torch.tensor([len(tokens[r]) for r in batch])
            place = torch.arange(width)
            present = place < lengths[:, None]
            inner = ((place >= skip) & (place < lengths[:, None] - skip))[..., None]
            hidden = network(ids, None if present.all() else present)
            for row, mean in zip(batch, (hidden * inner).sum(1) / inner.sum(1), strict=True):
                means[row] = mean
        found.append(torch.stack(means))
    return Embeddings(chunk.ids, *found, HOW)


def test_embeddings_are_bit_for_bit_those_of_the_micro_batches(
    chunks: list[Chunk], networks: Networks
) -> None:
    """Cut to lengths of several kinds: equal, padded a little, alone, above the batch."""
    cuts = [500, 500, 498, 497, 90, 30, 6] * 6
    nucleotide = [n[:cut] for n, cut in zip(chunks[0].nucleotide, cuts, strict=False)]
    protein = [p[: cut // 3] for p, cut in zip(chunks[0].protein, cuts, strict=False)]
    chunk = replace(chunks[0], nucleotide=nucleotide, protein=[*protein[:-1], "MKLV" * 300])
    expected = by_micro_batches(chunk, networks, SETTINGS.model_copy(update={"batch_tokens": 700}))
    found = embed_chunk(chunk, networks, SETTINGS.model_copy(update={"batch_tokens": 700}))
    assert found.padding > 0
    assert equal(found, expected)


@pytest.mark.parametrize("batch_tokens", [64, 700, 100_000])
def test_embeddings_do_not_depend_on_the_batches(
    chunks: list[Chunk], networks: Networks, embedded: Embeddings, batch_tokens: int
) -> None:
    settings = Embedding(precision="fp32", batch_tokens=batch_tokens)
    assert_close(embed_chunk(chunks[0], networks, settings), embedded)


def test_embeddings_do_not_depend_on_other_chunks(
    chunks: list[Chunk], networks: Networks, embedded: Embeddings
) -> None:
    embed_chunk(chunks[1], networks, SETTINGS)
    assert equal(embed_chunk(chunks[0], networks, SETTINGS), embedded)


def test_two_runs_write_the_same_bytes(
    tmp_path: Path, chunks: list[Chunk], networks: Networks, embedded: Embeddings
) -> None:
    again = embed_chunk(chunks[0], networks, SETTINGS)
    for name, result in (("one", embedded), ("two", again)):
        write_result(tmp_path / name, KEY, SETTINGS, result)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o644


def test_the_self_check_is_always_the_same(networks: Networks) -> None:
    found = self_check(networks, SETTINGS)
    assert found.shape == (1, 48 + 64)
    assert torch.equal(found, self_check(networks, SETTINGS))


def test_a_protein_that_is_none_fails_the_chunk(chunks: list[Chunk], networks: Networks) -> None:
    bad = replace(first(chunks[0], 2), protein=["MKL", "MK1"])
    with pytest.raises(ChunkError, match="'1' is not an amino acid"):
        embed_chunk(bad, networks, SETTINGS)


# --- between micro-batches ---------------------------------------------------------------------

Means = Callable[..., Tensor]


def replace_means(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Means], Means]) -> None:
    monkeypatch.setattr(embed, "_means", wrap(embed._means))


def test_check_interrupts_between_micro_batches(
    monkeypatch: pytest.MonkeyPatch, chunks: list[Chunk], networks: Networks
) -> None:
    done: list[str] = []

    def wrap(means: Means) -> Means:
        return lambda *arguments: done.append("batch") or means(*arguments)

    def check() -> None:
        done.append("check")
        if done.count("check") == 4:
            raise InterruptedError("stop")

    replace_means(monkeypatch, wrap)
    with pytest.raises(InterruptedError, match="stop"):
        embed_chunk(chunks[0], networks, SETTINGS, check)
    assert done == ["check", "batch"] * 3 + ["check"]


# --- result files ------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Embeddings]:
    """A small result file, and what is in it."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(3, 9, generator=generator)
    result = Embeddings(
        ["a_chunk_1F1", "b|x_chunk_2R3", "病_chunk_1F2"], rows[:, :4], rows[:, 4:], HOW
    )
    path = tmp_path / "result.safetensors"
    write_result(path, KEY, SETTINGS, result)
    return path, result


def result_error(path: Path, key: str, ids: list[str]) -> str:
    with pytest.raises(ResultError) as raised:
        read_result(path, key, ids)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message


def is_refused(path: Path, content: bytes, written: Embeddings) -> bool:
    """Whether such a file gives a ResultError; it may also be read, but then as what it was."""
    path.write_bytes(content)
    try:
        found = read_result(path, KEY, written.ids)
    except ResultError as error:
        assert len(str(error).splitlines()) == 1
        return True
    assert equal(found, written)
    return False


def flipped(content: bytes, place: int, bit: int) -> bytes:
    broken = bytearray(content)
    broken[place] ^= 1 << bit
    return bytes(broken)


def test_a_result_is_read_as_it_was_written(tmp_path: Path, embedded: Embeddings) -> None:
    path = tmp_path / "result"
    write_result(path, KEY, SETTINGS, embedded)
    assert equal(read_result(path, KEY, list(embedded.ids)), embedded)


def test_a_missing_result(tmp_path: Path) -> None:
    assert "no such result" in result_error(tmp_path / "absent", KEY, [])


def test_the_result_of_something_else(small: tuple[Path, Embeddings]) -> None:
    path, result = small
    for key, ids in (
        ("f" * 64, result.ids),
        (KEY, result.ids[::-1]),
        (KEY, result.ids[:-1]),
        (KEY, [*result.ids, "more"]),
        (KEY, []),
    ):
        assert "belongs to other open frames" in result_error(path, key, ids)


def test_a_truncated_result(small: tuple[Path, Embeddings]) -> None:
    path, result = small
    whole = path.read_bytes()
    lengths = [*range(0, len(whole), 5), len(whole) - 2, len(whole) - 1]
    assert all(is_refused(path, whole[:length], result) for length in lengths)


def test_one_flipped_bit_in_a_real_result(tmp_path: Path, embedded: Embeddings) -> None:
    path = tmp_path / "result"
    write_result(path, KEY, SETTINGS, embedded)
    whole, chance = path.read_bytes(), random.Random(1)
    numbers = len(whole) - 4 * 40 * (48 + 64)  # where the embeddings begin
    for place in (chance.randrange(len(whole)) for _ in range(60)):
        refused = is_refused(path, flipped(whole, place, chance.randrange(8)), embedded)
        assert refused or place < numbers


def test_a_flipped_bit_in_any_byte(small: tuple[Path, Embeddings]) -> None:
    path, result = small
    whole = path.read_bytes()
    places = range(len(whole))
    refused = sum(is_refused(path, flipped(whole, place, place % 8), result) for place in places)
    assert refused > 0.8 * len(whole)


@pytest.mark.parametrize("metadata", [None, "[]", "{", '"x"', "without hashes"])
def test_a_safetensors_file_that_is_no_result(
    small: tuple[Path, Embeddings], metadata: str | None
) -> None:
    path, result = small
    if metadata == "without hashes":
        metadata = json.dumps({"key": KEY, "ids": result.ids})
    tensors = {"dnabert_s": result.dnabert_s.contiguous(), "esm2": result.esm2.contiguous()}
    save_file(tensors, path, metadata and {"virnuc": metadata})
    result_error(path, KEY, result.ids)


@pytest.mark.parametrize(
    "odd",
    [
        {"dnabert_s": torch.bfloat16, "esm2": torch.bfloat16},
        {"dnabert_s": torch.float64},
        {"esm2": torch.int32},
        {"dnabert_s": (3, 2, 2)},
        {"esm2": (15,)},
        {"dnabert_s": (2, 6), "esm2": (5, 3)},
        {"dnabert_s": (3, 0)},
        {"more": (3, 4)},
    ],
)
def test_matrices_of_another_kind(
    small: tuple[Path, Embeddings], odd: dict[str, torch.dtype | tuple[int, ...]]
) -> None:
    """With hashes that are right, as only another program would write them."""
    path, result = small
    tensors = {"dnabert_s": result.dnabert_s.contiguous(), "esm2": result.esm2.contiguous()}
    for name, change in odd.items():
        tensor = tensors.get(name, tensors["dnabert_s"])
        if isinstance(change, torch.dtype):
            tensors[name] = tensor.to(change)
        else:
            tensors[name] = tensor.flatten()[: math.prod(change)].view(change).clone()
    contents = {name: bytes(tensor.untyped_storage()) for name, tensor in tensors.items()}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    card = ResultCard(
        schema_version=1, key=KEY, ids=result.ids, ids_sha256=ids_hash(result.ids), sha256=sha256,
        settings=SETTINGS, notes={}, computed=HOW,
    )  # fmt: skip
    save_file(tensors, path, {"virnuc": card.model_dump_json()})
    assert "damaged" in result_error(path, KEY, result.ids)


def test_what_is_no_file_is_no_result(tmp_path: Path) -> None:
    for make in (Path.mkdir, os.mkfifo):
        path = tmp_path / make.__name__
        make(path)
        assert "damaged" in result_error(path, KEY, [])  # at once: it waits for no writer


def test_a_result_that_cannot_be_read_is_not_damaged(
    small: tuple[Path, Embeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, result = small
    monkeypatch.setattr(environment, "_PAUSES", (0, 0))
    with (
        no_more_open_files(),
        pytest.raises(EnvironmentProblem, match=f"{path}: Too many open files"),
    ):
        read_result(path, KEY, result.ids)
    link = path.with_name("link")
    link.symlink_to(UNREADABLE)
    with pytest.raises(EnvironmentProblem, match=f"{link}: Input/output error"):
        read_result(link, KEY, result.ids)


# --- the name of a result ----------------------------------------------------------------------


def test_the_key_names_all_that_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [
        result_key("c" * 64, "f" * 64, SETTINGS),
        result_key("d" * 64, "f" * 64, SETTINGS),
        result_key("c" * 64, "e" * 64, SETTINGS),
        result_key("f" * 64, "c" * 64, SETTINGS),
        result_key("c" * 64, "f" * 64, SETTINGS.model_copy(update={"precision": "bf16"})),
        result_key("c" * 64, "f" * 64, SETTINGS.model_copy(update={"batch_tokens": 2049})),
    ]
    assert result_key("c" * 64, "f" * 64, SETTINGS) == keys[0]
    monkeypatch.setattr(tasks, "SCHEMA", tasks.SCHEMA + 1)
    keys.append(result_key("c" * 64, "f" * 64, SETTINGS))
    assert len(set(keys)) == 7


def test_equal_chunks_of_two_samples_are_one_task(tmp_path: Path, folder: Path) -> None:
    for sample in ("gut", "again"):
        shutil.copytree(folder, tmp_path / "chunks" / sample)
    every = Tasks(RunFolder(tmp_path), Bundle(BUNDLE).card, SETTINGS, keep_embeddings=True)
    found = {sample: [task.key for task in every.of_sample(sample)] for sample in ("gut", "again")}
    assert found["gut"] == found["again"]
    assert len(set(found["gut"])) == len(found["gut"]) == 13
    assert list(every.of_samples(["gut", "again"])) == found["gut"]
