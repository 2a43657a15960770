"""Copies of the networks of a bundle on a disk of the node: the config key `stage_bundle`.

Of the workers that start on a node at the same time one copies, and the others wait for it. Nothing
depends on a copy: what cannot be copied or read, or is damaged, is loaded from the bundle itself.
"""

import errno
import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from virnuc_rules.errors import EnvironmentProblem, ModelError, VirnucError
from virnuc_rules.files.atomic import put_folder, remove_partials, staged_folder
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.card import DNABERT_S, ESM2

logger = logging.getLogger(__name__)

COPIES = f"virnuc_bundles_{os.geteuid()}"  # the folder in `stage_bundle`, of each user
_NETWORKS = (DNABERT_S, ESM2)  # the other files are small


class StagedBundle(Bundle):
    """A bundle whose networks are loaded from a copy on this node, as long as that one is good.

    directory: the value of `stage_bundle`; empty: no copy. Loading compares hashes with the card of
    the bundle, wherever the file is.
    """

    def __init__(self, folder: Path, directory: str) -> None:
        super().__init__(folder)
        self._copy: Bundle | None = None
        if directory:
            try:
                self._copy = Bundle(stage(self, directory), self.card)
            except (OSError, VirnucError) as error:
                problem = environment_problem(error, directory) or error
                logger.warning("stage_bundle: %s; loading from %s", problem, folder)

    def load(self, *arguments: Any, **options: Any) -> Any:
        """Load a network from the copy, or else from the bundle; see `Bundle.load`."""
        if self._copy:
            try:
                return self._copy.load(*arguments, **options)
            except (ModelError, EnvironmentProblem) as error:
                logger.warning("stage_bundle: %s; loading from %s", error, self.folder)
                if isinstance(error, ModelError):  # damaged: the next worker copies again
                    shutil.rmtree(self._copy.folder, ignore_errors=True)
                self._copy = None
        return super().load(*arguments, **options)


def stage(bundle: Bundle, directory: str) -> Path:
    """Copy the networks of a bundle, unless there is a copy already; return its folder.

    It is named by their fingerprint: bundles that differ in the classifier share a copy. Raises
    OSError and EnvironmentProblem where that is not possible.
    """
    folder = Path(os.path.expandvars(directory)) / COPIES
    if "$" in str(folder) or not folder.is_absolute():
        raise EnvironmentProblem(f"{directory}: this job has no such variable")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = folder / bundle.card.fingerprint
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # In a folder for all users, another one may have put it there, and change files when their
        # hashes have been compared, or keep the lock.
        if os.fstat(lock).st_uid != os.geteuid():
            raise EnvironmentProblem(f"{folder}: belongs to another user")
        fcntl.flock(lock, fcntl.LOCK_EX)  # the end of a process, however it comes, gives it back
        if not copy.exists():
            remove_partials(copy)  # of one that was killed, since nobody else is at work
            _make(copy, [bundle.folder / name for name in _NETWORKS])
    finally:
        os.close(lock)
    return copy


def _make(copy: Path, files: list[Path]) -> None:
    if sum(path.stat().st_size for path in files) > shutil.disk_usage(copy.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(copy.parent))
    logger.info("copying the networks of %s to %s", files[0].parent, copy)
    with staged_folder(copy) as folder:
        for path in files:
            shutil.copy(path, folder)  # with its mode: what is private stays so
        put_folder(folder, copy)
