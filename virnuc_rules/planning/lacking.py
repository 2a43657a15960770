"""Which chunks have no result of the right length: cheap, as it is asked before each run."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from virnuc_rules.embedding.tasks import Output, Task
from virnuc_rules.files.environment import cause, open_regular
from virnuc_rules.queue.store import Store

_PREFIX = 8  # bytes of a safetensors file that hold the length of its header, little-endian
_THREADS = 16  # files that are opened at once: a network filesystem answers in milliseconds


def lacking(tasks: Iterable[Task], store: Store) -> list[Task]:
    """Return the tasks that are left to embed: without a result of the length that it must have."""
    every = list(tasks)
    whole = {
        task.key for _, task in _whole([(each, t) for t in every for each in t.outputs], store)
    }
    return [task for task in every if task.key not in whole]


def without_other(tasks: Iterable[Task], store: Store) -> dict[str, Task]:
    """Return tasks by key, but not those for which there is only a result of the other kind."""
    every = {task.key: task for task in tasks}
    done = store.done(every)
    others = [
        (each, task)
        for key, task in every.items()
        for each in task.outputs
        if key not in done and each != task.output
    ]
    enough = {task.key for _, task in _whole(others, store)}
    return {key: task for key, task in every.items() if key not in enough}


def with_results(tasks: Iterable[Task], store: Store) -> set[str]:
    """Return the keys of the tasks that have a result of either kind, of any length."""
    every = list(tasks)
    done = store.done(output.key for task in every for output in task.outputs)
    return {task.key for task in every if any(output.key in done for output in task.outputs)}


def short_results(tasks: list[Task], store: Store) -> list[Task]:
    """Return those of some tasks with results whose file was cut, or grew."""
    short = _are_short([(task.output, task) for task in tasks], store)
    return [task for task, is_short in zip(tasks, short, strict=True) if is_short]


def _whole(outputs: list[tuple[Output, Task]], store: Store) -> list[tuple[Output, Task]]:
    """Return those of some outputs that exist and have the length that they must have."""
    done = store.done(output.key for output, _ in outputs)
    existing = [each for each in outputs if each[0].key in done]
    short = _are_short(existing, store)
    return [each for each, is_short in zip(existing, short, strict=True) if not is_short]


def _are_short(existing: list[tuple[Output, Task]], store: Store) -> list[bool]:
    """Tell which outputs have not the length that they must have."""

    def is_short(each: tuple[Output, Task]) -> bool:
        output, task = each
        try:
            size = _matrices(store.result(output.key))
        except OSError as error:  # what cannot be opened is not damaged; a folder or dead link is
            return not cause(error)
        return size != task.entry.open_frames * output.row

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(is_short, existing))


def _matrices(path: Path) -> int:
    """Return the bytes of the matrices in a result file; negative: even the header is cut."""
    with open_regular(path) as file:
        header = int.from_bytes(file.read(_PREFIX), "little")
        return file.seek(0, os.SEEK_END) - _PREFIX - header
