"""Of what each product of a run is made: the one place that says when it is up to date.

Files of the user (sequences, sheets, tables of labels) are compared as files, everything else by
value. What is made of other products depends on their keys.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from virnuc_rules import __version__
from virnuc_rules.bundles.verified import read_verified
from virnuc_rules.config.annotations import annotation_paths, annotation_tables
from virnuc_rules.config.labels import label_tables
from virnuc_rules.config.model import (
    Calibrating,
    Calling,
    Chunking,
    Config,
    Embedding,
    Fitting,
    Group,
    LabelledSettings,
    Probability,
    Run,
    Section,
)
from virnuc_rules.config.run_folder import (
    EVALUATION,
    ChunkFolder,
    EvaluationFiles,
    ReportFolder,
    RunFolder,
    SampleFolder,
)
from virnuc_rules.config.sheet import Sheet
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.files.made import Product, read_made
from virnuc_rules.models.card import BundleCard
from virnuc_rules.planning.lacking import lacking
from virnuc_rules.queue.store import Store


def chunks(folder: ChunkFolder, chunking: Chunking, files: Sequence[Path]) -> Product:
    """Describe the chunk folder of a sample."""
    return Product(folder.made, folder.done, _of(chunking=chunking), files)


def tables(
    folder: SampleFolder,
    chunk_key: str,
    card: BundleCard,
    embedding: Embedding,
    calling: Calling,
    probability: Probability,
) -> Product:
    """Describe the tables of a sample."""
    of = _of(
        chunks=chunk_key,
        networks=card.fingerprint,
        bundle=card.prediction_fingerprint,
        embedding=embedding,
        calling=calling,
        probability=probability,
    )
    return Product(folder.made, folder.done, of)


def is_final(
    run: RunFolder,
    sample: str,
    card: BundleCard,
    embedding: Embedding,
    calling: Calling,
    probability: Probability,
) -> bool:
    """Tell whether the tables of a sample are up to date, by sizes and times."""
    made, folder = read_made(run.chunks(sample).made), run.sample(sample)
    if made is None:
        return False
    return tables(folder, made.key, card, embedding, calling, probability).current() is not None


def viruses(run: RunFolder, sheet: Sheet) -> Product:
    """Describe the viral sequences of all samples; rows and columns are in the sheet's order."""
    of = _of(
        tables=list(_table_keys(run, sheet).items()),
        annotations=[
            [sample, name, list(map(str, paths))]
            for sample, tables in annotation_tables(sheet).items()
            for name, paths in tables.items()
        ],
    )
    return Product(run.viruses.made, run.viruses.done, of, annotation_paths(sheet))


def report(config: Config, card: BundleCard, sheet: Sheet, page: Path | None = None) -> Product:
    """Describe the report; it shows all settings, the sheet, and the tables of its samples."""
    run = RunFolder(config.run.results)
    folder = ReportFolder(page) if page else run.report
    of = _of(
        settings={key: str(value) for key, value in config.flat().items()},
        inputs={sample: list(map(str, files)) for sample, files in sheet.samples.items()},
        tables=_table_keys(run, sheet),
        viruses=_key(run.viruses.made),
        bundle=[card.name, card.description, card.prediction_fingerprint],
        verified=read_verified(config.run.bundle, card.fingerprint),
    )
    return Product(folder.made, folder.done, of, [sheet.table.path, *label_tables(sheet)])


def evaluation(
    files: EvaluationFiles,
    settings: LabelledSettings,
    card: BundleCard,
    tables: Iterable[Path],
    part: str,
    samples: Iterable[str],
) -> Product:
    """Describe the evaluation of a bundle. tables: those that the labelled sheet names."""
    of = _of(
        chunks=_chunk_keys(settings, samples),
        bundle=card,
        settings=_shown(settings),
        part=part,
    )
    return Product(files.made, files.done, of, [settings.inputs.samples, *tables])


def trained(
    settings: LabelledSettings,
    calibrating: Calibrating,
    fitting: Fitting,
    card: BundleCard,
    tables: Iterable[Path],
    samples: Iterable[str],
) -> Product:
    """Describe a trained bundle. tables: those that the labelled sheet names."""
    files = EvaluationFiles(fitting.trained_bundle / EVALUATION)
    of = _of(
        chunks=_chunk_keys(settings, samples),
        networks=card.fingerprint,
        description=[card.name, card.demo],
        settings=_shown(settings),
        calibrating=calibrating,
        fitting=_shown(fitting),
    )
    return Product(files.made, files.done, of, [settings.inputs.samples, *tables])


def unembedded(
    run: Run, embedding: Embedding, samples: Iterable[str], *, need_embeddings: bool
) -> list[str]:
    """Return the names of the chunks of samples that have no usable result; see `Tasks.of`."""
    every = Tasks.of(run, embedding, need_embeddings=need_embeddings)
    tasks = every.of_samples(samples).values()
    return [task.name for task in lacking(tasks, Store(run.results))]


def _of(**values: Any) -> dict[str, Any]:
    """Return values as JSON has them, with the version of the library."""
    dumped = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in values.items()
    }
    return {"version": __version__, **dumped}


def _shown(settings: Group | Section) -> dict[str, Any]:
    """Return settings without those that no product shows: where results are, and which kind."""
    dumped = settings.model_dump(mode="json")
    run = dumped.get("run", {})
    run.pop("results", None)
    run.pop("keep_embeddings", None)
    return dumped


def _table_keys(run: RunFolder, sheet: Sheet) -> dict[str, str]:
    return {sample: _key(run.sample(sample).made) for sample in sheet.samples}


def _chunk_keys(settings: LabelledSettings, samples: Iterable[str]) -> dict[str, str]:
    run = RunFolder(settings.run.results)
    return {sample: _key(run.chunks(sample).made) for sample in samples}


def _key(path: Path) -> str:
    """Return the key of a product; empty where there is none."""
    made = read_made(path)
    return made.key if made else ""
