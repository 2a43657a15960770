"""Whether a filesystem does what the queue of workers relies on."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from virnuc_rules.errors import EnvironmentProblem, VirnucError
from virnuc_rules.files.atomic import partial_path, remove_partials, sync_directory
from virnuc_rules.files.environment import cause

_REMEDY = "put `results` on a filesystem with hard links: NFS, Lustre, GPFS, BeeGFS, ext4, XFS"
# What a filesystem answers that cannot do something at all. Others may pass, such as a full quota.
_CANNOT = {
    errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL,
}  # fmt: skip
_TRIES = 3  # another process that begins with the same name may remove our files


def probe(path: Path) -> None:
    """Try hard links, their count, renames and fsync in the folder of `path`, in milliseconds.

    The files have partial names of `path`: none is left, and what a killed process left is removed.
    Raises VirnucError where the filesystem cannot do one of these, EnvironmentProblem where it
    cannot now: no space, no permission, a server that is away.
    """
    for last in range(1, _TRIES + 1):
        files = [partial_path(path) for _ in range(3)]
        try:
            lacking = _lacking(*files)
            break
        except OSError as error:
            if isinstance(error, FileNotFoundError) and last < _TRIES:
                continue
            if not (why := cause(error)):
                raise
            raise EnvironmentProblem(
                f"{path.parent}: files cannot be made, linked, renamed and flushed here: {why}"
            ) from error
        finally:
            for file in files:
                with suppress(OSError):
                    file.unlink()
    remove_partials(path)
    if lacking:
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
        if refused and links < 2:
            return f"hard links do not work ({refused})"
        if links != 2:
            return f"a linked file does not count its links (st_nlink is {links}, not 2)"
        if _refused(os.link, one, link) != _name(errno.EEXIST):
            return "a link may replace a file: two workers would get one chunk"
        last.write(b"2")
    refused = _refused(os.replace, other, link)
    if refused or other.exists() or link.read_bytes() != b"2" or one.read_bytes() != b"1":
        return f"a rename does not replace a file{f' ({refused})' if refused else ''}"
    if refused := _refused(sync_directory, one.parent):
        return f"a folder cannot be flushed to the disk ({refused})"
    return ""


def _refused(call: Callable[..., object], *arguments: object) -> str:
    """Call; return the error by which a filesystem says that it cannot do this."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in {*_CANNOT, errno.EEXIST}:
            raise
        return _name(error.errno)
    return ""


def _name(number: int) -> str:
    return f"{os.strerror(number)} ({errno.errorcode[number]})"
