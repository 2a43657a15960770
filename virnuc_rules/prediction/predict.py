"""From embeddings to calls: the tables of a sample."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import torch

from virnuc_rules.arrays import Int
from virnuc_rules.bundles.verified import read_verified
from virnuc_rules.chunking.format import contig_indices, contig_lengths, read_manifest, read_table
from virnuc_rules.config.model import Calling, Embedding, Probability, Run
from virnuc_rules.config.run_folder import RunFolder, SampleFolder
from virnuc_rules.embedding.embedding_file import Computation
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.files.atomic import staged_folder, writing
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.calibration import calibrated, expected_fdr
from virnuc_rules.prediction.contig_calls import whole_contigs
from virnuc_rules.prediction.scored_chunks import ScoredChunk, scored_chunks
from virnuc_rules.prediction.tables import SampleTables, move_into_place
from virnuc_rules.prediction.viral_fasta import write_viral
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.progress import progress

logger = logging.getLogger(__name__)

_NOT_VERIFIED = " (not verified with this bundle)"


def predict(
    run: Run,
    embedding: Embedding,
    calling: Calling,
    probability: Probability,
    sample: str,
    out: Path,
) -> None:
    """Write the tables of a sample into the folder `out`, all together; see `SampleFolder`.

    Raises ResultError where results are missing or damaged (a damaged one is removed, so that the
    same command embeds it again), ChunkError where the chunk folder is not whole, InputError where
    the sequences have changed, ModelError where the bundle is damaged or its classifier gives no
    finite scores, and VirnucError where the disk is full; it leaves older tables as they were.
    """
    bundle = Bundle(run.bundle)
    verified = read_verified(bundle.folder, bundle.card.fingerprint)
    tasks = list(Tasks.of(run, embedding).of_sample(sample))
    folder = RunFolder(run.results).chunks(sample)
    manifest = read_manifest(folder)
    probabilities = calibrated(bundle.card, probability.prevalence)
    torch.set_num_threads(1)  # the classifier is small; samples run beside each other
    numbers, lengths = contig_indices(folder, manifest), contig_lengths(folder, manifest)
    consensus = Consensus.empty(manifest.windows)
    computed: set[Computation] = set()
    work = manifest.open_frames + manifest.windows
    with writing(out), staged_folder(out) as staged, progress(f"sample {sample}", work) as advance:
        stage = SampleFolder(staged, sample)
        with SampleTables(stage, calling, lengths, folder, probabilities) as tables:
            chunks = scored_chunks(tasks, run, bundle.open_classifier(), computed)
            _add_frames(tables, chunks, consensus, numbers, advance)
            _add_windows(tables, whole_contigs(read_table(folder.windows)), consensus, advance)
        write_viral(stage, manifest)
        move_into_place(stage, SampleFolder(out, sample))
    logger.info(
        "sample %s: %d windows, %d called, %d of them virus; %d contigs, %d of them virus",
        sample, manifest.windows, consensus.called.sum(), consensus.virus.sum(),
        manifest.contigs, tables.viral,
    )  # fmt: skip
    if probabilities:
        fdr = expected_fdr(probabilities(consensus.margin), consensus.virus)
        _log_expected_fdr(sample, fdr, probability.prevalence)
    for how in sorted(computed, key=str):
        note = "" if verified.covers(how.precision, how.device) else _NOT_VERIFIED
        logger.info("sample %s: embeddings computed in %s%s", sample, how, note)


def _add_frames(
    tables: SampleTables,
    chunks: Iterator[ScoredChunk],
    consensus: Consensus,
    numbers: Int,
    advance: Callable[[int], None],
) -> None:
    for chunk in chunks:
        consensus.add_chunk(chunk)
        rows = chunk.window_row
        tables.add_frames(chunk, numbers[rows])
        advance(len(rows))


def _add_windows(
    tables: SampleTables,
    parts: Iterator[pa.Table],
    consensus: Consensus,
    advance: Callable[[int], None],
) -> None:
    first = 0
    for part in parts:
        last = first + part.num_rows
        tables.add_windows(part, consensus.part(slice(first, last)))
        advance(last - first)
        first = last


def _log_expected_fdr(sample: str, fdr: float | None, prevalence: float) -> None:
    if fdr is not None:
        logger.info(
            "sample %s: %.1f %% of the windows called virus are expected not to be, if %g of the "
            "windows are viral (`prevalence`)", sample, 100 * fdr, prevalence,
        )  # fmt: skip
