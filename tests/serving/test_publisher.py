"""Writing a result while the next chunk is embedded: nothing is half there, no claim stays."""

import errno
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from chunk_folders import chunk_it, some_contigs
from embedded import worker_of
from harness import BUNDLE, DEMO, wait_until

from virnuc_rules.config.model import Config, Embedding
from virnuc_rules.embedding import embedding_file as results
from virnuc_rules.embedding.embedding_file import Computation, Embeddings, read_result
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.errors import EnvironmentProblem
from virnuc_rules.files import environment
from virnuc_rules.queue import waiting
from virnuc_rules.queue.claims import Claim, Queue
from virnuc_rules.serving.publisher import Publisher
from virnuc_rules.serving.worker import Exit

SETTINGS = Embedding(precision="fp32", batch_tokens=8192)
HOW = Computation(precision="fp32", device="cpu")
KEYS = [letter * 64 for letter in "abc"]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path, "0", 60) as queue:
        yield queue


def result(number: int) -> Embeddings:
    return Embeddings(
        [str(number)], torch.full((1, 3), float(number)), torch.full((1, 2), float(number)), HOW
    )


def claimed(queue: Queue, key: str) -> Claim:
    claim = queue.claim(key)
    assert claim
    return claim


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_two_claims_are_held_while_a_result_is_written(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), results.write_result

    def slow(*arguments: object) -> None:
        assert may_write.wait(60)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "write_result", slow)
    published: list[str] = []
    with Publisher(queue, SETTINGS, lambda claim, _: published.append(claim.key)) as publisher:
        publisher.publish(claimed(queue, KEYS[0]), partial(result, 0))
        second = claimed(queue, KEYS[1])
        assert names(queue.store.claims) == KEYS[:2] and published == []
        may_write.set()
        publisher.publish(
            second, partial(result, 1)
        )  # the first is in place before the second begins
        assert published == KEYS[:1] and queue.store.is_done(KEYS[0])
    assert published == KEYS[:2] and names(queue.store.claims) == []
    for number in (0, 1):
        found = read_result(queue.store.result(KEYS[number]), KEYS[number], [str(number)])
        assert torch.equal(found.esm2, result(number).esm2)


def test_each_result_is_announced_once_in_order_by_the_caller(queue: Queue) -> None:
    calls: list[tuple[str, int, bool]] = []

    def published(claim: Claim, found: Embeddings) -> None:
        calls.append((found.ids[0], threading.get_ident(), queue.store.is_done(claim.key)))

    with Publisher(queue, SETTINGS, published) as publisher:
        for number in range(5):
            publisher.publish(claimed(queue, str(number) * 64), partial(result, number))
        publisher.settle()
        publisher.settle()  # nothing is left to announce
    assert calls == [(str(number), threading.get_ident(), True) for number in range(5)]


def test_what_went_wrong_is_raised_and_nothing_is_left(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"a part of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(results, "write_result", full)
    published: list[str] = []
    with (
        pytest.raises(EnvironmentProblem, match=f"{KEYS[0]}.*No space left"),
        Publisher(queue, SETTINGS, lambda claim, _: published.append(claim.key)) as publisher,
    ):
        publisher.publish(claimed(queue, KEYS[0]), partial(result, 0))
        publisher.settle()
    assert published == [] and queue.postponed == {KEYS[0]}
    assert names(queue.store.claims) == [] and names(queue.store.embeddings) == []


def test_what_passes_costs_no_second_computation(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, errors = results.write_result, [errno.ESTALE, errno.EIO]

    def at_last(*arguments: object) -> None:
        if errors:
            raise OSError(errors.pop(), "it passes")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "write_result", at_last)
    published: list[str] = []
    with Publisher(queue, SETTINGS, lambda claim, _: published.append(claim.key)) as publisher:
        publisher.publish(claimed(queue, KEYS[0]), partial(result, 0))
    assert published == KEYS[:1] and queue.store.is_done(KEYS[0])


@pytest.mark.parametrize(
    ("cause", "error"), [(MemoryError, EnvironmentProblem), (ZeroDivisionError, ZeroDivisionError)]
)
def test_an_error_of_any_kind_is_raised_once_and_ends_claim_and_thread(
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    cause: type[Exception],
    error: type[Exception],
) -> None:
    """As of a library below: not only the disk can fail."""

    def broken(*_: object) -> None:
        raise cause

    monkeypatch.setattr(results, "write_result", broken)
    with Publisher(queue, SETTINGS, lambda *_: None) as publisher:
        publisher.publish(claimed(queue, KEYS[0]), partial(result, 0))
        with pytest.raises(error):
            publisher.settle()
        publisher.settle()
    assert names(queue.store.claims) == [] and queue.held == {}
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("publisher")]


def test_an_error_while_embedding_waits_for_the_result_before(queue: Queue) -> None:
    published: list[str] = []
    with (
        pytest.raises(ZeroDivisionError),
        Publisher(queue, SETTINGS, lambda claim, _: published.append(claim.key)) as publisher,
    ):
        publisher.publish(claimed(queue, KEYS[0]), partial(result, 0))
        raise ZeroDivisionError
    assert published == KEYS[:1] and queue.store.is_done(KEYS[0])


def test_the_cause_is_named_where_both_go_wrong(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "write_result", full)
    with (
        pytest.raises(EnvironmentProblem, match="No space left"),
        Publisher(queue, SETTINGS, lambda *_: None) as publisher,
    ):
        publisher.publish(claimed(queue, KEYS[0]), partial(result, 0))
        raise InterruptedError("a signal came meanwhile")


def test_sigterm_while_a_result_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That result is still published; the chunk that is embedded meanwhile is given up."""
    source = some_contigs(tmp_path / "lake.fa", DEMO["lake"], slice(4, 8))
    chunk_it(source, tmp_path / "chunks" / "lake", window=500, chunk_size=4)
    config = Config.of(results=tmp_path, bundle=BUNDLE, threads=1, lease_seconds=60)
    tasks = Tasks.of(config.run, config.embedding).of_samples(["lake"])
    worker, write = worker_of(config, "0", tasks), results.write_result

    def stopped(*arguments: object) -> None:
        assert threading.get_ident() != threading.main_thread().ident
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        wait_until(worker.queue.interrupted.is_set)
        write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_result", stopped)
        assert worker.run() == Exit.TRY_AGAIN
    store = worker.queue.store
    done = store.done(tasks)
    assert 0 < len(done) == worker.report.chunks < len(tasks)
    assert worker.report.exit_reason == "interrupted by SIGTERM"
    assert names(store.claims) == names(store.failures) == []
    assert names(store.embeddings) == sorted(f"{key}.safetensors" for key in done)
    for key in done:
        read_result(store.result(key), key, tasks[key].read().ids)
    assert worker_of(config, "0", tasks).run() == Exit.DRAINED


def test_a_result_is_kept_while_the_server_is_away(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a write is tried again; the claim is held all the time."""
    gone, tries, published = OSError(errno.ENOTCONN, "it"), list[bool](), list[Claim]()
    write, is_back = results.write_result, threading.Event()

    def written(*arguments: object) -> None:
        tries.append(KEYS[0] in queue.held)
        if not is_back.is_set():
            raise gone
        write(*arguments)  # type: ignore[arg-type]

    def probed(_: Path) -> None:
        if not is_back.is_set():
            raise EnvironmentProblem("away") from gone

    monkeypatch.setattr(results, "write_result", written)
    monkeypatch.setattr(waiting, "probe", probed)
    monkeypatch.setattr(waiting, "_PAUSE", 0.01)
    monkeypatch.setattr(environment, "_PAUSES", (0.0, 0.0))
    with Publisher(queue, SETTINGS, lambda claim, _: published.append(claim)) as publisher:
        publisher.publish(claim := claimed(queue, KEYS[0]), lambda: result(1))
        wait_until(lambda: len(tries) == 3)
        assert queue.held
        is_back.set()
        publisher.settle()
    assert published == [claim] and queue.held == {} and tries == [True] * 4
    assert queue.store.is_done(KEYS[0])
