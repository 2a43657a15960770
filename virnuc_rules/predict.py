"""From embeddings to calls: scores of open frames, consensus over the frames of a window."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from virnuc_rules.chunkfiles import Manifest, read_contig_table, read_manifest, read_windows
from virnuc_rules.config import Config
from virnuc_rules.contigs import Int, Rule, whole_contigs
from virnuc_rules.errors import ChunkError, ModelError, ResultError
from virnuc_rules.files import staged_folder, writing
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.classifier import MLPClassifier
from virnuc_rules.models.verified import read_verified
from virnuc_rules.orfs import FRAMES
from virnuc_rules.progress import progress
from virnuc_rules.results import read_result
from virnuc_rules.store import Store
from virnuc_rules.tables import SampleTables, ScoredChunk, move_into_place
from virnuc_rules.tasks import Task, chunk_folder, read_settings, sample_tasks
from virnuc_rules.viral import write_viral

logger = logging.getLogger(__name__)

Float = NDArray[np.float32]


class Consensus:
    """The best scores of each of W windows over its open frames, collected chunk by chunk.

    A window is called virus if the best score2 of its frames is at least the best score1
    (upstream's rule: the two may come from different frames).
    """

    def __init__(self, windows: int) -> None:
        self.score1: Float = np.full(windows, -np.inf, np.float32)
        self.score2: Float = np.full(windows, -np.inf, np.float32)
        self.best = np.full(windows, len(FRAMES), np.int8)  # first frame with score2
        self.frames = np.zeros(windows, np.int8)  # open frames so far
        self.failed = np.zeros(windows, np.bool_)  # a frame of it could not be embedded

    def add(self, window_row: Int, frame: NDArray[np.int8], scores: Float) -> None:
        """Take in scores [R, 2] of open frames [R] (indices into FRAMES) of windows [R]."""
        score2 = np.ascontiguousarray(scores[:, 1])
        before = self.score2[window_row]
        np.maximum.at(self.score1, window_row, scores[:, 0])
        np.maximum.at(self.score2, window_row, score2)
        best = self.score2[window_row]
        self.best[window_row[best > before]] = len(FRAMES)
        first = score2 == best
        np.minimum.at(self.best, window_row[first], frame[first])
        np.add.at(self.frames, window_row, 1)

    def fail(self, window_row: Int) -> None:
        """Mark windows whose open frames have no embedding: their call would rest on a part."""
        self.failed[window_row] = True
        np.add.at(self.frames, window_row, 1)

    def part(self, rows: slice) -> "Consensus":
        """Return the consensus of some windows, as a view."""
        part = Consensus(0)
        for name, array in vars(self).items():
            setattr(part, name, array[rows])
        return part

    @property
    def called(self) -> NDArray[np.bool_]:
        """Tell which windows have a call."""
        return (self.frames > 0) & ~self.failed

    @property
    def virus(self) -> NDArray[np.bool_]:
        """Tell which windows are viral; False also where there is no call."""
        return self.called & (self.score2 >= self.score1)


def predict(config: Config, sample: str, out: Path) -> None:
    """Write the tables of a sample into the folder `out`, all together; see `tables.FILES`.

    Raises ResultError where results are missing or damaged (a damaged one is removed, so that the
    same command embeds it again), ChunkError where the chunk folder is not whole, InputError where
    the sequences have changed, ModelError where the bundle is damaged or its classifier gives no
    finite scores, and VirnucError where the disk is full; it leaves older
    tables as they were.
    """
    bundle = Bundle(config.bundle)
    verified = read_verified(bundle.folder, bundle.card.fingerprint)
    tasks = list(sample_tasks(config.results, sample, *read_settings(config)))
    folder = chunk_folder(config.results, sample)
    manifest = read_manifest(folder)
    rule = Rule(config.min_score, config.min_viral_fraction, config.min_called_windows)
    torch.set_num_threads(1)  # the classifier is small; samples run beside each other
    numbers, lengths = _contig_numbers(folder, manifest), _contig_lengths(folder, manifest)
    consensus = Consensus(manifest.windows)
    computed: set[str] = set()  # in which precision, on which type of device
    work = manifest.open_frames + manifest.windows
    with writing(out), staged_folder(out) as stage, progress(f"sample {sample}", work) as advance:
        with SampleTables(stage, sample, rule, lengths, folder) as tables:
            classifier = bundle.open_classifier()
            chunks = _scored(tasks, Store(config.results), classifier, config, computed)
            _add_frames(tables, chunks, consensus, numbers, advance)
            first = 0
            for part in whole_contigs(read_windows(folder)):
                last = first + part.num_rows
                tables.add_windows(part, consensus.part(slice(first, last)))
                advance(last - first)
                first = last
        write_viral(stage, sample, manifest)
        move_into_place(stage, out)
    logger.info(
        "sample %s: %d windows, %d called, %d of them virus; %d contigs, %d of them virus",
        sample, manifest.windows, consensus.called.sum(), consensus.virus.sum(),
        manifest.contigs, tables.viral,
    )  # fmt: skip
    for name in sorted(computed):
        precision, _, device = name.partition(" on ")
        known = "" if verified.covers(precision, device) else " (not verified with this bundle)"
        logger.info("sample %s: embeddings computed in %s%s", sample, name, known)


def _add_frames(
    tables: SampleTables,
    chunks: Iterator[ScoredChunk],
    consensus: Consensus,
    numbers: Int,
    advance: Callable[[int], None],
) -> None:
    for chunk in chunks:
        rows = chunk.window_row
        if chunk.scores is None:
            consensus.fail(rows)
        else:
            consensus.add(rows, chunk.frame, chunk.scores)
        tables.add_frames(chunk, numbers[rows])
        advance(len(rows))


def _contig_numbers(folder: Path, manifest: Manifest) -> Int:
    """Return the number of each window's contig, [W]. Raises ChunkError where they are no run."""
    parts = [part["contig_number"].to_numpy() for part in read_windows(folder)]
    numbers: Int = np.concatenate([*parts, [manifest.contigs]])
    step = np.diff(numbers, prepend=-1)
    if len(numbers) != manifest.windows + 1 or np.any((step != 0) & (step != 1)) or step[-1] != 1:
        raise ChunkError(
            f"{folder}: windows.parquet is not the windows of the {manifest.contigs} contigs, one "
            f"contig after the other, {manifest.windows} rows; delete the folder and run again"
        )
    return numbers[:-1]


def _contig_lengths(folder: Path, manifest: Manifest) -> Int:
    """Return the length of each contig, [C]. Raises ChunkError where they are not all there."""
    parts = list(read_contig_table(folder))
    numbers = np.concatenate([part["number"].to_numpy() for part in parts])
    if not np.array_equal(numbers, np.arange(manifest.contigs)):
        raise ChunkError(
            f"{folder}: contigs.parquet has not the {manifest.contigs} contigs of the manifest in "
            "order; delete the folder and run again"
        )
    lengths: Int = np.concatenate([part["length"].to_numpy() for part in parts])
    return lengths


def _check_scores(scores: Float, ids: list[str], bundle: Path) -> None:
    """Raise ModelError where scores [R, 2] are not numbers: embeddings are checked to be."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{bundle}: the classifier's scores of {ids[bad[0]]} are not finite; its weights are "
            "unusable, make the bundle again"
        )


def _scored(
    tasks: list[Task], store: Store, classifier: MLPClassifier, config: Config, computed: set[str]
) -> Iterator[ScoredChunk]:
    """Yield the chunks of a sample in order, with scores where there are embeddings.

    Adds to `computed` how these were. Looks at every chunk before it raises, so that one more run
    mends all that is damaged.
    """
    unusable: list[ResultError] = []
    for task in tasks:
        chunk = task.read()
        scores: Float | None = None
        try:
            result = read_result(store.result(task.key), task.key, chunk.ids)
            computed.add(result.computed)
            scores = classifier.scores(result.dnabert_s, result.esm2).numpy()
            _check_scores(scores, chunk.ids, config.bundle)
        except ResultError as error:
            failed = store.failure(task.key) is not None and not store.is_done(task.key)
            if not (failed and config.on_failed_chunks == "report"):
                store.forget(task.key)
                unusable.append(error)
        yield ScoredChunk(chunk.table, scores)
    for other in unusable[1:]:
        logger.error("%s", other)
    if unusable:
        raise ResultError(
            f"{unusable[0]}; {len(unusable)} of {len(tasks)} chunks are without a usable result: "
            "run the same command again to embed them"
        )
