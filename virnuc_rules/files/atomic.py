"""Writing files atomically: a reader sees a complete file or none."""

import contextlib
import glob
import hashlib
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import psutil
from pydantic import BaseModel

from virnuc_rules.errors import VirnucError
from virnuc_rules.files.environment import environment_problem, open_regular

_BLOCK = 1 << 22  # bytes read at once for a hash


def partial_path(path: Path) -> Path:
    """Return the hidden path beside `path` at which this process writes it."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")


def remove_dead_partials(path: Path) -> None:
    """Remove partial files and folders of `path` that killed processes of this host left."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for partial in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        pid = partial.name.removeprefix(prefix).removesuffix(".partial")
        # This process has not begun: its own id is that of an earlier process in a container.
        if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to fill and rename; removed at the end if not renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_dead_partials(path)
    stage = partial_path(path)
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` only if the block ends without an error.

    The new file is in the same directory, so the rename is atomic; it is flushed to disk first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_dead_partials(path)
    partial = partial_path(path)
    try:
        with partial.open("w", encoding="utf-8", newline="") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


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


def sync_directory(folder: Path) -> None:
    """Make renames in a folder survive a power cut. Raises OSError if the filesystem cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """Flush the content of files to the disk."""
    for path in paths:
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def file_sha256(path: Path) -> str:
    """Return the hash of a file in hexadecimal. Reads the next block while it hashes one."""
    digest = hashlib.sha256()
    with open_regular(path) as handle:
        if os.fstat(handle.fileno()).st_size <= _BLOCK:  # needs no thread
            return hashlib.sha256(handle.read()).hexdigest()
    with open_regular(path) as handle, ThreadPoolExecutor(1) as background:
        ahead = background.submit(handle.read, _BLOCK)
        while block := ahead.result():
            ahead = background.submit(handle.read, _BLOCK)
            digest.update(block)
    return digest.hexdigest()
