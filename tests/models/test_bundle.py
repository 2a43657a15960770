"""Model bundles: the two that are committed, their making, and bundles that are damaged."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import BUNDLE, DEMO, REPO, copy_bundle
from pydantic import ValidationError
from untrained import make_untrained_bundle

from virnuc_rules.errors import ModelError
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.models.card import (
    CLASSIFIER,
    DNABERT_S,
    ESM2,
    FILES,
    TOKENIZER,
    BundleCard,
    read_card,
)

SHIPPED = REPO / "demo" / "bundle"
CPU = torch.device("cpu")
OPEN: dict[str, Callable[[Bundle], object]] = {
    TOKENIZER: lambda bundle: bundle.open_tokenizer(),
    DNABERT_S: lambda bundle: bundle.open_dnabert_s(CPU, torch.float32),
    ESM2: lambda bundle: bundle.open_esm2(CPU, torch.float32),
    CLASSIFIER: lambda bundle: bundle.open_classifier(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_bundle(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def model_error(path: Path, do: Callable[[], object]) -> str:
    """Call; it must be refused with one line that begins with the path."""
    with pytest.raises(ModelError) as raised:
        do()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message


# --- the bundle of the tests, and the demo's ---------------------------------------------------


@pytest.mark.parametrize("bundle", [BUNDLE, SHIPPED], ids=["untrained", "demo"])
def test_a_committed_bundle_is_whole(bundle: Path) -> None:
    card = read_card(bundle)
    found = contents(bundle)
    assert found.keys() >= {"bundle.json", *FILES} == {"bundle.json", *OPEN}
    assert {n: hashlib.sha256(found[n]).hexdigest() for n in card.sha256} == card.sha256
    for open_it in OPEN.values():
        open_it(Bundle(bundle))


def test_the_demo_bundle_says_that_it_is_one() -> None:
    card = read_card(SHIPPED)
    assert card.demo
    assert "demo" in card.name
    assert card.description.startswith("DEMO MODEL.")


def test_the_demo_bundle_is_small() -> None:
    """12 MB of weights, and 1 MB for all else: it comes with each clone and each image."""
    assert sum(map(len, contents(SHIPPED).values())) <= 13_000_000


def test_random_weights_say_that_their_scores_mean_nothing() -> None:
    card = read_card(BUNDLE)
    assert card.demo
    assert card.description.startswith("UNTRAINED.")
    assert "scores and calls mean nothing" in card.description
    assert "random weights" in card.description


def test_the_bundle_of_the_tests_is_what_its_recipe_gives(tmp_path: Path) -> None:
    make_untrained_bundle(DEMO.values(), tmp_path / "again", seed=1)
    assert contents(tmp_path / "again") == contents(BUNDLE)
    make_untrained_bundle(DEMO.values(), tmp_path / "other", seed=2)
    other = contents(tmp_path / "other")
    same = {name for name, content in contents(BUNDLE).items() if other[name] == content}
    assert same == {TOKENIZER}


# --- damaged files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.001, 0.3, 0.7, -1])
def test_a_flipped_byte(folder: Path, name: str, place: float) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 0xFF
    path.write_bytes(content)
    assert "damaged (sha256 differs" in model_error(path, lambda: OPEN[name](Bundle(folder)))
    for other in set(FILES) - {name}:  # these are as they were
        OPEN[other](Bundle(folder))


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in model_error(path, lambda: OPEN[name](Bundle(folder)))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = model_error(folder / name, lambda: OPEN[name](Bundle(folder)))
    assert "No such file" in message


# --- bundle.json -------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the card; every file of the bundle stays as it is."""
    path = folder / "bundle.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        message = model_error(folder / "bundle.json", lambda folder=folder: Bundle(folder))
        assert "no such file" in message


@pytest.mark.parametrize("content", [b"", b"[]", b"name: demo", b"{}", b"\xff\xfe", b"null"])
def test_garbage_for_a_card(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    assert "not a bundle card" in model_error(folder / "bundle.json", lambda: Bundle(folder))


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "an extra key": lambda card: card.update(more=1),
    "a key too few": lambda card: card.pop("window"),
    "a text for a number": lambda card: card.update(window="wide"),
    "a classifier of other features": lambda card: card["classifier"].update(features=100),
    "no hash of a file": lambda card: card["sha256"].pop(ESM2),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_card(folder: Path, wrong: str) -> None:
    rewrite(folder, WRONG[wrong])
    model_error(folder / "bundle.json", lambda: Bundle(folder))


def test_a_card_with_shapes_of_other_weights(folder: Path) -> None:
    rewrite(folder, lambda card: card["dnabert_s"].update(intermediate_size=60))
    assert "changed since" in model_error(folder / "bundle.json", lambda: Bundle(folder))


BAD_SHAPES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "DNABERT-S: a key too few": (DNABERT_S, lambda card: card["dnabert_s"].pop("hidden_size")),
    "ESM-2: a key too few": (ESM2, lambda card: card["esm2"].pop("num_attention_heads")),
    "ESM-2: no heads": (ESM2, lambda card: card["esm2"].update(num_attention_heads=0)),
    "classifier: a key too few": (CLASSIFIER, lambda card: card["classifier"].pop("hidden")),
    "classifier: a key too many": (CLASSIFIER, lambda card: card["classifier"].update(more=1)),
}


@pytest.mark.parametrize("which", BAD_SHAPES)
def test_impossible_shapes(folder: Path, which: str) -> None:
    name, change = BAD_SHAPES[which]
    rewrite(folder, change)
    with pytest.raises(ModelError, match=r"bundle\.json"):
        OPEN[name](Bundle(folder))


@pytest.mark.parametrize(
    ("right", "flipped"),
    [(b'heads": 12', b'heads": 16'), (b"1e-12", b"1e-52")],
)
def test_a_flipped_bit_in_the_card(folder: Path, right: bytes, flipped: bytes) -> None:
    path = folder / "bundle.json"
    assert sum((a ^ b).bit_count() for a, b in zip(right, flipped, strict=True)) == 1
    assert right in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(right, flipped))
    with pytest.raises(ModelError):
        for open_it in OPEN.values():
            open_it(Bundle(folder))


# --- a card that is rewritten ------------------------------------------------------------------


def test_a_card_with_other_words(folder: Path) -> None:
    rewrite_card(folder)  # with fields that a card of an older version lacks
    before = contents(folder)
    card = rewrite_card(folder, name="x", description="y")
    assert card == read_card(folder) == changed(name="x", description="y")
    rewrite_card(folder, name=read_card(BUNDLE).name, description=read_card(BUNDLE).description)
    assert contents(folder) == before


@pytest.mark.parametrize("name", FILES)
def test_a_card_over_other_files(folder: Path, name: str) -> None:
    """Hashes are those of the files, and the fingerprint follows all but the classifier."""
    (folder / name).write_bytes(b"other")
    card = rewrite_card(folder)
    Bundle(folder).check(*FILES)
    known = read_card(BUNDLE)
    assert {n for n in FILES if card.sha256[n] != known.sha256[n]} == {name}
    assert (card.fingerprint == known.fingerprint) is (name == CLASSIFIER)


def test_a_card_without_its_classifier(folder: Path) -> None:
    card = rewrite_card(folder, classifier=None)
    assert set(card.sha256) == set(FILES) - {CLASSIFIER}
    assert card.fingerprint == read_card(BUNDLE).fingerprint


@pytest.mark.parametrize("wrong", [{"more": 1}, {"window": 0}, {"classifier": {"features": 1}}])
def test_what_is_no_card_is_not_written(folder: Path, wrong: dict[str, Any]) -> None:
    before = contents(folder)
    with pytest.raises(ValidationError):
        rewrite_card(folder, **wrong)
    assert contents(folder) == before


def test_a_card_without_a_file_is_not_written(folder: Path) -> None:
    (folder / TOKENIZER).unlink()
    before = contents(folder)
    with pytest.raises(FileNotFoundError):
        rewrite_card(folder, name="x")
    assert contents(folder) == before


def test_a_card_that_was_changed_is_not_made_good(folder: Path) -> None:
    rewrite(folder, lambda card: card["esm2"].update(num_attention_heads=8))
    message = model_error(folder / "bundle.json", lambda: rewrite_card(folder, name="x"))
    assert "changed since" in message


# --- the fingerprint ---------------------------------------------------------------------------


def changed(**fields: Any) -> BundleCard:
    return read_card(BUNDLE).model_copy(update=fields)


def test_the_fingerprint_is_that_of_the_embeddings() -> None:
    card = read_card(BUNDLE)
    different = [
        changed(dnabert_s=card.dnabert_s.model_copy(update={"layer_norm_eps": 1e-5})),
        changed(esm2=card.esm2.model_copy(update={"num_attention_heads": 8})),
        *(changed(sha256={**card.sha256, name: "0" * 64}) for name in (DNABERT_S, TOKENIZER, ESM2)),
    ]
    assert (
        len({card.embedding_fingerprint(), *(other.embedding_fingerprint() for other in different)})
        == 6
    )


def test_the_fingerprint_does_not_depend_on_classifier_or_words() -> None:
    card = read_card(BUNDLE)
    for other in (
        changed(sha256={**card.sha256, CLASSIFIER: "0" * 64}),
        changed(classifier=card.classifier.model_copy(update={"hidden": 64})),
        changed(name="x", description="y", demo=False),
        changed(sha256=dict(reversed(card.sha256.items()))),
    ):
        assert other.embedding_fingerprint() == card.embedding_fingerprint()
