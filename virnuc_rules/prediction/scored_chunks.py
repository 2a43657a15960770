"""The chunks of a sample with their results from the store, and with scores."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_rules.arrays import Int
from virnuc_rules.chunking.format import Chunk
from virnuc_rules.config.model import Run
from virnuc_rules.embedding.embedding_file import Computation, Embeddings, Result, read_result
from virnuc_rules.embedding.scoring import score
from virnuc_rules.embedding.tasks import Output, Task
from virnuc_rules.errors import EnvironmentProblem, MissingResult, ResultError
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.queue.store import Store
from virnuc_rules.vocabulary import Frame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The R open frames of a chunk with scores, float32 [R, 2]; None if the embedding failed."""

    table: pa.Table
    scores: NDArray[np.float32] | None

    @property
    def window_row(self) -> Int:
        """Return the row of each window in the window table, [R]."""
        return self.table["window_row"].to_numpy()  # type: ignore[no-any-return]

    @property
    def frame(self) -> NDArray[np.int8]:
        """Return the code of each Frame, [R]."""
        frames = self.table["frame"].cast(pa.string())
        index = pc.index_in(frames, value_set=pa.array(list(Frame)))
        return index.to_numpy().astype(np.int8)  # type: ignore[no-any-return]


def usable_results(tasks: list[Task], run: Run) -> Iterator[tuple[Chunk, Result | None]]:
    """Yield the chunks of a sample in order with their scores, or embeddings where there are none.

    None: the chunk failed, and `on_failed_chunks` is `report`. Checks every chunk before it raises
    ResultError, and moves damaged results aside, so that one more run embeds all of them again.
    Raises EnvironmentProblem where a file cannot be read: nothing is then known of the chunk.
    """
    store, unusable = Store(run.results), list[str]()
    for task in tasks:
        result = None
        try:
            chunk = task.read()
            result = _first_usable(task, store, chunk.ids)
        except MissingResult as error:
            if run.on_failed_chunks == "error" or store.failure(task.key) is None:
                unusable.append(str(error))
        except EnvironmentProblem:
            for line in unusable:
                logger.error("%s", line)
            raise
        except ResultError as error:
            unusable.append(str(error))
        yield chunk, result
    for line in unusable[1:]:
        logger.error("%s", line)
    if unusable:
        raise ResultError(
            f"{unusable[0]}; {len(unusable)} of {len(tasks)} chunks are without a usable result: "
            "run the same snakemake command again to embed them"
        )


def _first_usable(task: Task, store: Store, ids: list[str]) -> Result:
    """Read the first of a task's outputs that is there and whole; move damaged ones aside.

    Raises ResultError for one that is damaged if there is no other, else MissingResult.
    """
    damaged: ResultError | None = None
    for output in task.outputs:
        try:
            try:
                return _read(output, store, ids)
            except MissingResult:
                continue
            except ResultError:  # again, before it is moved: a worker may have replaced it
                return _read(output, store, ids)
        except MissingResult:
            continue
        except ResultError as error:
            aside = store.set_aside(output.key)
            damaged = ResultError(f"{error}; moved to {aside}" if aside else str(error))
            if output != task.outputs[-1]:
                logger.warning("%s", damaged)
    path = store.result(task.key)
    raise damaged or MissingResult(f"{path}: no such result; run again to embed the chunk")


def _read(output: Output, store: Store, ids: list[str]) -> Result:
    path = store.result(output.key)
    result = read_result(path, output.key, ids)
    if tuple(matrix.shape[1] for matrix in result.matrices.values()) != output.widths:
        raise ResultError(f"{path}: the result is damaged (it is of other networks)")
    return result


def scored_chunks(
    tasks: list[Task], run: Run, classifier: MLPClassifier, computed: set[Computation]
) -> Iterator[ScoredChunk]:
    """Yield the chunks of a sample in order, with scores where there are results.

    Adds precision and device of the embeddings to `computed`. Raises as `usable_results` does,
    and ModelError for a classifier whose scores are not finite.
    """
    for chunk, result in usable_results(tasks, run):
        if isinstance(result, Embeddings):
            result = score(classifier, result, run.bundle)
        if result is not None:
            computed.add(result.computed)
        yield ScoredChunk(chunk.table, None if result is None else result.scores.numpy())
