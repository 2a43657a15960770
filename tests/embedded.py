"""A small sample with its embeddings, and what the tests of `predict` ask of it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from harness import BUNDLE

from virnuc_rules.chunking.format import Chunk, read_chunk
from virnuc_rules.chunking.manifest import read_manifest
from virnuc_rules.config.model import Config, WorkerSettings
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder
from virnuc_rules.embedding.tasks import Task, Tasks
from virnuc_rules.prediction.predict import predict as predict_by_sections
from virnuc_rules.serving.worker import Exit, Worker


def configure(results: Path, **more: object) -> Config:
    fields = {"results": results, "bundle": BUNDLE, "device": "cpu", "threads": 1}
    return Config.of(**fields, **more)


def folder_of(config: Config) -> ChunkFolder:
    return RunFolder(config.run.results).chunks("gut")


def tasks_of(config: Config) -> list[Task]:
    return list(Tasks.of(config.run, config.embedding).of_sample("gut"))


def worker_of(config: Config, name: str, tasks: dict[str, Task], begins: bool = True) -> Worker:
    index = int(name) if name.isdigit() else 0
    return Worker(config.part(WorkerSettings), name, index, tasks, begins=begins)


def work(config: Config) -> Exit:
    return worker_of(config, "0", {task.key: task for task in tasks_of(config)}).run()


def predict(config: Config, sample: str, out: Path) -> None:
    sections = config.run, config.embedding, config.calling, config.probability
    predict_by_sections(*sections, sample, out)


def chunks_of(config: Config) -> Iterator[Chunk]:
    folder = folder_of(config)
    for entry in read_manifest(folder).chunks:
        yield read_chunk(folder.path / entry.file, entry)


def window_table(config: Config) -> list[dict[str, object]]:
    return pq.read_table(folder_of(config).windows).to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
