"""Damage or environment: whether an error is the file's fault, or the machine's.

Damage needs proof: the file was read, and its hash, format or shape is wrong. Any other error (of
opening, reading, mapping, memory, threads, space) is the environment's: nothing is deleted and no
data blamed; it is tried again, and then the command ends with exit code 75.
"""

import contextlib
import errno
import functools
import io
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from virnuc_rules.errors import EnvironmentProblem, VirnucError, one_line

logger = logging.getLogger(__name__)

SMALL, YAML = 1 << 26, 1 << 20  # bytes of a document; reading YAML takes far more memory
_PAUSES = (1.0, 2.0)  # seconds before the second and the third try
# There is nothing, or the path is wrong, or (EINVAL) a library was misled by what it read.
_NOT_PASSING = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EINVAL,
}  # fmt: skip
# What libraries without an exception of their own say.
_NO_MEMORY = re.compile(
    r"allocate memory|not enough memory|out of memory|bad_alloc|unable to mmap|cannot map"
    r"|failed to map segment|start new thread|pthread_create|ThreadPoolBuildError|Error -4 while",
    re.IGNORECASE,
)
_ERRNO = re.compile(r"\((?:os error )?(\d+)\)$")  # torch and safetensors end with it

_P = ParamSpec("_P")
_R = TypeVar("_R")


def cause(error: BaseException) -> str:
    """Say what the environment lacks; empty where the error may be the fault of data or program."""
    if isinstance(error, VirnucError):
        return ""
    text = one_line(error)[:200]
    number = _errno(error)
    if number and number != errno.ENOMEM:
        name = errno.errorcode.get(number, str(number))
        return "" if number in _NOT_PASSING else f"{os.strerror(number)} ({name})"
    if isinstance(error, MemoryError | OSError) and not _NO_MEMORY.search(text):
        is_memory = isinstance(error, MemoryError) or error.errno == errno.ENOMEM
        return f"not enough memory{f' ({text})' if text else ''}" if is_memory else ""
    if _NO_MEMORY.search(text):
        return f"not enough memory ({text})"
    # Modules that fail to import another one hide why.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return cause(before) if before and isinstance(error, ImportError | SystemError) else ""


def _errno(error: BaseException) -> int:
    """Return the errno of an error, 0 if it has none; of one of a library from its text."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _ERRNO.search(text := one_line(error))
    return int(found[1]) if found and os.strerror(int(found[1])) in text else 0


def environment_problem(
    error: BaseException, path: Path | str | None = None
) -> EnvironmentProblem | None:
    """Return an error of the environment as one line with cause and path; None for any other.

    path: what was read or written, for errors that do not name it.
    """
    if isinstance(error, EnvironmentProblem):
        return error
    if not (why := cause(error)):
        return None
    where = getattr(error, "filename", None)
    where = os.fsdecode(where) if isinstance(where, str | bytes) else path
    return EnvironmentProblem(f"{where}: {why}" if where else why)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError without one: of a call on an open file."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def environment_named(path: Path) -> Iterator[None]:
    """Turn an error of the environment into an EnvironmentProblem; others stay as they are."""
    try:
        yield
    except BaseException as error:  # a panic in Rust is not an Exception
        if (problem := environment_problem(error, path)) and problem is not error:
            raise problem from error
        raise


def patient(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function that reads: it is called again after an EnvironmentProblem."""

    @functools.wraps(function)
    def read(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for pause in _PAUSES:
            try:
                return function(*args, **kwargs)
            except EnvironmentProblem as error:
                logger.warning("%s; trying again in %g s", error, pause)
            time.sleep(pause)
        return function(*args, **kwargs)

    return read


def open_regular(path: Path) -> io.FileIO:
    """Open one of VirNuc's files for reading.

    Python opens before a library maps or parses, for then errno is known. Raises OSError; without
    errno where something else than a file is in its place: opening a pipe must not wait for ever.
    """
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("not a regular file")
    return file


def read_small(path: Path, most: int = SMALL) -> bytes:
    """Read a document. Raises OSError, and VirnucError where it has more than `most` bytes."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise VirnucError(f"{path}: more than {most >> 20} MB; is it the file that is meant?")
    return content


def read_regular(path: Path) -> bytes:
    """Read one of VirNuc's files; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()
