"""Which chunks have no result of the right length: cheap, as it is asked before each run."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from virnuc_rules.embedding.tasks import Task
from virnuc_rules.files.environment import cause, open_regular
from virnuc_rules.models.card import BundleCard
from virnuc_rules.queue.store import Store

_FLOAT32 = 4  # bytes
_PREFIX = 8  # bytes of a safetensors file that hold the length of its header, little-endian
_THREADS = 16  # files that are opened at once: a network filesystem answers in milliseconds


def lacking(tasks: Iterable[Task], store: Store, card: BundleCard) -> list[Task]:
    """Return the tasks without a result, or with one that has not the length it must have."""
    every = list(tasks)
    done = store.done(task.key for task in every)
    short = {task.key for task in short_results([t for t in every if t.key in done], store, card)}
    return [task for task in every if task.key not in done or task.key in short]


def short_results(tasks: list[Task], store: Store, card: BundleCard) -> list[Task]:
    """Return those of some tasks with results whose file was cut, or grew."""
    width = sum(card.widths)

    def is_short(task: Task) -> bool:
        try:
            size = _matrices(store.result(task.key))
        except OSError as error:  # what cannot be opened is not damaged; a folder or dead link is
            return not cause(error)
        return size != task.entry.open_frames * width * _FLOAT32

    with ThreadPoolExecutor(_THREADS) as threads:
        return [task for task, it in zip(tasks, threads.map(is_short, tasks), strict=True) if it]


def _matrices(path: Path) -> int:
    """Return the bytes of the matrices in a result file; negative: even the header is cut."""
    with open_regular(path) as file:
        header = int.from_bytes(file.read(_PREFIX), "little")
        return file.seek(0, os.SEEK_END) - _PREFIX - header
