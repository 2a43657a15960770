"""Files appear whole or not at all, also after a power cut; what is left of killed ones goes."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from virnuc_rules.errors import EnvironmentProblem, MadeMeanwhile, VirnucError
from virnuc_rules.files import atomic
from virnuc_rules.files.atomic import (
    file_sha256,
    partial_path,
    put_folder,
    remove_partials,
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
    (partial, *first), *others = steps
    assert partial.parent == tmp_path and partial.name.startswith(".it.json.")
    assert first == ["new", "old"] and others == [(tmp_path, "", "new")]


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


def left(path: Path, content: str = "half of") -> Path:
    """What a process of this id and host leaves of a file if it is killed."""
    partial = partial_path(path)
    partial.parent.mkdir(exist_ok=True)
    partial.write_text(content)
    return partial


def left_folder(path: Path) -> Path:
    partial = partial_path(path)
    (partial / "tracks").mkdir(parents=True)
    (partial / "tracks" / "it").touch()
    return partial


def test_who_makes_a_file_removes_what_killed_processes_left_of_it(tmp_path: Path) -> None:
    path = tmp_path / "run[1]"  # letters of a pattern
    kept = [left(tmp_path / name) for name in ("run1", "run[1].json", "run")]
    kept.append(tmp_path / f".{path.name}.1.partial")  # not VirNuc's
    kept[-1].touch()
    left(path), left(path), left_folder(path)
    with replacing(path) as handle:
        handle.write("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])


def test_two_who_replace_a_file_at_once(tmp_path: Path) -> None:
    """It is as if the first of them had done it just before the other."""
    path = tmp_path / "it"
    with replacing(path) as first:
        first.write("first")
        with replacing(path) as second:
            second.write("second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_that_is_gone_for_another_reason(tmp_path: Path) -> None:
    path = tmp_path / "it"
    with pytest.raises(FileNotFoundError), replacing(path):
        next(tmp_path.iterdir()).unlink()


def test_a_stage_is_beside_its_folder_and_gone_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "it"
    with pytest.raises(ZeroDivisionError), staged_folder(out) as stage:
        assert stage.parent == out.parent and stage.name.startswith(".")  # one filesystem
        (stage / "half").touch()
        raise ZeroDivisionError
    assert list(out.parent.iterdir()) == []


@pytest.fixture(params=["new", "exchanged", "renamed"])
def folder(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to put, in the place of none or of an older one, where that is one step or not."""
    path = tmp_path / "it"
    if request.param != "new":
        (path / "old").mkdir(parents=True)
    if request.param == "renamed":
        monkeypatch.setattr(atomic, "_RENAME_EXCHANGE", 1 << 20)  # EINVAL, as NFS says
    return path


def test_a_folder_replaces_another(folder: Path) -> None:
    left_folder(folder)
    for name in ("one", "two"):
        with staged_folder(folder) as stage:
            (stage / name).touch()
            put_folder(stage, folder)
        assert [path.name for path in folder.iterdir()] == [name]
        assert [path.name for path in folder.parent.iterdir()] == ["it"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "it").mkdir()
    (tmp_path / "disk" / "it" / "old").touch()
    (tmp_path / "it").symlink_to(tmp_path / "disk" / "it")
    with staged_folder(tmp_path / "it") as stage:
        (stage / "new").touch()
        put_folder(stage, tmp_path / "it")
    assert (tmp_path / "it").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "it").iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_made_again_inside_is_gone(folder: Path) -> None:
    """Writing a record makes the folders above it, also those that the other has removed."""
    with pytest.raises(MadeMeanwhile), staged_folder(folder) as late:
        (late / "table").touch()
        with staged_folder(folder) as stage:
            (stage / "whole").touch()
            put_folder(stage, folder)
        with replacing(late / "record.json") as handle:
            handle.write("{}")
        (late / "table").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_error_without_a_number_where_another_was_faster(folder: Path) -> None:
    """As pyarrow raises it for a file that has gone."""
    with pytest.raises(MadeMeanwhile), staged_folder(folder) as late:
        with staged_folder(folder) as stage:
            put_folder(stage, folder)
        raise FileNotFoundError(str(late / "table"))
    with pytest.raises(FileNotFoundError), staged_folder(folder) as alone:
        raise FileNotFoundError(str(alone / "table"))


def test_two_who_make_a_folder_at_once(folder: Path) -> None:
    """One is whole; the other is told, wherever it is."""
    message = f"{folder}: another process has made it at the same time; run the same command again"
    for name in ("begun", "complete"):
        with pytest.raises(EnvironmentProblem) as raised, staged_folder(folder) as late:
            (late / "mine").touch()
            with staged_folder(folder) as stage:
                (stage / "whole").touch()
                put_folder(stage, folder)
            if name == "begun":
                (late / "more").touch()
            put_folder(late, folder)
        assert str(raised.value) == message and raised.value.exit_code == 75
        assert [path.name for path in folder.iterdir()] == ["whole"]
        assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_of_which_another_made_less_is_never_half_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it removed what others left, it has moved that aside."""
    path = tmp_path / "it"
    stage = left_folder(path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        remove_partials(path)
    assert not stage.exists() and len(list(tmp_path.iterdir())) == 1
    remove_partials(path)
    assert list(tmp_path.iterdir()) == []


def test_an_older_folder_that_was_moved_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an exchange is more than one step, and the second fails."""
    out, rename = tmp_path / "it", Path.rename
    (out / "old").mkdir(parents=True)

    def refuse(path: Path, target: Path) -> Path:
        if target == out and not out.exists() and (path / "new").exists():
            raise OSError(errno.EIO, "no")
        return rename(path, target)

    monkeypatch.setattr(atomic, "_RENAME_EXCHANGE", 1 << 20)  # EINVAL
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"), staged_folder(out) as stage:
        (stage / "new").touch()
        put_folder(stage, out)
    assert sorted(tmp_path.rglob("*")) == [out, out / "old"]


def test_an_error_of_the_filesystem_is_one_line_with_the_real_path(tmp_path: Path) -> None:
    with pytest.raises(VirnucError) as raised, writing(tmp_path / "out"):
        (tmp_path / "absent" / "it").touch()
    reason = "cannot be written (No such file or directory)"
    assert str(raised.value) == f"{tmp_path}/absent/it: {reason}"
    with (
        pytest.raises(VirnucError, match=r"out: cannot be written \(odd\)"),
        writing(Path("out")),
    ):
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
