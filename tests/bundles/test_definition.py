"""Definitions of bundles: those that ship, a user's own, and mistakes in them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness import BUNDLE
from published import REVISION, published, write_definition

from virnuc_rules.bundles.definition import (
    HubSource,
    PathSource,
    UrlSource,
    customized,
    find_definition,
    read_definition,
    shipped_definitions,
)
from virnuc_rules.bundles.prepare import prepare_bundle
from virnuc_rules.errors import ModelError
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import DnabertConfig, Esm2Config, read_card
from virnuc_rules.models.dnabert import Dnabert
from virnuc_rules.models.esm2 import Esm2

NAMES = ["esm2-150m", "esm2-35m", "esm2-650m", "esm2-8m", "virnucpro-300", "virnucpro-500"]
SHAPES = {  # layers, width, heads (Lin et al., Science 2023, table S1)
    "esm2-8m": (6, 320, 20),
    "esm2-35m": (12, 480, 20),
    "esm2-150m": (30, 640, 20),
    "esm2-650m": (33, 1280, 20),
    "virnucpro-300": (36, 2560, 40),
    "virnucpro-500": (36, 2560, 40),
}


def fields(**changes: Any) -> dict[str, Any]:
    source = {"hub": "lab/model", "revision": REVISION, "files": {"config.json": "0" * 64}}
    return {"dnabert_s": source, "esm2": source, **changes}


# --- those that ship ---------------------------------------------------------------------------


def test_the_shipped_definitions_are_named_as_their_files() -> None:
    assert [definition.name for definition in shipped_definitions()] == NAMES
    for name in NAMES:
        assert find_definition(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_definition_is_sound(name: str) -> None:
    definition = find_definition(name)
    assert isinstance(definition.dnabert_s, HubSource)
    assert {"config.json", "tokenizer.json"} < set(definition.dnabert_s.files)
    assert definition.dnabert_s == find_definition(NAMES[0]).dnabert_s
    published_classifier = name.startswith("virnucpro")
    assert (definition.classifier is not None) == published_classifier
    assert definition.window == (int(name[-3:]) if published_classifier else 500)
    if isinstance(definition.classifier, UrlSource):
        assert definition.classifier.url.endswith(f"/{definition.window}_model.pth")
        assert re.search(r"/[0-9a-f]{40}/", definition.classifier.url)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_of_our_networks(name: str) -> None:
    definition = find_definition(name)
    layers, width, heads = SHAPES[name]
    esm2 = Esm2Config(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    dnabert_s = DnabertConfig(
        num_hidden_layers=12,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        vocab_size=4096,
    )
    with torch.device("meta"):
        networks = {"esm2": Esm2(esm2), "dnabert_s": Dnabert(dnabert_s)}
    for key, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        assert definition.sources[key].parameters == count
    if definition.classifier:
        features = 768 + width
        count = features * 512 + 512 + 2 * 512 + 512 * 2 + 2
        assert definition.classifier.parameters == count


# --- a user's own ------------------------------------------------------------------------------


def test_paths_are_relative_to_the_definition(tmp_path: Path) -> None:
    written = write_definition(
        tmp_path / "mine.yaml", **fields(classifier={"path": "a/b.pth"}, esm2={"path": "/c"})
    )
    definition = read_definition(written)
    assert definition.classifier == PathSource(path=tmp_path / "a/b.pth")
    assert definition.esm2 == PathSource(path=Path("/c"))
    assert definition.unpinned() == []


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"windwo": 300}, "windwo: Extra inputs"),
    "no name": ({"name": ""}, "name: String should have at least 1"),
    "a window of nothing": ({"window": 2}, "window: Input should be greater"),
    "no source": ({"esm2": {"parameters": 3}}, "esm2: one of hub, url or path is needed"),
    "a text for a source": ({"esm2": "facebook/esm2"}, "esm2: one of hub, url or path"),
    "no ESM-2": ({"esm2": None}, "esm2: one of hub, url or path"),
    "two sources": (
        {"esm2": {"url": "http://x/y", "sha256": None, "path": "z"}},
        "esm2.path: Extra inputs",
    ),
    "a branch for a commit": (
        {"esm2": {**fields()["esm2"], "revision": "main"}},
        "esm2.revision: String should match",
    ),
    "no commit": (
        {"esm2": {"hub": "lab/model", "files": {"a": None}}},
        "esm2.revision: Field required",
    ),
    "no files": ({"esm2": {**fields()["esm2"], "files": {}}}, "esm2.files: Dictionary should"),
    "a way out": (
        {"esm2": {**fields()["esm2"], "files": {"../a": None}}},
        "esm2.files.../a.[key]: String should match",
    ),
    "a wrong repository": ({"esm2": {**fields()["esm2"], "hub": "../x"}}, "esm2.hub: String"),
    "half a sha256": (
        {"classifier": {"url": "http://x/y", "sha256": "abc"}},
        "classifier.sha256: String should match",
    ),
    "a sha256 not thought of": ({"classifier": {"url": "http://x/y"}}, "classifier.sha256: Field"),
    "another protocol": (
        {"classifier": {"url": "file:///etc/passwd", "sha256": None}},
        "classifier.url: Value error, not an http or https address",
    ),
    "no port": (
        {"classifier": {"url": "http://user:s3/cret@x/y", "sha256": None}},
        "classifier.url: Value error, not an http or https address",
    ),
    "a blank": (
        {"classifier": {"url": "http://x/y?token=a b", "sha256": None}},
        "classifier.url: Value error, not an http or https address",
    ),
    "no file": (
        {"classifier": {"url": "http://x/", "sha256": None}},
        "classifier.url: Value error, not the address of a file",
    ),
    "a way up": (
        {"classifier": {"url": "http://x/../../y", "sha256": None}},
        "classifier.url: Value error, not the address of a file",
    ),
}


def refusal(text: str) -> str:
    with pytest.raises(ModelError) as raised:
        find_definition(text)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_in_one_line(tmp_path: Path, mistake: str) -> None:
    changes, expected = MISTAKES[mistake]
    path = write_definition(tmp_path / "mine.yaml", **fields(**changes))
    assert refusal(str(path)).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"", "the file: Input should be"),
        (b"- 1", "the file: Input should be"),
        (b"!!python/object/apply:os.system ['touch /tmp/x']", "not YAML"),
    ],
)
def test_what_is_no_definition(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert refusal(str(path)).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(
    "content",
    [
        "esm2: http://user:s3cret@host/x: y",
        "esm2: {files: {'http://user:s3cret@host/x?s3cret': null}, hub: a/b, revision: main}",
        "http://user:s3cret@host/x: 1",
        "esm2: {url: 'http://user:s3cret@[host/x'}",
        "esm2: {url: 'http://user:s3cret/@host/x'}",
        "esm2: {url: 'http://user:s3cret@ho\u2100st/x'}",
    ],
)
def test_a_mistake_beside_a_password_does_not_show_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert "s3cret" not in refusal(str(path))


def test_names_that_are_not_there(tmp_path: Path) -> None:
    assert refusal("virnucpro") == (
        f"no definition 'virnucpro'; give one of {', '.join(NAMES)}, or a .yaml"
    )
    assert "No such file" in refusal(str(tmp_path / "absent.yaml"))


# --- options in the place of sources -----------------------------------------------------------


def test_options_replace_sources() -> None:
    base = find_definition("virnucpro-500")
    paths = {"dnabert_s": None, "esm2": Path("esm.pt"), "classifier": None}
    made = customized(base, name="x", window=None, paths=paths)
    assert made.esm2 == PathSource(path=Path("esm.pt"))  # no sha256, no parameters
    assert (made.dnabert_s, made.classifier) == (base.dnabert_s, base.classifier)
    assert (made.name, made.window) == ("x", 500)
    assert made.description == f"{base.description} Changed: esm2=esm.pt."
    same = customized(base, name=base.name, window=None, paths=dict.fromkeys(paths))
    assert same == base


def test_without_a_definition_all_is_needed() -> None:
    with pytest.raises(ModelError, match="or also --dnabert-s and --window"):
        customized(None, name="x", window=None, paths={"esm2": Path("a")})


def test_options_on_the_command_line(tmp_path: Path, command: Callable[..., Any]) -> None:
    paths = published(tmp_path)
    sources = {name: {"path": str(path)} for name, path in paths.items() if name != "classifier"}
    definition = write_definition(tmp_path / "own.yaml", **sources)
    done = command(
        "models", "prepare", definition, "--classifier", paths["classifier"],
        "--window", 300, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = read_card(tmp_path / "out")
    assert (card.name, card.window) == ("own", 300)
    assert card.source["classifier"].origin == str(paths["classifier"])
    done = command("models", "prepare", "--esm2", paths["esm2"])
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


# --- a bundle without a classifier -------------------------------------------------------------


def test_a_bundle_for_embeddings(tmp_path: Path) -> None:
    paths = {**published(tmp_path), "classifier": None}
    definition = customized(None, name="own", window=500, paths=paths)
    prepare_bundle(definition, tmp_path / "out")
    bundle = Bundle(tmp_path / "out")
    assert bundle.card.classifier is None
    assert bundle.card.fingerprint == read_card(BUNDLE).fingerprint  # the same networks
    assert not (tmp_path / "out/classifier.safetensors").exists()
    bundle.open_esm2(torch.device("cpu"), torch.float32)
    with pytest.raises(ModelError, match=r"out: bundle own has no classifier; .*--classifier"):
        bundle.open_classifier()


# --- looking at them ---------------------------------------------------------------------------


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    paths = {**published(tmp_path), "classifier": None}
    prepare_bundle(
        customized(None, name="own", window=300, paths=paths), tmp_path / "bundles" / "mine"
    )
    (tmp_path / "bundles/broken").mkdir()
    (tmp_path / "bundles/broken/bundle.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shown = command("models", "list").stdout
    assert all(name in shown for name in NAMES)
    rows = {line.split()[1]: line for line in shown.splitlines() if line.startswith("│")}
    assert "6.1 GB" in rows["virnucpro-500"] and "1 file" in rows["virnucpro-500"]
    assert rows["bundles/mine"].split()[3:10:2] == ["own", "300", "esm2_t4", "no"]
    assert "unusable" in rows["bundles/broken"]


def test_show(tmp_path: Path, command: Callable[..., Any]) -> None:
    for model in (str(BUNDLE), "virnucpro-500"):
        readable = command("models", "show", model).stdout
        parsed = json.loads(command("models", "show", model, "--json").stdout)
        assert yaml.safe_load(readable) == parsed
    assert parsed["esm2"]["parameters"] == 2832442880
    (tmp_path / "copy.yaml").write_text(readable)  # a start for one's own
    assert read_definition(tmp_path / "copy.yaml") == find_definition("virnucpro-500")
    assert "no bundle.json" in command("models", "show", tmp_path).stderr
