"""From embeddings to calls: the tables of a sample."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from virnuc_rules.bundles.verified import Verified, read_verified
from virnuc_rules.chunking.format import contig_indices, contig_lengths, read_table
from virnuc_rules.chunking.manifest import Manifest, read_manifest
from virnuc_rules.config.model import Calling, Chunking, Embedding, Probability, Run
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder, SampleFolder
from virnuc_rules.embedding.embedding_file import Computation
from virnuc_rules.embedding.tasks import Tasks
from virnuc_rules.files.atomic import staged_folder, writing
from virnuc_rules.models.bundle import Bundle
from virnuc_rules.models.calibration import Odds
from virnuc_rules.prediction.called_windows import WindowCalls, called_windows
from virnuc_rules.prediction.contig_calls import with_windows
from virnuc_rules.prediction.decision import SampleCalls, decide
from virnuc_rules.prediction.scored_chunks import scored_chunks
from virnuc_rules.prediction.tables import SampleTables, move_into_place
from virnuc_rules.prediction.viral_fasta import write_viral
from virnuc_rules.prediction.window_calls import Consensus
from virnuc_rules.progress import progress

logger = logging.getLogger(__name__)


def predict(
    run: Run,
    embedding: Embedding,
    calling: Calling,
    probability: Probability,
    sample: str,
    out: Path,
    finish: Callable[[SampleFolder, list[str]], None] = lambda *_: None,
) -> None:
    """Write the tables of a sample into the folder `out`, all or none; see `SampleFolder`.

    `finish` is called with the complete folder, before its files are moved to `out`, and with the
    names of chunks without embeddings, which `on_failed_chunks: report` allows. Raises ResultError
    for missing or damaged embeddings (a damaged file is moved aside, so that the next run embeds it
    again), ChunkError for an incomplete chunk folder, ModelError for a damaged bundle or a
    classifier with scores that are not finite, and EnvironmentProblem for what cannot be read,
    written or held in memory. After an error older tables are unchanged.
    """
    bundle = Bundle(run.bundle)
    bundle.card.check_max_fdr(probability.max_fdr)
    verified = read_verified(bundle.folder, bundle.card.fingerprint)
    tasks = list(Tasks.of(run, embedding).of_sample(sample))
    folder = RunFolder(run.results).chunks(sample)
    manifest = read_manifest(folder)
    odds = Odds.of(bundle.card.calibration)
    contigs = contig_indices(folder, manifest, contig_lengths(folder, manifest))
    consensus, computed = Consensus.empty(manifest.windows), set[Computation]()
    failed: list[str] = []
    work = manifest.open_frames + manifest.windows
    with writing(out), staged_folder(out) as staged, progress(f"sample {sample}", work) as advance:
        stage = SampleFolder(staged, sample, manifest.chunking.like_virnucpro)
        with SampleTables(stage) as tables:
            scored = scored_chunks(tasks, run, bundle.open_classifier(), computed)
            for task, chunk in zip(tasks, scored, strict=True):
                if chunk.scores is None:
                    failed.append(task.name)
                consensus.add_chunk(chunk)
                tables.add_frames(chunk, contigs[chunk.window_row])
                advance(chunk.table.num_rows)
            blocks = partial(_blocks, folder, manifest.chunking, consensus, odds)
            windows = (block[-1] for block in blocks())
            decision = decide(windows, bundle.card, odds, calling, probability)
            for block in blocks():
                tables.add_contigs(*block, decision, odds)
                advance(block[1].num_rows)
            calls = tables.finish(decision)
        write_viral(stage, folder, manifest.bases)
        finish(stage, failed)
        move_into_place(stage, SampleFolder(out, sample))
    _log_calls(sample, manifest, tables)
    if calls.calls == "min_*" and calling.calls != "default":
        logger.warning(
            "calls: %s is not used: bundle %s has no model of contigs, so the keys min_* decide; "
            "fit one with `virnuc-rules calibrate`", calling.calls, bundle.card.name,
        )  # fmt: skip
    _log_expected(sample, calls)
    _log_computed(sample, computed, verified)


def _blocks(
    folder: ChunkFolder, chunking: Chunking, consensus: Consensus, odds: Odds
) -> Iterator[tuple[pa.Table, pa.Table, Consensus, WindowCalls]]:
    """Yield some contigs at a time: their rows, those of their windows, and the calls of these."""
    first = 0
    chunked = read_table(folder.contigs), read_table(folder.windows)
    for contigs, table in with_windows(*chunked, chunking.window):
        part = consensus.part(slice(first, first + table.num_rows))
        yield contigs, table, part, called_windows(contigs, table, part, odds, folder, chunking)
        first += table.num_rows


def _log_calls(sample: str, manifest: Manifest, tables: SampleTables) -> None:
    logger.info(
        "sample %s: %d windows, %d called, %d of them virus; %d contigs, %d of them virus",
        sample, manifest.windows, tables.called_windows, tables.viral_windows, manifest.contigs,
        tables.viral_contigs,
    )  # fmt: skip


def _log_expected(sample: str, calls: SampleCalls) -> None:
    how = "estimated" if calls.estimated else "by `prevalence`"
    for name, level in (("windows", calls.windows), ("contigs", calls.contigs)):
        if level and level.expected_fdr is not None:
            logger.debug(
                "sample %s: %.1f %% of the %s with a call are viral (%s); of those called virus, "
                "%.1f %% are expected not to be", sample, 100 * level.prevalence, name, how,
                100 * level.expected_fdr,
            )  # fmt: skip


def _log_computed(sample: str, computed: set[Computation], verified: Verified) -> None:
    for how in sorted(computed, key=str):
        known = verified.covers(how.precision, how.device)
        level, note = logging.DEBUG, ""
        if not known:
            level, note = logging.INFO, " (not verified with this bundle)"
        logger.log(level, "sample %s: embeddings computed in %s%s", sample, how, note)
