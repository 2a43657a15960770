"""What a worker keeps with `keep_embeddings: false`: scores, in files of their own."""

from pathlib import Path

import pytest
import torch
from embedded import configure, tasks_of, work
from harness import copy_bundle, spoil
from safetensors.torch import load_file, save_file

from virnuc_rules.chunking.writer import write_chunks
from virnuc_rules.config.model import Chunking, Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.embedding.embedding_file import Embeddings, Scores, read_result
from virnuc_rules.embedding.scoring import score
from virnuc_rules.errors import ResultError
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.models.card import CLASSIFIER
from virnuc_rules.queue.store import Store
from virnuc_rules.serving.worker import Exit

LONG = "x" * 900


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A chunked sample of 1,200 open frames whose ids are long."""
    contigs = "".join(f">{LONG}{n}\n{'ATGGCCAAGGAC' * 100}\n" for n in range(40))
    (tmp_path / "gut.fa").write_text(contigs)
    config = configure(tmp_path / "results", keep_embeddings=False, batch_tokens=65536)
    folder = RunFolder(config.run.results).chunks("gut").path
    write_chunks([tmp_path / "gut.fa"], folder, Chunking(window=500), sample="gut")
    return config


def test_a_file_of_scores_is_small_and_those_of_the_embeddings(config: Config) -> None:
    assert work(config) == Exit.DRAINED
    (task,) = tasks_of(config)
    store, ids = Store(config.run.results), task.read().ids
    assert [path.stem for path in store.embeddings.glob("*/*")] == [task.key]
    assert store.result(task.key).stat().st_size < 100 * len(ids)
    scores = read_result(store.result(task.key), task.key, ids)
    kept = config.replace(keep_embeddings=True)
    (task,) = tasks_of(kept)
    assert work(kept) == Exit.DRAINED
    embeddings = read_result(store.result(task.key), task.key, ids)
    assert isinstance(scores, Scores) and isinstance(embeddings, Embeddings)
    found = score(Bundle(config.run.bundle).open_classifier(), embeddings, config.run.bundle)
    assert torch.equal(found.scores, scores.scores)
    assert (found.ids, found.computed, found.notes) == (ids, scores.computed, scores.notes)


def test_scores_do_not_depend_on_the_number_of_threads() -> None:
    bundle = Bundle(configure(Path()).run.bundle)
    x = torch.randn(3000, sum(bundle.card.widths), generator=torch.Generator().manual_seed(1))
    width = bundle.card.widths[0]
    embeddings = Embeddings([""] * len(x), x[:, :width], x[:, width:], computed=None)  # type: ignore[arg-type]
    found, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(score(bundle.open_classifier(), embeddings, bundle.folder).scores)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_damaged_scores_are_refused(config: Config) -> None:
    assert work(config) == Exit.DRAINED
    (task,) = tasks_of(config)
    path, ids = Store(config.run.results).result(task.key), task.read().ids
    with pytest.raises(ResultError, match="belongs to other open frames"):
        read_result(path, task.key, ids[::-1])
    good = path.read_bytes()
    for content in (good[:-1], good + b"x", good[:-1] + bytes([good[-1] ^ 1])):
        path.write_bytes(content)
        with pytest.raises(ResultError, match="damaged"):
            read_result(path, task.key, ids)
    path.write_bytes(good)
    spoil(path)
    with pytest.raises(ResultError):
        read_result(path, task.key, ids)


def test_a_classifier_with_unusable_weights_ends_the_worker(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = copy_bundle(tmp_path)
    weights = load_file(bundle / CLASSIFIER)
    weights["output_layer.bias"][0] = float("nan")
    save_file(weights, bundle / CLASSIFIER)
    rewrite_card(bundle)
    config = config.replace(bundle=bundle)
    assert work(config) == Exit.NO_MODELS
    assert "its weights are unusable, make the bundle again" in caplog.text
    store = Store(config.run.results)
    assert not store.attempts() and not store.claimed()
    assert not list(store.embeddings.glob("*/*"))
