"""Whether an error is the file's fault or the machine's: tests/fault shows what follows of it."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from harness import no_more_open_files

from virnuc_rules.errors import ChunkError, EnvironmentProblem, VirnucError
from virnuc_rules.files import environment
from virnuc_rules.files.environment import (
    cause,
    environment_named,
    environment_problem,
    open_regular,
    patient,
    read_regular,
)

ENVIRONMENT = (
    errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT,
    errno.EROFS, errno.EAGAIN, errno.ETIMEDOUT, errno.ENODEV, errno.EPERM,
)  # fmt: skip


@pytest.mark.parametrize("number", ENVIRONMENT)
def test_an_errno_is_said_with_the_real_path(number: int) -> None:
    problem = environment_problem(OSError(number, "odd words", "/real/path"), Path("other"))
    assert str(problem) == f"/real/path: {os.strerror(number)} ({errno.errorcode[number]})"
    assert problem and problem.exit_code == 75
    assert str(environment_problem(OSError(number, "odd"), Path("it"))).startswith("it: ")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "it"),
        NotADirectoryError(errno.ENOTDIR, "it"),
        IsADirectoryError(errno.EISDIR, "it"),
        OSError(errno.ENAMETOOLONG, "it"),
        OSError("Couldn't deserialize thrift"),  # Arrow, of a damaged file
        ValueError("it"),
        RuntimeError("it"),
        ChunkError("it: not enough memory"),  # said already
        ImportError("No module named it"),
    ],
)
def test_what_is_wrong_itself_is_no_environment(error: Exception) -> None:
    assert environment_problem(error) is None
    with pytest.raises(type(error)), environment_named(Path("it")):
        raise error


def test_too_little_memory_by_all_its_names() -> None:
    errors: list[BaseException] = [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")]
    for fail in (
        lambda: bytearray(1 << 60),
        lambda: torch.empty(1 << 50),
        lambda: pa.allocate_buffer(1 << 60),
    ):
        with pytest.raises(BaseException) as raised:
            fail()
        errors.append(raised.value)
    errors.append(RuntimeError("can't start new thread"))
    errors.append(ImportError("libtorch.so: failed to map segment from shared object"))
    for error in errors:
        assert cause(error).startswith("not enough memory"), error


def test_a_module_that_hides_why_it_cannot_be_imported() -> None:
    with pytest.raises(ImportError) as raised:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ImportError("some module failed to import") from error
    assert cause(raised.value) == "not enough memory"
    with pytest.raises(ImportError) as raised:
        try:
            raise MemoryError
        except MemoryError:
            raise ImportError("no such name") from None
    assert cause(raised.value) == ""


def test_only_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "it"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file") as raised:  # at once
        open_regular(path)
    assert cause(raised.value) == ""
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_regular(path)
    path.write_bytes(b"content")
    assert read_regular(path) == b"content"
    with no_more_open_files(), pytest.raises(OSError, match="Too many open files"):
        open_regular(path)


def test_what_cannot_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PAUSES", (0, 0))
    errors: list[VirnucError] = []

    @patient
    def read(word: str) -> str:
        if errors:
            raise errors.pop()
        return word

    errors[:] = [EnvironmentProblem("it: away")] * 2
    assert read("word") == "word"
    errors[:] = [EnvironmentProblem("it: away")] * 4
    with pytest.raises(EnvironmentProblem):
        read("word")
    assert len(errors) == 1
    errors[:] = [ChunkError("damaged")] * 2
    with pytest.raises(ChunkError):
        read("word")
    assert len(errors) == 1  # what is damaged stays so
