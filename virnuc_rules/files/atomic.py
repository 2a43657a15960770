"""Writing files so that a reader sees the whole of one or nothing of it."""

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

from virnuc_rules.errors import VirnucError

_BLOCK = 1 << 22  # bytes read at once to be hashed


def partial_path(path: Path) -> Path:
    """Return where this process writes what will become `path`: beside it, hidden."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")


def remove_dead_partials(path: Path) -> None:
    """Remove what killed processes of this host left of `path`, files and folders."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for left_over in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        number = left_over.name.removeprefix(prefix).removesuffix(".partial")
        # Our own number on another's file: in a container it is the same each time.
        if number.isdigit() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            if left_over.is_dir():
                shutil.rmtree(left_over, ignore_errors=True)
            else:
                left_over.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to fill and move; what is left of it at the end goes."""
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
    """Open a text file that takes the place of `path` only when the block ends without an error.

    The new file is in the same directory, so the rename is atomic; it is flushed to disk first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the filesystem, such as a full disk, into one line for people."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        where = error.filename or path
        raise VirnucError(f"{where}: cannot be written ({reason})") from error


def sync_directory(folder: Path) -> None:
    """Make renames in a folder survive a power cut (an error where the filesystem cannot)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(paths: Iterable[Path]) -> None:
    """Bring the content of files to the disk: before they are moved to where people look."""
    for path in paths:
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def file_sha256(path: Path) -> str:
    """Hash a file, in hexadecimal, reading ahead while it computes; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as handle, ThreadPoolExecutor(1) as background:
        ahead = background.submit(handle.read, _BLOCK)
        while block := ahead.result():
            ahead = background.submit(handle.read, _BLOCK)
            digest.update(block)
    return digest.hexdigest()
