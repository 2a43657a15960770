"""Models that cannot be loaded: exit 2 in time, the cause in one line, no chunk is blamed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import BUNDLE, DEMO, Project, copy_bundle, environment, rules, sha256, without_settings
from safetensors.torch import load_file, save_file

from virnuc_rules.models import card
from virnuc_rules.models.bundle import rewrite_card
from virnuc_rules.models.esm2 import Esm2

ESM2 = "esm2.safetensors"


def assert_not_loaded(
    project: Project, worker: "subprocess.Popen[str]", cause: str, code: int = 2
) -> None:
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == code, errors
    reason = "models cannot be loaded" if code == 2 else "cannot go on"
    lines = [line for line in errors.splitlines() if reason in line]
    assert len(lines) == 1 and cause in lines[0], errors
    assert "Traceback" not in errors
    assert cause in project.report()["exit_reason"]
    assert project.left_over() == []  # no claim
    assert list((project.results / "queue" / "failed").iterdir()) == []
    assert project.embeddings() == {}


def spoil(path: Path) -> None:
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 0x10
    path.write_bytes(bytes(bad))


def change(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Return what changes the tensors of a file, with hashes that fit."""

    def damage(bundle: Path) -> None:
        tensors = load_file(bundle / name)
        change(tensors)
        save_file(tensors, bundle / name)
        rewrite_card(bundle)

    return damage


def rewrite(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        (bundle / name).write_bytes(content)
        rewrite_card(bundle)

    return damage


def panicking() -> bytes:
    """A tokenizer that opens, but whose Rust code panics when it is used."""
    tokenizer = json.loads((BUNDLE / "tokenizer.json").read_text())
    del tokenizer["post_processor"]["special_tokens"]["[SEP]"]
    return json.dumps(tokenizer).encode()


def narrower(tensors: dict[str, torch.Tensor]) -> None:
    key = max(tensors, key=lambda key: tensors[key].ndim)
    tensors[key] = tensors[key][:-1].contiguous()


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda b: (b / ESM2).unlink(), "esm2.safetensors: cannot be read (No such file"),
        (lambda b: (b / "tokenizer.json").unlink(), "tokenizer.json: cannot be read (No such file"),
        (lambda b: spoil(b / ESM2), "esm2.safetensors: damaged (sha256 differs"),
        (lambda b: spoil(b / "dnabert_s.safetensors"), "dnabert_s.safetensors: damaged (sha256"),
        (lambda b: os.truncate(b / ESM2, 1000), "esm2.safetensors: damaged"),
        (rewrite(ESM2, b"\xff" * 5000), "esm2.safetensors: damaged"),
        (rewrite("tokenizer.json", b"{}"), "tokenizer.json"),
        (rewrite("tokenizer.json", panicking()), "PanicException: no entry found"),
        (change(ESM2, lambda t: t.popitem()), "Missing key"),
        (change(ESM2, lambda t: t.update(more=torch.ones(2))), "Unexpected key"),
        (change("dnabert_s.safetensors", narrower), "size mismatch"),
    ],
    ids=[
        "no weights", "no tokenizer", "a bit of ESM-2", "a bit of DNABERT-S", "truncated",
        "no safetensors", "no tokenizer inside", "a tokenizer that panics", "a tensor less",
        "a tensor more", "other shape",
    ],
)  # fmt: skip
def test_files(chunked: Project, damage: Callable[[Path], None], cause: str) -> None:
    bundle = copy_bundle(chunked.folder)
    damage(bundle)
    assert_not_loaded(chunked, chunked.serve(forked=True, bundle=bundle), cause)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"device": "cuda:7"}, "device cuda:7 is not available"),
        ({"device": "cpu", "precision": "fp16"}, "fp16"),
    ],
)
def test_devices(chunked: Project, settings: dict[str, str], cause: str) -> None:
    assert_not_loaded(chunked, chunked.serve(forked=True, **settings), cause)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [({"bundle": "nowhere"}, "nowhere/bundle.json: no such file"), ({"device": "tpu"}, "device")],
)
def test_no_card_or_no_such_kind_of_device(
    chunked: Project, settings: dict[str, str], cause: str
) -> None:
    """They are seen before anything starts."""
    worker = chunked.serve(forked=True, **settings)
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == 1 and cause in errors
    assert (
        len(without_settings(errors).splitlines()) == 1 and not (chunked.results / "queue").exists()
    )


def test_a_classifier_is_no_concern_of_workers(tmp_path: Path) -> None:
    project = Project(tmp_path, samples={"lake": DEMO["lake"]}, chunk_size=1000)
    bundle = copy_bundle(tmp_path)
    spoil(bundle / "classifier.safetensors")
    project.chunk()
    worker = project.serve(forked=True, bundle=bundle)
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == 0, errors
    options = ("--sample=lake", f"--bundle={bundle}", f"--results={project.results}")
    done = rules("predict", *options, "--out", project.results / "lake")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "classifier.safetensors: damaged (sha256 differs" in done.stderr
    assert not (project.results / "lake").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "dnabert_s.safetensors", ESM2])
def test_a_pipe_in_place_of_a_file(chunked: Project, name: str) -> None:
    bundle = copy_bundle(chunked.folder)
    (bundle / name).unlink()
    os.mkfifo(bundle / name)  # reading it would wait for a writer who never comes
    worker = chunked.serve(forked=True, bundle=bundle)
    assert_not_loaded(chunked, worker, f"{name}: cannot be read (not a regular file)")


HANG = """
import ctypes
from virnuc_rules.serving import loading
loading.Loader.load = lambda self, index: ctypes.{how}(None).sleep(600)
"""


def test_a_hang(chunked: Project) -> None:
    worker = chunked.serve(patch=HANG.format(how="CDLL"), load_timeout=2)
    assert_not_loaded(chunked, worker, "not done after 2 s")


def test_a_hang_with_the_interpreter_lock(chunked: Project) -> None:
    """A driver may do this: no thread of ours can run then, not even the watchdog."""
    worker = chunked.serve(patch=HANG.format(how="PyDLL"), load_timeout=2)
    _, errors = worker.communicate(timeout=200)
    assert worker.returncode == 1
    assert "Timeout" in errors and "worker.py" in errors  # and where it was
    assert chunked.embeddings() == {}
    assert list((chunked.results / "queue" / "claims").iterdir()) == []


def test_too_little_memory(chunked: Project) -> None:
    """A bundle of 1.3 GB for a process that may have 0.7 GB more than it has."""
    bundle = copy_bundle(chunked.folder)
    known = card.read_card(bundle)
    shape = card.Esm2Config(
        num_hidden_layers=25,
        hidden_size=known.esm2.hidden_size * 16,
        num_attention_heads=16,
        intermediate_size=known.esm2.hidden_size * 64,
    )
    with torch.device("meta"):
        tensors = Esm2(shape).state_dict()
    save_file({key: torch.zeros(t.shape, dtype=t.dtype) for key, t in tensors.items()},
              bundle / ESM2)  # fmt: skip
    rewrite_card(bundle, esm2=shape, classifier=None)
    size = (bundle / ESM2).stat().st_size
    script = (
        "import os, resource, torch; from virnuc_rules.cli import main as cli;"
        "from virnuc_rules.embedding import embed;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        f"resource.setrlimit(resource.RLIMIT_AS, 2 * [used + {size // 2}]); cli.main()"
    )
    command = [sys.executable, "-c", script, *chunked.serve_command(0, bundle=bundle)[1:]]
    worker = subprocess.Popen(
        command, cwd=chunked.folder, env=environment(), text=True, stderr=subprocess.PIPE
    )
    assert_not_loaded(chunked, worker, "not enough memory", code=75)


def test_no_respawn_and_the_same_command_after_the_repair(
    tmp_path: Path, undisturbed: Project
) -> None:
    """A sample is done already; another comes when the bundle is damaged."""
    bundle = copy_bundle(tmp_path)
    project = Project(tmp_path, samples={"lake": DEMO["lake"]}, bundle=str(bundle))
    assert project.run().returncode == 0
    embeddings, tables = project.embeddings(), project.tables()
    good = (bundle / ESM2).read_bytes()
    spoil(bundle / ESM2)
    project.set_samples(DEMO)
    first = project.run()
    assert first.returncode != 0
    lines = [line for line in first.stdout.splitlines() if "esm2.safetensors: damaged" in line]
    assert len(lines) == 1, first.stdout  # one worker, one attempt: the profile has no retries
    assert len(list(project.results.glob("logs/serve/0.attempt-*.log"))) == 2
    assert project.embeddings() == embeddings and project.left_over() == []
    assert {table: sha256(project.results / table) for table in tables} == tables
    (bundle / ESM2).write_bytes(good)
    second = project.run()
    assert second.returncode == 0, second.stdout
    assert embeddings.items() < project.embeddings().items()
    assert project.tables() == undisturbed.tables()
