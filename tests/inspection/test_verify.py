"""`models verify`: what it checks, and that the numbers it keeps are those of the user's data."""

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chunk_folders import manifest_of, some_contigs
from harness import BUNDLE, DEMO, copy_bundle, sha256
from safetensors.torch import load_file, save_file

from virnuc_rules.bundles.verified import Verified, read_verified
from virnuc_rules.chunking.format import read_chunk
from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Embedding
from virnuc_rules.embedding.embed import Networks, embed_chunk
from virnuc_rules.files import atomic
from virnuc_rules.inspection import verify as measuring
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.models.card import FILES

BF16 = ("--precision", "bf16")
Verify = Callable[..., Any]


@pytest.fixture
def verify(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Verify]:
    """The command in this process: `verify(bundle, options...)` gives what it printed."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(bundle: Path, *options: object, code: int = 0) -> Any:
        done = command("models", "verify", bundle, "--threads", 1, *options)
        assert done.returncode == code, done.stderr
        return done

    yield run
    assert not list(temporary.iterdir())


@pytest.fixture
def refused(verify: Verify) -> Callable[..., str]:
    """The one line with which the command refuses."""

    def run(bundle: Path, *options: object) -> str:
        printed = verify(bundle, *options, code=1)
        assert printed.stdout == ""
        (line,) = printed.stderr.splitlines()
        assert line.startswith("error: ")
        return str(line)

    return run


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_bundle(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One contig: a few open frames."""
    return some_contigs(tmp_path_factory.mktemp("data") / "small.fa", DEMO["gut"], slice(4, 5))


def drawn_at_random(folder: Path, scale: float) -> None:
    """Change ESM-2's weights a little: a bundle of other embeddings."""
    weights = load_file(folder / "esm2.safetensors")
    generator = torch.Generator().manual_seed(2)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            tensor += scale * torch.randn(tensor.shape, generator=generator)
        weights[name] = tensor
    save_file(weights, folder / "esm2.safetensors")
    rewrite_card(folder)


# --- the bundle itself -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_data_nothing_is_measured_or_written(
    bundle: Path, verify: Verify, precision: str
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    printed = verify(bundle, "--precision", precision)
    assert printed.stdout == ""
    assert printed.stderr == f"{bundle}: files and self-check are sound ({precision} on cpu)\n"
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_without_data_what_was_measured_stays(bundle: Path, verify: Verify) -> None:
    (bundle / "verified.json").write_text("whatever it is")
    verify(bundle, *BF16)
    assert (bundle / "verified.json").read_text() == "whatever it is"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_byte_that_is_another(
    bundle: Path, refused: Callable[..., str], name: str, share: float
) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    (bundle / name).write_bytes(content)
    assert f"{bundle / name}: damaged" in refused(bundle)


@pytest.mark.parametrize("key", ["sha256", "esm2", "fingerprint", "window"])
def test_a_byte_of_the_card_that_is_another(
    bundle: Path, refused: Callable[..., str], key: str
) -> None:
    card = bundle / "bundle.json"
    content = bytearray(card.read_bytes())
    content[content.index(f'"{key}"'.encode()) + 1] ^= 4  # no such key
    card.write_bytes(content)
    assert f"{card}: not a bundle card" in refused(bundle)


def test_a_bundle_that_lacks_a_file(bundle: Path, refused: Callable[..., str]) -> None:
    (bundle / "classifier.safetensors").unlink()
    assert "classifier.safetensors: cannot be read" in refused(bundle)


def test_a_device_that_gives_other_numbers_each_time(
    bundle: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, answers = measuring.self_check, iter([0.0, 1e-6])
    monkeypatch.setattr(measuring, "self_check", lambda *rest: right(*rest) + next(answers))
    assert "gives other numbers each time" in refused(bundle)


# --- a precision against fp32 ------------------------------------------------------------------


def embedded(bundle: Bundle, fasta: Path, folder: Path, *precisions: str) -> Iterator[Any]:
    """Yield the chunks of a file, and their embeddings in each precision."""
    write_chunks([fasta], folder, sample="x", chunking=Chunking(window=500, chunk_size=30))
    settings, cpu = Embedding(precision="bf16", batch_tokens=8192), torch.device("cpu")
    networks = [Networks.open(bundle, cpu, name) for name in precisions]
    for entry in manifest_of(folder).chunks:
        chunk = read_chunk(folder / entry.file, entry)
        yield chunk, *(embed_chunk(chunk, used, settings) for used in networks)


def undecided(folder: Path, fasta: Path, chunks: Path) -> Bundle:
    """Give a bundle a classifier that looks where frames differ little: rounding decides much."""
    found = [result for _, result in embedded(Bundle(folder), fasta, chunks, "fp32")]
    features = torch.cat([torch.cat([e.dnabert_s, e.esm2], dim=1) for e in found])
    mean = features.mean(0)
    direction = torch.linalg.svd(features - mean).Vh[len(features) - 2]
    path = folder / "classifier.safetensors"
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
    weights["hidden_layer.weight"][:2] = torch.stack([direction, -direction])
    weights["hidden_layer.bias"][:2] = torch.stack([-mean @ direction, mean @ direction])
    weights["bn1.weight"] += 1 / ((features - mean) @ direction).std()
    weights["bn1.running_var"] += 1
    weights["output_layer.weight"][:, :2] = torch.eye(2)
    save_file(weights, path)
    rewrite_card(folder)
    return Bundle(folder)


def measured_by_hand(bundle: Bundle, fasta: Path, folder: Path) -> dict[str, Any]:
    """What `verify_precision` measures, for bf16, from the definitions of the numbers."""
    classifier = bundle.open_classifier()
    rows: list[int] = []
    scores: list[list[Any]] = [[], []]
    cosines: dict[str, list[float]] = {"dnabert_s": [], "esm2": []}
    for chunk, *both in embedded(bundle, fasta, folder, "fp32", "bf16"):
        rows += chunk.table["window_row"].to_pylist()
        for kept, found in zip(scores, both, strict=True):
            kept += classifier.scores(found.dnabert_s, found.esm2).tolist()
        for name, values in cosines.items():
            one, two = (getattr(found, name).double().numpy() for found in both)
            norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
            values += ((one * two).sum(axis=1) / norms).tolist()
    calls = []
    for found in scores:
        best: dict[int, list[float]] = {}
        for row, pair in zip(rows, found, strict=True):
            best[row] = [max(x, y) for x, y in zip(best.get(row, pair), pair, strict=True)]
        calls.append({row: virus >= other for row, (other, virus) in best.items()})
    differences = np.abs(np.array(scores[0]) - np.array(scores[1]))[:, 1]
    labels = [[virus >= other for other, virus in found] for found in scores]
    assert 0.3 < np.mean(labels) < 0.7
    return {
        "open_frames": len(rows),
        "windows": manifest_of(folder).windows,
        "label_flips": sum(one != two for one, two in zip(*labels, strict=True)),
        "call_flips": sum(calls[0][row] != calls[1][row] for row in calls[0]),
        "score_max": pytest.approx(differences.max(), rel=1e-5),
        "score_p999": pytest.approx(np.percentile(differences, 99.9), rel=1e-5),
        "cosine_min": {n: pytest.approx(min(v), abs=1e-6) for n, v in cosines.items()},
    }


def test_what_a_precision_changes(
    bundle: Path, verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_CHUNK", 30)  # several chunks, as by hand
    data = some_contigs(tmp_path / "data.fa", DEMO["gut"], slice(4, 6))
    opened = undecided(bundle, data, tmp_path / "fp32")
    printed = verify(bundle, "--data", data, *BF16)
    (run,) = json.loads((bundle / "verified.json").read_text())["precisions"]
    expected = measured_by_hand(opened, data, tmp_path / "chunks")
    assert {key: run[key] for key in expected} == expected
    assert expected["label_flips"] > 0 and expected["call_flips"] > 0
    assert (run["precision"], run["device"], run["recomputed_in_fp32"]) == ("bf16", "cpu", 0)
    assert run["fingerprint"] == opened.card.fingerprint
    assert (run["data"], run["data_sha256"]) == (str(data), sha256(data))
    assert run["versions"]["torch"] == torch.__version__
    assert f"another label   {run['label_flips']} of {run['open_frames']}\n" in printed.stdout
    assert f"another call        {run['call_flips']} of {run['windows']}\n" in printed.stdout
    assert f"{run['score_max']:.2e} at most" in printed.stdout


@pytest.mark.usefixtures("as_if_cuda")
def test_the_device_that_was_measured_on(small: Path, tmp_path: Path) -> None:
    data = measuring.Data(small, 500, tmp_path)
    names = {}
    for device in ("cpu", "cuda:1"):
        found = data.described(Bundle(BUNDLE), torch.device(device))
        names[found["device"]] = found["device_name"]
    assert names == {"cpu": platform.machine(), "cuda": "NVIDIA H100"}


def test_a_bundle_without_classifier(bundle: Path, verify: Verify, small: Path) -> None:
    (bundle / "classifier.safetensors").unlink()
    rewrite_card(bundle, classifier=None)
    verify(bundle)
    assert "unknown: no classifier" in verify(bundle, "--data", small, *BF16).stdout
    (run,) = json.loads((bundle / "verified.json").read_text())["precisions"]
    unknown = ("label_flips", "call_flips", "score_max", "score_p999")
    assert [run[name] for name in unknown] == [None] * 4
    assert all(0.99 < value < 1 for value in run["cosine_min"].values())


# --- what is kept ------------------------------------------------------------------------------


def kept(bundle: Path) -> Verified:
    return read_verified(bundle, Bundle(bundle).card.fingerprint)


def test_a_run_takes_the_place_of_the_last_of_its_kind(
    bundle: Path, verify: Verify, small: Path, tmp_path: Path
) -> None:
    verify(bundle, "--data", small, *BF16)
    (first,) = kept(bundle).precisions
    others = [
        first.model_copy(update={"device": "cuda"}),
        first.model_copy(update={"precision": "fp16", "device": "cuda"}),
    ]
    file = bundle / "verified.json"
    file.write_text(Verified(precisions=[first, *others]).model_dump_json())
    again = shutil.copy(small, tmp_path / "again.fa")
    verify(bundle, "--data", again, *BF16)
    *stayed, new = kept(bundle).precisions
    assert stayed == others
    assert (new.data, new.made > first.made) == (str(again), True)
    found = kept(bundle)
    pairs = [(name, device) for name in ("bf16", "fp16", "tf32") for device in ("cpu", "cuda")]
    assert [found.covers(*pair) for pair in pairs] == [True, True, False, True, False, False]
    assert found.covers("fp32", "cpu") and found.covers("fp32", "cuda")


def test_other_embeddings_are_not_verified(bundle: Path, verify: Verify, small: Path) -> None:
    verify(bundle, "--data", small, *BF16)
    assert kept(bundle).covers("bf16", "cpu")
    drawn_at_random(bundle, 0.01)
    assert not kept(bundle).covers("bf16", "cpu")
    assert kept(bundle).covers("fp32", "cpu")
    verify(bundle, "--data", small, *BF16)
    assert kept(bundle).covers("bf16", "cpu")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"precisions": [{}]}', b'{"precisions": 1}']
)
def test_damaged_results(
    bundle: Path, refused: Callable[..., str], small: Path, content: bytes
) -> None:
    file = bundle / "verified.json"
    file.write_bytes(content)
    line = refused(bundle, "--data", small, *BF16)
    assert f"{file}: cannot be read" in line and line.endswith("; remove it")
    assert file.read_bytes() == content


def test_a_bundle_that_cannot_be_written_to(
    bundle: Path, verify: Verify, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so a folder is where the new file would be begun."""
    partial, usual = bundle / ".verified.json.partial", atomic.partial_path
    partial.mkdir()
    monkeypatch.setattr(
        atomic, "partial_path", lambda path: partial if path.parent == bundle else usual(path)
    )
    printed = verify(bundle, "--data", small, *BF16, code=1)
    assert printed.stdout.startswith("bf16 against fp32")  # it was computed: it is shown
    (line,) = printed.stderr.splitlines()
    assert f"{bundle / 'verified.json'}: cannot be written" in line


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_precision_that_a_cpu_has_not(
    bundle: Path, refused: Callable[..., str], precision: str
) -> None:
    line = refused(bundle, "--device", "cpu", "--precision", precision)
    assert f"precision {precision} needs a CUDA device" in line


def test_data_without_open_frames(
    bundle: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    fasta = tmp_path / "stops.fa"
    fasta.write_text(">stops\n" + "TAAC" * 250 + "\n")  # a stop in all six frames
    assert f"{fasta}: no open frames" in refused(bundle, "--data", fasta, *BF16)


def test_data_that_are_not_there(bundle: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "absent.fa" in refused(bundle, "--data", tmp_path / "absent.fa", *BF16)


def test_the_bundle_of_the_tests_is_not_touched() -> None:
    assert not (BUNDLE / "verified.json").exists()
