"""Filesystems on which the queue cannot work are named when a worker starts, in one line."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from gluster import run
from harness import BUNDLE, DEMO, REPO, environment, rules, wait_until
from injector import Faults, compiled

from virnuc_rules.errors import EnvironmentProblem, VirnucError
from virnuc_rules.files.probe import probe
from virnuc_rules.queue.store import Store

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
PROBE = f"""
import sys; sys.path.insert(0, {str(REPO)!r})
from pathlib import Path
from virnuc_rules.files.probe import probe
try:
    probe(Path(sys.argv[1]) / "it")
except Exception as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@contextmanager
def unmounted(folder: Path, *needed: str) -> Iterator[Path]:
    """Give a folder to mount at, unmounted at the end; skip where that cannot be."""
    missing = [name for name in needed if not (shutil.which(name) or Path(name).exists())]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder.mkdir()
    try:
        yield folder
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounting is not possible here: {error.stderr}")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True, timeout=60)


@contextmanager
def bindfs(folder: Path, *options: str) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    with unmounted(folder / "bound", "bindfs") as mount:
        run("bindfs", *options, disk, mount)
        yield mount


@contextmanager
def sshfs(folder: Path) -> Iterator[Path]:
    """Without ssh: the two programs talk to each other by a socket."""
    disk = folder / "disk"
    disk.mkdir()
    with unmounted(folder / "far", "sshfs", str(SFTP_SERVER)) as mount:
        ours, theirs = socket.socketpair()
        command = ["sshfs", "-f", "-o", "passive", f":{disk}", mount]
        with (
            ours, theirs,
            subprocess.Popen([SFTP_SERVER], stdin=ours, stdout=ours) as server,
            subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True
            ) as client,
        ):  # fmt: skip
            try:
                wait_until(lambda: mount.is_mount() or client.poll() is not None)
                if client.returncode is not None:
                    said = client.communicate()[1]
                    raise subprocess.CalledProcessError(client.returncode, command, stderr=said)
                yield mount
            finally:
                subprocess.run(["umount", "--lazy", mount], check=False, timeout=60)
                for process in (client, server):
                    process.kill()


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return compiled(tmp_path_factory.mktemp("injector"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def served(folder: Path, results: Path) -> "subprocess.CompletedProcess[str]":
    """Start a worker on results with a chunked sample; it must end at once."""
    samples = folder / "samples.tsv"
    samples.write_text(f"sample\tpath\ngut\t{DEMO['gut']}\n")
    rules("chunk", DEMO["gut"], "--out", results / "chunks/gut", "--window", 500, check=True)
    return rules("serve", "--samples", samples, "--results", results, "--bundle", BUNDLE)


def left(results: Path) -> list[str]:
    found = [*results.rglob(".*.partial"), *results.glob("queue/claims/*")]
    return [str(path) for path in found]


@pytest.mark.parametrize("filesystem", ["bindfs", "sshfs"])
def test_without_link_counts(tmp_path: Path, filesystem: str) -> None:
    """Nobody could know who has a chunk: workers waited for ever, without a word."""
    mounted = sshfs(tmp_path) if filesystem == "sshfs" else bindfs(tmp_path, "--hide-hard-links")
    with mounted as mount:
        done = served(tmp_path, mount / "results")
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"worker 0: cannot go on: {mount}/results/queue/workers: "), last
        assert "hard links are not counted (st_nlink is 1, not 2); put `results` on" in last
        assert "loaded" not in done.stderr and "Traceback" not in done.stderr
        assert left(mount / "results") == []


def test_a_mount_that_only_passes_through_is_fine(tmp_path: Path) -> None:
    with bindfs(tmp_path) as mount:
        probe(mount / "it")
        assert list(mount.iterdir()) == []


def test_without_renames(tmp_path: Path) -> None:
    with bindfs(tmp_path, "--rename-deny") as mount:
        with pytest.raises(VirnucError, match=r"a rename does not replace a file .*\(EPERM\)"):
            probe(mount / "it")
        assert list(mount.iterdir()) == []


def test_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    """By the next worker that ends; not by one that starts, for others may be at it."""
    store = Store(tmp_path)
    store.workers.mkdir(parents=True)
    (store.workers / f".0.probe.{'0' * 32}.partial").touch()
    (store.workers / "0.json").touch()
    store.sweep([])
    assert list(store.workers.iterdir()) == [store.workers / "0.json"]


def test_one_that_is_disturbed_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def linked(source: Path, target: Path) -> None:
        link(source, target)
        for path in tmp_path.iterdir():
            path.unlink()
        monkeypatch.setattr(os, "link", link)

    monkeypatch.setattr(os, "link", linked)
    probe(tmp_path / "it")
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_under_one_name(tmp_path: Path) -> None:
    """As workers do that are started by hand without an index: all are worker 0."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: probe(tmp_path / "it"), range(400)))
    assert list(tmp_path.iterdir()) == []


REFUSED = [
    ("link", errno.EPERM, 1, "hard links do not work"),
    ("link", errno.ENOTSUP, 1, "hard links do not work"),
    ("link", errno.EMLINK, 1, "hard links do not work"),
    ("rename", errno.EXDEV, 1, "a rename does not replace a file"),
    ("fsync", errno.EINVAL, 1, "a file cannot be flushed to the disk"),
    ("link", errno.EDQUOT, 75, "files cannot be made, linked, renamed and flushed here"),
    ("open", errno.EDQUOT, 75, "files cannot be made, linked, renamed and flushed here"),
    ("write", errno.ENOSPC, 75, "files cannot be made, linked, renamed and flushed here"),
    ("fsync", errno.EDQUOT, 75, "files cannot be made, linked, renamed and flushed here"),
]


@pytest.mark.parametrize(("call", "number", "code", "why"), REFUSED)
def test_refused(
    tmp_path: Path, injector: Path, call: str, number: int, code: int, why: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    faults = Faults(
        below=folder, log=tmp_path / "faults", calls=call, probability=1.0, errno=number
    )
    variables = {**environment(), **faults.variables(), "LD_PRELOAD": str(injector)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, folder],
        env=variables, text=True, capture_output=True, timeout=100,
    )  # fmt: skip
    said = f"{os.strerror(number)} ({errno.errorcode[number]})"
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{folder}: {why}") and said in line
    assert list(folder.iterdir()) == []


def test_a_worker_whose_quota_is_full(tmp_path: Path, injector: Path) -> None:
    """The whole command, with the exit code by which a scheduler knows to try again."""
    results = tmp_path / "results"
    rules("chunk", DEMO["gut"], "--out", results / "chunks/gut", "--window", 500, check=True)
    (tmp_path / "samples.tsv").write_text(f"sample\tpath\ngut\t{DEMO['gut']}\n")
    below = results / "queue/workers"
    faults = Faults(
        below=below, log=tmp_path / "faults", calls="link", probability=1.0, errno=errno.EDQUOT
    )
    variables = {
        **environment(),
        **faults.variables(),
        "LD_PRELOAD": str(injector),
        "PYTHONPATH": str(REPO),
    }
    command = [
        "virnuc-rules", "serve", "--samples", tmp_path / "samples.tsv", "--results", results,
        "--bundle", BUNDLE,
    ]  # fmt: skip
    done = subprocess.run(command, env=variables, text=True, capture_output=True, timeout=300)
    assert done.returncode == 75, done.stderr
    assert f"worker 0: cannot go on: {below}: " in done.stderr.splitlines()[-1]
    assert "Disk quota exceeded (EDQUOT)" in done.stderr and "loaded" not in done.stderr
    assert left(results) == []


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="No such file"):
        probe(tmp_path / "nowhere" / "it")
    assert list(tmp_path.iterdir()) == []
