"""Copies of a bundle's networks on the disk of a node: made once, checked, and never needed."""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from chunk_folders import chunk_it, some_contigs
from embedded import worker_of
from harness import (
    BUNDLE,
    DEMO,
    UNREADABLE,
    Project,
    copy_bundle,
    environment,
    sha256,
    spoil,
    wait_until,
)

from virnuc_rules.bundles.staged import COPIES, StagedBundle, stage
from virnuc_rules.config.model import Config
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.errors import ModelError
from virnuc_rules.files.atomic import partial_path
from virnuc_rules.models.bundle import Bundle, rewrite_card
from virnuc_rules.models.card import CLASSIFIER, DNABERT_S, ESM2, read_card
from virnuc_rules.queue.store import Store
from virnuc_rules.serving.worker import Exit

NETWORKS = [DNABERT_S, ESM2]
CPU = torch.device("cpu")
FINGERPRINT = read_card(BUNDLE).fingerprint


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The value of `stage_bundle`, and a disk of this test's own."""
    return tmp_path / "node"


def copy_in(node: Path) -> Path:
    return node / COPIES / FINGERPRINT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def open_both(bundle: Bundle) -> dict[str, torch.Tensor]:
    networks = bundle.open_dnabert_s(CPU, torch.float32), bundle.open_esm2(CPU, torch.float32)
    return {f"{i}.{k}": v for i, one in enumerate(networks) for k, v in one.state_dict().items()}


def assert_whole(bundle: StagedBundle, node: Path) -> None:
    """Both networks are those of the bundle, and a whole copy is the only thing on the disk."""
    found, known = open_both(bundle), open_both(Bundle(BUNDLE))
    assert found.keys() == known.keys()
    assert all(torch.equal(found[key], known[key]) for key in known)
    assert names(node / COPIES) == [FINGERPRINT] and names(copy_in(node)) == NETWORKS
    assert all(sha256(copy_in(node) / n) == sha256(BUNDLE / n) for n in NETWORKS)


def test_the_networks_are_loaded_from_the_copy(
    node: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bundle = copy_bundle(tmp_path)
    one = StagedBundle(bundle, str(node))
    for name in NETWORKS:
        (bundle / name).unlink()  # nobody reads them any more
    assert_whole(one, node)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert one.open_classifier() and one.open_tokenizer()


def test_it_is_copied_once(node: Path) -> None:
    StagedBundle(BUNDLE, str(node))
    before = {name: (copy_in(node) / name).stat().st_ino for name in NETWORKS}
    assert_whole(StagedBundle(BUNDLE, str(node)), node)
    assert before == {name: (copy_in(node) / name).stat().st_ino for name in NETWORKS}


def test_nothing_is_copied_without_the_key(tmp_path: Path) -> None:
    before = names(BUNDLE)
    assert open_both(StagedBundle(BUNDLE, ""))
    assert names(BUNDLE) == before


def test_other_networks_have_another_copy_another_classifier_has_not(
    node: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(tmp_path)
    StagedBundle(bundle, str(node))
    rewrite_card(bundle, classifier=None, description="for embeddings only")
    StagedBundle(bundle, str(node))
    assert names(node / COPIES) == [FINGERPRINT]
    shutil.copy(BUNDLE / CLASSIFIER, bundle / "tokenizer.json")
    rewrite_card(bundle)
    StagedBundle(bundle, str(node))
    assert len(names(node / COPIES)) == 2


def test_variables_are_those_of_the_process(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_DISK", str(node))
    assert (
        stage(Bundle(BUNDLE), "$NODE_DISK/deep/er") == node / "deep" / "er" / COPIES / FINGERPRINT
    )


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_the_job_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_DISK", raising=False)
    if value is not None:
        monkeypatch.setenv("NODE_DISK", value)
    assert open_both(StagedBundle(BUNDLE, "$NODE_DISK"))
    (line,) = caplog.messages
    assert line == (
        f"stage_bundle: $NODE_DISK: this job has no such variable; loading from {BUNDLE}"
    )
    assert names(tmp_path) == []


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(UNREADABLE)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("damage", [spoil, cut, Path.unlink])
def test_a_damaged_copy_is_said_and_made_again(
    node: Path, name: str, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    one = StagedBundle(BUNDLE, str(node))
    damage(copy_in(node) / name)  # type: ignore[operator]
    caplog.clear()
    known = open_both(Bundle(BUNDLE))
    assert all(torch.equal(value, known[key]) for key, value in open_both(one).items())
    (line,) = caplog.messages
    assert str(copy_in(node) / name) in line and line.endswith(f"; loading from {BUNDLE}")
    assert not copy_in(node).exists()
    assert_whole(StagedBundle(BUNDLE, str(node)), node)


def test_a_copy_that_cannot_be_read_stays(node: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk with errors proves no damage."""
    one = StagedBundle(BUNDLE, str(node))
    unreadable(copy_in(node) / ESM2)
    assert open_both(one)
    assert any("EIO" in line and f"loading from {BUNDLE}" in line for line in caplog.messages)
    assert names(copy_in(node)) == NETWORKS


def test_a_copy_that_is_gone_when_it_is_needed_later(node: Path) -> None:
    """As of a network in fp32, for rows that are not finite."""
    one = StagedBundle(BUNDLE, str(node))
    assert one.open_esm2(CPU, torch.bfloat16)
    shutil.rmtree(node)
    assert one.open_esm2(CPU, torch.float32)


def test_a_damaged_bundle_is_named_not_its_copy(node: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path)
    spoil(bundle / ESM2)
    one = StagedBundle(bundle, str(node))
    with pytest.raises(ModelError, match=f"^{bundle / ESM2}: damaged"):
        one.open_esm2(CPU, torch.float32)
    assert names(node / COPIES) == []


def test_what_is_private_stays_private(node: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path)
    (bundle / ESM2).chmod(0o400)
    StagedBundle(bundle, str(node))
    assert (copy_in(node) / ESM2).stat().st_mode & 0o777 == 0o400


@pytest.fixture
def small_disk(node: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    node.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(node)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("a small disk can only be mounted as root, with the right to mount")
    yield node
    subprocess.run(["umount", "--lazy", str(node)], check=True, timeout=60)


@pytest.mark.parametrize("small_disk", ["size=1m", "nr_inodes=4", "ro"], indirect=True)
def test_no_room_on_the_node(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seen before, seen while files are copied, or no disk to write to at all."""
    assert open_both(StagedBundle(BUNDLE, str(small_disk)))
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert ("No space left" in line or "EROFS" in line) and f"loading from {BUNDLE}" in line
    assert list(small_disk.rglob("*.safetensors")) == list(small_disk.rglob("*.partial")) == []


@pytest.mark.parametrize("small_disk", ["size=2m"], indirect=True)
def test_what_a_killed_process_left_takes_no_room(small_disk: Path) -> None:
    partial = partial_path(copy_in(small_disk))
    partial.mkdir(parents=True)
    (partial / DNABERT_S).write_bytes(bytes(1_500_000))  # beside it the networks have no room
    assert_whole(StagedBundle(BUNDLE, str(small_disk)), small_disk)


def test_a_file_in_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert open_both(StagedBundle(BUNDLE, str(tmp_path / "file")))
    (line,) = caplog.messages
    assert "Not a directory" in line and line.count("\n") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to another user needs root")
@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_of_another_user_is_not_used(
    node: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_link: bool
) -> None:
    """They could change a file after its hash was compared, or hold the lock for ever."""
    planted = node / COPIES
    folder = tmp_path / "of_theirs" if is_link else planted
    shutil.copytree(BUNDLE, folder / FINGERPRINT)
    if is_link:
        node.mkdir()
        planted.symlink_to(folder)
    else:
        os.chown(planted, 12345, 12345)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert open_both(StagedBundle(BUNDLE, str(node)))
    os.close(lock)
    (line,) = caplog.messages
    assert str(planted) in line and f"loading from {BUNDLE}" in line


def test_nobody_else_may_enter(node: Path) -> None:
    stage(Bundle(BUNDLE), str(node))
    assert (node / COPIES).stat().st_mode & 0o777 == 0o700


KILLED = """
import shutil, sys, time
from pathlib import Path
from virnuc_rules.bundles.staged import stage
from virnuc_rules.models.bundle import Bundle
copy = shutil.copy
def slowly(source, target):
    copy(source, target)
    print("copied", flush=True)
    time.sleep(600)
shutil.copy = slowly
stage(Bundle(Path(sys.argv[1])), sys.argv[2])
"""


def test_killed_in_the_middle_while_another_waits(node: Path) -> None:
    """The other one gets the lock at once, and nothing of the first one stays."""
    words = [sys.executable, "-c", KILLED, str(BUNDLE), str(node)]
    first = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    assert first.stdout and first.stdout.readline() == "copied\n"
    (partial,) = names(node / COPIES)
    assert partial.endswith(".partial") and names(node / COPIES / partial) == [DNABERT_S]
    script = KILLED.replace("time.sleep(600)", "")
    second = subprocess.Popen(
        [sys.executable, "-c", script, *words[3:]], env=environment(), stdout=subprocess.PIPE
    )
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(5)  # it waits for the lock
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second.communicate(timeout=120)
    assert second.returncode == 0
    assert_whole(StagedBundle(BUNDLE, str(node)), node)


def test_many_workers_at_once(chunked: Project, node: Path, undisturbed: Project) -> None:
    """One of them copies; the results are those of a run without copies."""
    workers = [chunked.serve(i, forked=True, stage_bundle=node) for i in range(6)]
    said = "".join(worker.communicate(timeout=300)[1] for worker in workers)
    assert [worker.returncode for worker in workers] == [0] * 6, said
    assert said.count("copying the networks of") == 1 and "loading from" not in said
    assert names(node / COPIES) == [FINGERPRINT] and names(copy_in(node)) == NETWORKS
    assert chunked.digests() == undisturbed.digests()
    assert chunked.left_over() == []


def test_a_worker_with_a_damaged_copy_makes_the_same_results(tmp_path: Path, node: Path) -> None:
    source = some_contigs(tmp_path / "lake.fa", DEMO["lake"], slice(4, 8))
    for folder in ("plain", "staged"):
        chunk_it(source, tmp_path / folder / "chunks" / "lake", window=500, chunk_size=40)
    found = []
    stage(Bundle(BUNDLE), str(node))
    spoil(copy_in(node) / DNABERT_S)
    for folder, copies in (("plain", ""), ("staged", str(node))):
        config = Config.of(results=tmp_path / folder, bundle=BUNDLE, threads=1, stage_bundle=copies)
        tasks = Tasks.of(config.run, config.embedding).of_samples(["lake"])
        one = worker_of(config, "0", tasks)
        assert one.run() == Exit.DRAINED
        assert one.report.load_count == {"dnabert_s": 1, "esm2": 1}
        store = Store(config.run.results)
        found.append({key: sha256(store.result(key)) for key in tasks})
    assert found[0] == found[1]


def test_a_signal_while_it_is_copied(chunked: Project, node: Path) -> None:
    """It ends as while models are loaded: at once, with 75, and nothing is left of the copy."""
    patch = (
        "import shutil, time\ncopy = shutil.copy\n"
        "def slowly(*names):\n    copy(*names)\n    open('copied', 'w').close()\n"
        "    for _ in range(6000):\n        time.sleep(0.1)\n"  # a signal before it would be missed
        "shutil.copy = slowly"
    )
    worker = chunked.serve(patch=patch, stage_bundle=node)
    wait_until((chunked.folder / "copied").exists)
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=120)
    assert worker.returncode == 75, said
    assert "did not stop" not in said
    assert names(node / COPIES) == []
