"""The commands that the jobs of a run call: chunk, serve, embed, predict."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virnuc_rules.cli.settings import Log, Stamp, with_settings
from virnuc_rules.config.model import (
    Calling,
    Chunking,
    Embedding,
    Inputs,
    Probability,
    Run,
    WorkerSettings,
)
from virnuc_rules.config.sheet import read_samples
from virnuc_rules.errors import VirnucError
from virnuc_rules.logs import logger

if TYPE_CHECKING:
    from virnuc_rules.serving.worker import Worker

app = typer.Typer()


@app.command()
@with_settings
def chunk(
    chunking: Chunking,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="contigs or reads of one sample, FASTA or FASTQ (qualities are ignored, paired "
            "files are two files), plain, gz, bz2, xz or zst; - is standard input"
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
            files, out, chunking, sample=sample, upstream_fasta=upstream_fasta, advance=advance
        )
    logger.info(
        "%s: %d files, %d contigs, %d bases, %d windows, %d open frames in %d chunks",
        sample, len(files), manifest.contigs, manifest.bases, manifest.windows,
        manifest.open_frames, len(manifest.chunks),
    )  # fmt: skip


@app.command()
@with_settings
def serve(
    inputs: Inputs,
    settings: WorkerSettings,
    worker: Annotated[int, typer.Option(help="index of this worker, from 0")] = 0,
    deadline: Annotated[
        float, typer.Option(min=0, help="maximum minutes of the job; 0 = no limit")
    ] = 0,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Run a model server: load both models once, embed chunks until none is left."""
    from virnuc_rules.embedding.tasks import Tasks
    from virnuc_rules.serving.worker import Worker

    tasks = Tasks.of(settings.run, settings.embedding).of_samples(read_samples(inputs.samples))
    _work(Worker(settings, str(worker), worker, tasks, deadline), stamp, log)


@app.command()
@with_settings
def embed(
    settings: WorkerSettings,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    chunk: Annotated[str, typer.Option(help="name of the chunk file, as in the manifest")],
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Embed one chunk in a separate process: the reference, and for debugging a chunk."""
    from virnuc_rules.embedding.tasks import Tasks
    from virnuc_rules.serving.worker import Worker

    tasks = Tasks.of(settings.run, settings.embedding).of_sample(sample)
    selected = {task.key: task for task in tasks if task.path.name == chunk}
    if not selected:
        raise VirnucError(f"sample {sample}: no chunk {chunk} in its manifest; run `chunk` first")
    _work(Worker(settings, f"{sample}-{chunk}", 0, selected), stamp, log, report=False)


@app.command()
@with_settings
def predict(
    run: Run,
    embedding: Embedding,
    calling: Calling,
    probability: Probability,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    log: Log = None,
) -> None:
    """Classify the embeddings of a sample and write its tables."""
    from virnuc_rules.prediction.predict import predict as write_predictions

    write_predictions(run, embedding, calling, probability, sample, out)


def _work(worker: "Worker", stamp: Path | None, log: Path | None, report: bool = True) -> None:
    from virnuc_rules.files.atomic import replacing
    from virnuc_rules.serving.worker import Exit

    code = worker.run(str(log or "standard error"), report)
    if code == Exit.DRAINED and stamp:
        with replacing(stamp) as handle:
            handle.write(f"{len(worker.tasks)} chunks\n")
    raise typer.Exit(int(code))
