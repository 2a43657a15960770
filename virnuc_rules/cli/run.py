"""The verbs that the jobs of a run call: cut, embed, classify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virnuc_rules.cli.settings import (
    CALL_KEYS,
    RESULT_KEYS,
    WORKER_KEYS,
    Log,
    Stamp,
    with_settings,
)
from virnuc_rules.config.model import Config, read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.logs import logger

if TYPE_CHECKING:
    from virnuc_rules.serving.worker import Worker

app = typer.Typer()


@app.command()
@with_settings("window", "chunk_size", "min_length", "max_ambiguous", "duplicate_ids")
def chunk(
    config: Config,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="contigs or reads of one sample, FASTA or FASTQ (qualities are ignored, paired "
            "files are just two files), plain, gz, bz2, xz or zst; - is standard input"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for chunks, tables and manifest")],
    sample: Annotated[str, typer.Option(help="name for messages [default: the file's]")] = "",
    upstream_fasta: Annotated[
        Path | None, typer.Option(help="folder for the FASTA files that VirNucPro would write")
    ] = None,
    log: Log = None,
) -> None:
    """Cut contigs into windows and their open frames into chunks."""
    from virnuc_rules.chunking.writer import write_chunks
    from virnuc_rules.progress import progress
    from virnuc_rules.reading.streams import STDIN, size_on_disk

    name = "stdin" if files[0] == STDIN else files[0].name.split(".")[0]
    sample = sample or name
    with progress(f"chunk {sample}", size_on_disk(files)) as advance:
        manifest = write_chunks(
            files,
            out,
            sample=sample,
            window=config.window,
            chunk_size=config.chunk_size,
            min_length=config.min_length,
            max_ambiguous=config.max_ambiguous,
            duplicate_ids=config.duplicate_ids,
            upstream_fasta=upstream_fasta,
            advance=advance,
        )
    logger.info(
        "%s: %d files, %d contigs, %d bases, %d windows, %d open frames in %d chunks",
        sample, len(files), manifest.contigs, manifest.bases, manifest.windows,
        manifest.open_frames, len(manifest.chunks),
    )  # fmt: skip


@app.command()
@with_settings("samples", *WORKER_KEYS)
def serve(
    config: Config,
    worker: Annotated[int, typer.Option(help="number of this worker, from 0")] = 0,
    deadline: Annotated[
        float, typer.Option(min=0, help="minutes that the job may last; 0: as long as it likes")
    ] = 0,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Be a model server: load both models once, embed chunks until none is left."""
    from virnuc_rules.embedding.tasks import all_tasks, read_settings
    from virnuc_rules.serving.worker import Worker

    samples = read_samples(config.samples)
    tasks = all_tasks(config.results, samples, *read_settings(config))
    _work(Worker(config, str(worker), worker, tasks, deadline), stamp, log)


@app.command()
@with_settings(*WORKER_KEYS)
def embed(
    config: Config,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    chunk: Annotated[str, typer.Option(help="name of the chunk file, as in the manifest")],
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Embed one chunk in a process of its own: the reference, and the way to debug a chunk."""
    from virnuc_rules.embedding.tasks import read_settings, sample_tasks
    from virnuc_rules.serving.worker import Worker

    tasks = sample_tasks(config.results, sample, *read_settings(config))
    wanted = {task.key: task for task in tasks if task.path.name == chunk}
    if not wanted:
        raise VirnucError(f"sample {sample}: no chunk {chunk} in its manifest; run `chunk` first")
    _work(Worker(config, f"{sample}-{chunk}", 0, wanted), stamp, log, report=False)


@app.command()
@with_settings(*RESULT_KEYS, "on_failed_chunks", *CALL_KEYS, "prevalence")
def predict(
    config: Config,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    log: Log = None,
) -> None:
    """Classify the embeddings of a sample and write its tables."""
    from virnuc_rules.prediction.predict import predict as write_predictions

    write_predictions(config, sample, out)


def _work(worker: "Worker", stamp: Path | None, log: Path | None, report: bool = True) -> None:
    from virnuc_rules.files.atomic import replacing
    from virnuc_rules.serving.worker import Exit

    code = worker.run(str(log or "standard error"), report)
    if code == Exit.DRAINED and stamp:
        with replacing(stamp) as handle:
            handle.write(f"{len(worker.tasks)} chunks\n")
    raise typer.Exit(int(code))
