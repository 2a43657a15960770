"""Files that claim more than they hold are refused in one line, before memory is taken for it."""

import gzip
import io
import json
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import BUNDLE
from published import published
from safetensors.torch import load_file, save_file

from virnuc_rules.bundles.checkpoints import read_classifier, read_dnabert_s, read_esm2
from virnuc_rules.bundles.definition import customized
from virnuc_rules.bundles.prepare import prepare_bundle
from virnuc_rules.config.load import load_config
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import ModelError, VirnucError
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.report import annotations

READERS: dict[str, Callable[[Path], Any]] = {
    "dnabert_s": read_dnabert_s,
    "esm2": read_esm2,
    "classifier": read_classifier,
}
TERA = 4 * 10**12  # numbers; 16 TB
ROOM = 300 << 20  # bytes that a refusal may take, with what libraries import on the way


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return published(tmp_path / "published")


@pytest.fixture(autouse=True)
def little_room(tmp_path: Path) -> Any:
    """Let memory run out soon: addresses are limited to those in use and a few more."""
    read_classifier(sound(tmp_path))  # what is imported once is
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def sound(folder: Path) -> Path:
    path = folder / "sound.pth"
    torch.save(load_file(BUNDLE / "classifier.safetensors"), path)
    return path


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(VirnucError) as raised:
        read(path)
    assert raised.value.exit_code == 1
    message = str(raised.value)
    assert len(message.splitlines()) == 1 and str(path) in message and len(message) < 600
    return message


# --- layers and widths -------------------------------------------------------------------------

CLAIMS = {
    "num_hidden_layers": 3_000_000,
    "hidden_size": 12 * 10**11,
    "intermediate_size": 10**15,
    "num_attention_heads": 12 * 10**11,
    "vocab_size": 10**18,
}


@pytest.mark.parametrize("network", ["dnabert_s", "esm2"])
@pytest.mark.parametrize("key", CLAIMS)
def test_a_config_that_claims_more_than_the_weights(
    files: dict[str, Path], network: str, key: str
) -> None:
    config = files[network] / "config.json"
    claims = {key: CLAIMS[key]}
    if key == "num_attention_heads":  # which divide the width
        claims["hidden_size"] = CLAIMS[key]
    config.write_text(json.dumps(json.loads(config.read_text()) | claims))
    if (network, key) == ("esm2", "vocab_size"):  # is that of the alphabet
        read_esm2(files[network])
        return
    message = refusal(READERS[network], files[network])
    assert f"{CLAIMS[key]:,}" in message and "does not fit the network" in message


def test_a_tensor_without_numbers_is_as_wide_as_it_says(files: dict[str, Path]) -> None:
    weights = files["esm2"] / "model.safetensors"
    save_file(load_file(weights) | {"x": torch.zeros(0, 12 * 10**11)}, weights)
    config = files["esm2"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 12 * 10**11}))
    assert "1,200,000,000,000" in refusal(read_esm2, files["esm2"])


def test_settings_in_a_checkpoint(files: dict[str, Path], tmp_path: Path) -> None:
    names = {"layers.0.fc1.weight": torch.zeros(4, 2)}
    args = Namespace(layers=3_000_000, embed_dim=2, attention_heads=1)
    path = tmp_path / "esm2.pt"
    torch.save({"args": args, "model": names}, path)
    assert "3,000,000" in refusal(read_esm2, path)
    endless: list[Any] = []
    for _ in range(60):  # 2^60 items where it is written
        endless = [endless, endless]
    torch.save({"args": Namespace(layers=endless, embed_dim=2, attention_heads=1)}, path)
    refusal(read_esm2, path)
    torch.save({"args": Namespace(**{**vars(args), "layers": endless}), "model": names}, path)
    assert "num_hidden_layers" in refusal(read_esm2, path)


def test_a_card_that_claims_more_than_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLE, folder)
    card = Bundle(folder).card
    rewrite_card(folder, esm2=card.esm2.model_copy(update={"num_hidden_layers": 3_000_000}))
    cpu = torch.device("cpu")
    path = folder / "esm2.safetensors"
    message = refusal(lambda _: Bundle(folder).open_esm2(cpu, torch.float32), path)
    assert "num_hidden_layers 3,000,000" in message


# --- tensors -----------------------------------------------------------------------------------


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def claiming(held: int, size: int, stride: int, *, view: bytes = b"") -> bytes:
    """A pickle of {"a": tensor}, whose storage and sizes may be any."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu"
    tensor = storage + number(held) + view + b"tQ" + number(0) + numbers(size) + numbers(stride)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + tensor + hooks + b"tRs."


def rewritten(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a file of torch again with another `data.pkl`."""
    torch.save({"a": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize(
    ("held", "size", "stride"), [(1, TERA, 0), (1, TERA, 1), (TERA, TERA, 1), (TERA, TERA, 0)]
)
def test_a_tensor_that_is_larger_than_the_file(
    tmp_path: Path, held: int, size: int, stride: int
) -> None:
    path = rewritten(tmp_path / "x.pth", claiming(held, size, stride))
    refusal(read_classifier, path)
    legacy = tmp_path / "legacy.pth"
    torch.save({"a": torch.zeros(1)}, legacy, _use_new_zipfile_serialization=False)
    head = io.BytesIO(legacy.read_bytes())
    for _ in range(3):
        pickle.load(head)
    rest = (
        claiming(held, size, stride, view=b"N") + pickle.dumps(["0"], 2) + struct.pack("<qf", 1, 0)
    )
    legacy.write_bytes(legacy.read_bytes()[: head.tell()] + rest)
    assert "4,000,000,000,000 numbers" in refusal(read_classifier, legacy)
    sound = claiming(1, 1, 1, view=b"N") + pickle.dumps(["0"], 2) + struct.pack("<qf", 1, 0)
    legacy.write_bytes(legacy.read_bytes()[: head.tell()] + sound)
    assert "output_layer" in refusal(read_classifier, legacy)  # what it lacks


@pytest.mark.parametrize("legacy", [False, True])
def test_an_expanded_tensor(files: dict[str, Path], legacy: bool) -> None:
    path = files["classifier"]
    tensors = torch.load(path, weights_only=True)
    tensors["hidden_layer.weight"] = torch.zeros(1).expand(1000, TERA // 1000)
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    assert "000,000" in refusal(read_classifier, path)
    tensors = load_file(files["dnabert_s"].parent / "esm2_t4/model.safetensors")
    for layer in range(2):
        name = f"encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        tensors[name] = torch.zeros(1).expand(TERA)
    (files["esm2"] / "model.safetensors").unlink()
    torch.save(tensors, files["esm2"] / "pytorch_model.bin")
    assert "32,000,0" in refusal(read_esm2, files["esm2"])


def test_tensors_that_share_memory(files: dict[str, Path], tmp_path: Path) -> None:
    path = files["classifier"]
    tensors = torch.load(path, weights_only=True)
    tensors["bn1.bias"] = tensors["bn1.running_mean"] = tensors["bn1.weight"]
    torch.save(tensors, path)
    definition = customized(None, name="x", window=500, paths={**files})
    with pytest.raises(ModelError, match=r"500_model\.pth: .*clone"):
        prepare_bundle(definition, tmp_path / "out")


@pytest.mark.parametrize(
    "call",
    [
        b"cbuiltins\nbytearray\n" + numbers(10**12) + b"R",
        b"ctorch\nFloatTensor\n" + numbers(TERA) + b"R",
        b"ctorch.storage\nUntypedStorage\n" + numbers(TERA) + b"R",
        b"c_codecs\nencode\n(X\1\0\0\0aX\3\0\0\0hextR",
    ],
)
def test_what_torch_would_call_for_any_amount(tmp_path: Path, call: bytes) -> None:
    path = rewritten(tmp_path / "x.pth", b"\x80\2}X\1\0\0\0a" + call + b"s.")
    assert "refused: it asks for" in refusal(read_classifier, path)


# --- a pickle that is deflated, and whole commands ---------------------------------------------


@pytest.fixture(scope="module")
def deflated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 MB of pickle in less than 10 MB."""
    path = tmp_path_factory.mktemp("deflated") / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x/data.pkl", "w", force_zip64=True) as file:
            file.write(b"\x80\2]")
            for _ in range(600):
                file.write(b"N0" * 500_000)
            file.write(b".")
        archive.writestr("x/version", "3\n")
    assert path.stat().st_size < 10 << 20
    return path


def peak(*command: object) -> tuple[int, str, int]:
    """Run a command; its exit code, what it says, and its peak memory in MB."""
    script = (
        "import pathlib, resource, sys; from virnuc_rules.cli.main import main\n"
        "hard = resource.getrlimit(resource.RLIMIT_AS)[1]\n"
        "resource.setrlimit(resource.RLIMIT_AS, (hard, hard)); sys.argv = sys.argv[1:]\n"
        "try: main()\n"
        "finally: print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1])"
    )
    arguments = [sys.executable, "-c", script, "virnuc-rules", *map(str, command)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, int(done.stdout.split()[0]) // 1024


def test_a_deflated_pickle(deflated: Path, files: dict[str, Path], tmp_path: Path) -> None:
    options = [f"--{key.replace('_', '-')}={path}" for key, path in files.items()]
    shutil.copy(deflated, files["classifier"])
    out = tmp_path / "new"
    code, said, memory = peak("models", "prepare", *options, "--window", 500, "--out", out)
    assert (code, len(said.splitlines())) == (1, 1)
    assert "500_model.pth: compressed: 600," in said and memory < 500
    assert not out.exists()


# --- documents and sheets ----------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"lake\tlake.fa\n", b"x"])
def test_a_sheet_of_gigabytes(tmp_path: Path, line: bytes) -> None:
    sheet = tmp_path / "samples.tsv"
    with sheet.open("wb") as file:
        file.write(b"sample\tpath\n" + line * 1000)
        file.truncate(5 << 30)
    assert "more than 64 MB" in refusal(read_samples, sheet)


def test_documents_of_gigabytes(files: dict[str, Path], tmp_path: Path) -> None:
    for path, read in (
        (files["esm2"] / "config.json", lambda _: read_esm2(files["esm2"])),
        (tmp_path / "config.yaml", lambda path: load_config(path, {})),
    ):
        with path.open("wb") as file:
            file.truncate(5 << 30)
        assert "more than" in refusal(read, path)


def test_an_annotation_that_unpacks_to_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 GB, 32 MB are read (256 MB without the patch, which takes long)."""
    monkeypatch.setattr(annotations, "_MOST", 1 << 25)
    path = tmp_path / "checkv.tsv.gz"
    row = gzip.compress(b"k\tv\n" * 250_000)
    path.write_bytes(gzip.compress(b"contig\tvalue\n") + row * 5000)
    assert "more than 32 MB of text" in refusal(annotations.read_annotations, path)
