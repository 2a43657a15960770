"""Writing files atomically: a reader sees a complete file or none."""

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from virnuc_rules.errors import MadeMeanwhile, VirnucError
from virnuc_rules.files.environment import environment_problem, naming, open_regular

_BLOCK = 1 << 22  # bytes read at once for a hash
_UUID = "[0-9a-f]" * 32
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h


def partial_path(path: Path) -> Path:
    """Return a hidden path beside `path`, of no other process, at which to write it."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def is_partial(path: Path) -> bool:
    """Tell whether a path is one of `partial_path`."""
    return path.match(f".*.{_UUID}.partial")


def remove_partials(path: Path, own: Path | None = None) -> None:
    """Remove all partial files and folders of `path`, but for one's own, as `path` is made.

    Nobody can tell what a killed process left from what one at work has: process ids and names of
    hosts are shared by containers. One that is at work finds its partial gone, and ends.
    """
    partials = list[Path]()
    with contextlib.suppress(OSError):  # the next who makes `path` tries again
        partials += path.parent.glob(f".{glob.escape(path.name)}.{_UUID}.partial")
    for partial in partials:
        if partial == own:
            continue
        with contextlib.suppress(OSError):
            if partial.is_dir():
                # In one step for who is at work there: a folder is gone, never half empty.
                gone = partial.rename(partial_path(path))
                shutil.rmtree(gone, ignore_errors=True)
            else:
                partial.unlink()


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to fill and move to it; removed at the end if not moved.

    Raises MadeMeanwhile where another process has made `path` at the same time, or is moving its
    files there.
    """
    target = path.resolve()  # what a link points to
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = partial_path(target)
    stage.mkdir()
    mine = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield stage
    except Exception as error:
        # Not by the kind of error: libraries raise theirs, also OSErrors without a number.
        if _is_at(stage, mine):
            raise
        raise MadeMeanwhile(
            f"{path}: another process has made it at the same time; run the same command again"
        ) from error
    finally:
        os.close(mine)
        shutil.rmtree(stage, ignore_errors=True)


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether an open folder is still there: `replacing_path` may have made another one."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError as error:  # one that cannot be looked at is not absent
        return error.errno != errno.ENOENT


def put_folder(stage: Path, path: Path) -> None:
    """Move a folder of `staged_folder` to `path` in one step; an older one is then removed.

    Whenever the process is killed, the old or the new one is there.
    """
    target = path.resolve()
    try:
        stage.rename(target)  # there is none, or an empty one
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _exchange(stage, target)
    sync_directory(target.parent)
    remove_partials(target)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step, or in three where the filesystem has no such step."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = _HERE, os.fsencode(one), _HERE, os.fsencode(other)
    if not hasattr(libc, "renameat2"):
        number = errno.ENOSYS
    elif libc.renameat2(*names, _RENAME_EXCHANGE) == 0:
        return
    else:
        number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(other))
    aside = other.rename(partial_path(other))
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


@contextlib.contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Give a path for a file that replaces `path` only if the block ends without an error.

    The new file is in the same directory, so the rename is atomic; it is flushed to disk first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with naming(partial):
            yield partial
        try:
            sync_files([partial])
            partial.replace(path)
        except FileNotFoundError:  # another process replaced it meanwhile,
            if not path.exists():  # which is as if it had done so after this one
                raise
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_directory(path.parent)
    remove_partials(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` only if the block ends without an error."""
    with (
        replacing_path(path) as partial,
        partial.open("x", encoding="utf-8", newline="") as file,
    ):
        yield file


def write_json(path: Path, model: BaseModel) -> None:
    """Write a model as indented JSON; see `replacing`."""
    with replacing(path) as handle:
        handle.write(model.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the filesystem, such as a full disk, into a VirnucError.

    An EnvironmentProblem, unless it is the path that is wrong.
    """
    try:
        yield
    except OSError as error:
        if problem := environment_problem(error, path):
            raise problem from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        where = error.filename or path
        raise VirnucError(f"{where}: cannot be written ({reason})") from error


def link_or_copy(source: Path, target: Path) -> None:
    """Copy, which may take gigabytes, only where the filesystem cannot link."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        if not (target.exists() and target.samefile(source)):  # else only the reply was lost
            shutil.copyfile(source, target)


def sync_directory(folder: Path) -> None:
    """Make renames in a folder survive a power cut. Raises OSError if the filesystem cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """Flush the content of files to the disk."""
    for path in paths:
        with path.open("rb") as handle, naming(path):
            os.fsync(handle.fileno())


def move_files(files: Mapping[Path, Path]) -> None:
    """Move flushed files each to its path, in order; older files there are replaced."""
    for path, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.replace(target)
        except OSError as error:
            error.filename = str(target)  # what the user knows, not the staged file
            raise
    for folder in {target.parent for target in files.values()}:
        sync_directory(folder)


def file_sha256(path: Path) -> str:
    """Return the hash of a file in hexadecimal. Reads the next block while it hashes one."""
    digest = hashlib.sha256()
    with open_regular(path) as handle, naming(path):
        if os.fstat(handle.fileno()).st_size <= _BLOCK:  # needs no thread
            return hashlib.sha256(handle.read()).hexdigest()
        with ThreadPoolExecutor(1) as background:
            ahead = background.submit(handle.read, _BLOCK)
            while block := ahead.result():
                ahead = background.submit(handle.read, _BLOCK)
                digest.update(block)
    return digest.hexdigest()
