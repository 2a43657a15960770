"""A small sample with its embeddings, and what the tests of `predict` ask of it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from harness import BUNDLE

from virnuc_rules.chunking.format import Chunk, read_chunk, read_manifest
from virnuc_rules.config.model import Config
from virnuc_rules.embedding.tasks import Task, read_settings, sample_tasks
from virnuc_rules.serving.worker import Exit, Worker


def configure(results: Path, **more: object) -> Config:
    fields = {"results": results, "bundle": BUNDLE, "device": "cpu", "threads": 1}
    return Config(**fields, **more)


def tasks_of(config: Config) -> list[Task]:
    return list(sample_tasks(config.results, "gut", *read_settings(config)))


def work(config: Config) -> Exit:
    tasks = {task.key: task for task in tasks_of(config)}
    return Worker(config, "0", 0, tasks).run()


def chunks_of(config: Config) -> Iterator[Chunk]:
    folder = config.results / "chunks/gut"
    for entry in read_manifest(folder).chunks:
        yield read_chunk(folder / entry.file, entry)


def window_table(config: Config) -> list[dict[str, object]]:
    return pq.read_table(config.results / "chunks/gut/windows.parquet").to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
