"""Files appear whole or not at all, also after a power cut; what is left of killed ones goes."""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from virnuc_rules.errors import VirnucError
from virnuc_rules.files import atomic
from virnuc_rules.files.atomic import (
    file_sha256,
    partial_path,
    remove_dead_partials,
    replacing,
    staged_folder,
    sync_files,
    writing,
)


def test_the_content_is_on_disk_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps, fsync = tmp_path / "it.json", [], os.fsync
    path.write_text("old")

    def spy(descriptor: int) -> None:
        synced = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append((synced, synced.read_text() if synced.is_file() else "", path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with replacing(path) as handle:
        handle.write("new")
    assert steps == [(partial_path(path), "new", "old"), (tmp_path, "", "new")]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "it.json"  # the folder is made
    with pytest.raises(ZeroDivisionError), replacing(path) as handle:
        handle.write("half of")
        handle.flush()
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with replacing(path) as handle:
        handle.write("größe\n")
        assert not path.exists()
    assert path.read_bytes() == "größe\n".encode()
    assert list(path.parent.iterdir()) == [path]


def partials(folder: Path, *numbers: object, host: str = socket.gethostname()) -> list[Path]:
    return [folder / f".it.{host}.{number}.partial" for number in numbers]


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_what_dead_processes_of_this_host_left_is_removed(tmp_path: Path, dead: int) -> None:
    gone = partials(tmp_path, dead, os.getpid())
    alive = partials(tmp_path, os.getppid(), "x")
    kept = [*alive, *partials(tmp_path, dead, host="another"), tmp_path / f".it2{gone[0].name[3:]}"]
    gone[0].mkdir()
    (gone[0] / "chunk").touch()
    for path in (gone[1], *kept):
        path.touch()
    remove_dead_partials(tmp_path / "it")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_name_with_letters_of_a_pattern_is_meant_as_it_stands(tmp_path: Path, dead: int) -> None:
    own, other = (
        tmp_path / f".{name}.{socket.gethostname()}.{dead}.partial" for name in ("run[1]", "run1")
    )
    own.touch()
    other.touch()
    remove_dead_partials(tmp_path / "run[1]")
    assert list(tmp_path.iterdir()) == [other]


def test_a_stage_is_beside_its_folder_and_gone_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "it"
    with pytest.raises(ZeroDivisionError), staged_folder(out) as stage:
        assert stage.parent == out.parent and stage.name.startswith(".")  # one filesystem
        (stage / "half").touch()
        raise ZeroDivisionError
    partial_path(out).mkdir()  # of a killed process with our number
    (partial_path(out) / "old").touch()
    with staged_folder(out) as stage:
        assert list(stage.iterdir()) == []
    assert list(out.parent.iterdir()) == []


def test_an_error_of_the_filesystem_is_one_line_with_the_real_path(tmp_path: Path) -> None:
    with pytest.raises(VirnucError) as raised, writing(tmp_path / "out"):
        (tmp_path / "absent" / "it").touch()
    reason = "cannot be written (No such file or directory)"
    assert str(raised.value) == f"{tmp_path}/absent/it: {reason}"
    with pytest.raises(VirnucError, match=r"out: cannot be written \(odd\)"), writing(Path("out")):
        raise OSError("odd")


@pytest.mark.parametrize("size", [0, 1, 5, 10, 11])
def test_a_hash_is_of_every_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(atomic, "_BLOCK", 5)
    path = tmp_path / "it"
    path.write_bytes(b"0123456789a"[:size])
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.touch()
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink())
    )
    sync_files(paths)
    assert synced == paths
