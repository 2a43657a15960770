"""Whether a filesystem does what the queue of workers relies on."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from virnuc_rules.errors import EnvironmentProblem, VirnucError, one_line
from virnuc_rules.files.atomic import partial_path, sync_directory
from virnuc_rules.files.environment import cause

_REMEDY = "put `results` on a filesystem with hard links: NFS, Lustre, GPFS, BeeGFS, ext4, XFS"
# What a filesystem answers that cannot do something at all. Others may pass, such as a full quota.
_CANNOT = {
    errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL, errno.EEXIST,
}  # fmt: skip


def probe(path: Path) -> None:
    """Try hard links, their count, renames and fsync in the folder of `path`, in milliseconds.

    The files have partial names of `path`, and none is left; what a killed process left is for the
    caller to remove. Raises VirnucError where the filesystem cannot do one of these,
    EnvironmentProblem where it cannot now: no space, no permission, a server that is away.
    """
    for is_last in (False, True):  # files may be removed, once, that seem to be of a killed one
        files = [partial_path(path) for _ in range(3)]
        try:
            lacking = _lacking(*files)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not is_last:
                continue
            why = cause(error) or one_line(error)
            raise EnvironmentProblem(
                f"{path.parent}: files cannot be made, linked, renamed and flushed here: {why}"
            ) from error
        finally:
            for file in files:
                with suppress(OSError):
                    file.unlink()
        if not lacking:
            return
    raise VirnucError(f"{path.parent}: {lacking}; {_REMEDY}")


def _lacking(one: Path, link: Path, other: Path) -> str:
    """Say what the filesystem cannot do; empty if it can do all."""
    with one.open("xb") as file, other.open("xb") as last:
        file.write(b"1")
        file.flush()
        if refused := _refused(os.fsync, file.fileno()):
            return f"a file cannot be flushed to the disk ({refused})"
        refused = _refused(os.link, one, link)
        links = os.fstat(file.fileno()).st_nlink  # NFS can lose the reply to a link that worked
        if links != 2:
            uncounted = f"are not counted (st_nlink is {links}, not 2)"
            return f"hard links {f'do not work ({refused})' if refused else uncounted}"
        if "EEXIST" not in _refused(os.link, one, link):
            return "a link may replace a file: two workers would get one chunk"
        last.write(b"2")
    refused = _refused(os.replace, other, link)
    if refused or other.exists() or link.read_bytes() != b"2" or one.read_bytes() != b"1":
        return f"a rename does not replace a file{f' ({refused})' if refused else ''}"
    refused = _refused(sync_directory, one.parent)
    return f"a folder cannot be flushed to the disk ({refused})" if refused else ""


def _refused(call: Callable[..., object], *arguments: object) -> str:
    """Call; return the error by which a filesystem says that it cannot do this."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return f"{os.strerror(error.errno)} ({errno.errorcode[error.errno]})"
    return ""
