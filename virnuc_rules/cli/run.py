"""The commands that the jobs of a run call: chunk, serve, embed, predict, collect."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from virnuc_rules.chunking.manifest import Manifest
from virnuc_rules.cli.settings import OF_JOBS, Log, Stamp, with_settings
from virnuc_rules.config.model import (
    Calling,
    Chunking,
    Embedding,
    Inputs,
    Probability,
    Run,
    WorkerSettings,
)
from virnuc_rules.config.run_folder import ChunkFolder, RunFolder, SampleFolder
from virnuc_rules.config.sheet import read_samples, read_sheet
from virnuc_rules.errors import (
    ChunkError,
    InputError,
    UnreadableInput,
    VirnucError,
)
from virnuc_rules.files.made import Product, Seen, read_made, touch
from virnuc_rules.logs import logger
from virnuc_rules.models.card import read_card
from virnuc_rules.planning import products
from virnuc_rules.planning.lacking import without_other
from virnuc_rules.queue.store import Store
from virnuc_rules.vocabulary import STANDARD_CODE

if TYPE_CHECKING:
    from virnuc_rules.serving.worker import Worker

app = typer.Typer()

_STDIN = Path("-")
NeedEmbeddings = Annotated[
    bool,
    typer.Option(
        "--need-embeddings",
        help="for train: chunks of which only scores were kept are embedded",
        rich_help_panel=OF_JOBS,
    ),
]


@app.command()
@with_settings
def chunk(
    chunking: Chunking,
    files: Annotated[
        list[Path],
        typer.Argument(
            readable=False,  # not checked here: it is a problem of the sample, see below
            help="contigs or reads of one sample, FASTA or FASTQ (qualities are ignored, paired "
            "files are two files), plain, gz, bz2, xz or zst; - is standard input",
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for chunks, tables and manifest")],
    sample: Annotated[str, typer.Option(help="name for messages \\[default: the file's]")] = "",
    upstream_fasta: Annotated[
        Path | None, typer.Option(help="folder for the FASTA files that VirNucPro would write")
    ] = None,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Cut contigs into windows and their open frames into chunks.

    With --stamp, files that cannot be used are recorded, and `check` is the command that fails.

    Example: virnuc-rules chunk lake.fa.gz --out results/chunks/lake --window 500
    """
    if upstream_fasta and not chunking.like_virnucpro:
        raise VirnucError(
            f"--upstream-fasta: VirNucPro knows only genetic_code {STANDARD_CODE}; leave it out"
        )
    product = products.chunks(ChunkFolder(out), chunking, files)
    is_stream = any(path == _STDIN or path.is_fifo() for path in files)
    can_be_current = not is_stream and upstream_fasta is None
    if can_be_current and product.up_to_date(stamp):
        return
    seen = product.look(content=False)
    sample = sample or ("stdin" if files[0] == _STDIN else files[0].name.split(".")[0])

    def write() -> None:
        _write_chunks(product, seen, out, chunking, sample, upstream_fasta)

    try:
        if can_be_current:
            product.make(write, stamp)
        else:
            write()
            if stamp:
                touch(stamp)
    except InputError as error:
        if stamp is None:
            raise
        logger.error("%s", error)
        again = [sample] if isinstance(error, UnreadableInput) else []
        product.finish(seen, [], stamp, problem=str(error), failed=again)


def _write_chunks(
    product: Product,
    seen: list[Seen],
    out: Path,
    chunking: Chunking,
    sample: str,
    upstream_fasta: Path | None,
) -> None:
    from virnuc_rules.chunking.writer import write_chunks
    from virnuc_rules.progress import progress
    from virnuc_rules.reading.streams import size_on_disk

    def finish(stage: ChunkFolder, manifest: Manifest) -> None:
        hashed = zip(seen, manifest.sources_sha256, strict=True)
        inputs = [each.model_copy(update={"sha256": sha256}) for each, sha256 in hashed]
        made = stage.files([entry.file for entry in manifest.chunks])
        product.at(stage.made).finish(inputs, made, None)

    files = product.inputs
    with progress(f"chunk {sample}", size_on_disk(files)) as advance:
        manifest = write_chunks(
            files, out, chunking, sample=sample, upstream_fasta=upstream_fasta, advance=advance,
            finish=finish,
        )  # fmt: skip
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
    calling: Calling,
    probability: Probability,
    worker: Annotated[int, typer.Option(help="index of this worker, from 0")] = 0,
    deadline: Annotated[
        float, typer.Option(min=0, help="maximum minutes of the job; 0 = no limit")
    ] = 0,
    every_sample: Annotated[
        bool,
        typer.Option(
            "--every-sample",
            help="also samples with tables, for train and evaluate",
            rich_help_panel=OF_JOBS,
        ),
    ] = False,
    need_embeddings: NeedEmbeddings = False,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Run a model server: load both models once, embed chunks until none is left.

    Chunks of samples whose tables are up to date are left out: their embeddings may be deleted.

    Example: virnuc-rules serve --results results --device cuda:0
    """
    from virnuc_rules.embedding.tasks import Tasks
    from virnuc_rules.serving.lifetime import snakemakes
    from virnuc_rules.serving.worker import Worker

    every = Tasks.of(settings.run, settings.embedding, need_embeddings=need_embeddings)
    of_tables = (every.card, settings.embedding, calling, probability)
    samples = [
        sample
        for sample in read_samples(inputs.samples)
        if every_sample or not products.is_final(every.folder, sample, *of_tables)
    ]
    # Of a sample whose files cannot be used there is this record, and no task.
    chunked = [sample for sample in samples if every.folder.chunks(sample).made.exists()]
    if samples and not chunked:
        raise ChunkError(f"sample {samples[0]} is not chunked; run `chunk` first")
    if late := sorted(set(samples) - set(chunked)):
        logger.warning("sample %s is not chunked, and left out", late[0])
    tasks = without_other(every.of_samples(chunked).values(), Store(settings.run.results))
    name, by_hand = str(worker), not snakemakes()  # Snakemake begins the run itself
    _work(Worker(settings, name, worker, tasks, deadline, _name(log), begins=by_hand), stamp)


@app.command()
@with_settings
def embed(
    settings: WorkerSettings,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    chunk: Annotated[str, typer.Option(help="name of the chunk file, as in the manifest")],
    need_embeddings: NeedEmbeddings = False,
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Embed one chunk in a separate process: the reference, and for debugging a chunk.

    Example: virnuc-rules embed --sample lake --chunk chunk_000000.parquet
    """
    from virnuc_rules.embedding.tasks import Tasks
    from virnuc_rules.serving.worker import Worker

    every = Tasks.of(settings.run, settings.embedding, need_embeddings=need_embeddings)
    tasks = [task for task in every.of_sample(sample) if task.path.name == chunk]
    selected = without_other(tasks, Store(settings.run.results))
    if not tasks:
        raise VirnucError(f"sample {sample}: no chunk {chunk} in its manifest; run `chunk` first")
    name = f"{sample}-{chunk}"
    _work(Worker(settings, name, 0, selected, log=_name(log), has_report=False), stamp)


@app.command()
@with_settings
def predict(
    run: Run,
    embedding: Embedding,
    calling: Calling,
    probability: Probability,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Classify the embeddings of a sample and write its tables.

    Where the files of the sample cannot be used, older tables stay as they are.

    Example: virnuc-rules predict --sample lake --out results/lake
    """
    card, folder = read_card(run.bundle), SampleFolder(out, sample)
    chunks = read_made(RunFolder(run.results).chunks(sample).made)
    if chunks is None:
        raise ChunkError(f"sample {sample} is not chunked; run `chunk` first")
    product = products.tables(folder, chunks.key, card, embedding, calling, probability)
    if chunks.problem:
        logger.error("no tables: %s", chunks.problem)
        product.finish([], [], stamp, problem=chunks.problem)
    elif not product.up_to_date(stamp):
        from virnuc_rules.prediction.predict import predict as write_predictions

        def finish(stage: SampleFolder, failed: list[str]) -> None:
            product.at(stage.made).finish([], stage.files(), None, failed=failed)

        product.make(
            lambda: write_predictions(run, embedding, calling, probability, sample, out, finish),
            stamp,
        )


@app.command()
@with_settings
def collect(inputs: Inputs, run: Run, stamp: Stamp = None, log: Log = None) -> None:
    """Write the viral contigs and regions of all samples into one table and one FASTA file.

    Example: virnuc-rules collect --results results
    """
    folder, sheet = RunFolder(run.results), read_sheet(inputs.samples)
    product = products.viruses(folder, sheet)
    if product.up_to_date(stamp):
        return
    from virnuc_rules.report.viruses import write_viruses

    def write() -> None:
        seen = product.look()
        product.made.unlink(missing_ok=True)
        rows = write_viruses(run.results, sheet)
        product.finish(seen, folder.viruses.files(), None)
        logger.info("%s: %d viral contigs and regions", folder.viruses.tsv, rows)

    product.make(write, stamp)


@app.command()
@with_settings
def check(
    inputs: Inputs,
    run: Run,
    sample: Annotated[str, typer.Option(help="only this sample \\[default: all]")] = "",
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Name the samples whose files could not be used; exit code 1 if there is one.

    Example: virnuc-rules check --results results
    """
    folder, problems = RunFolder(run.results), list[str]()
    samples = [sample] if sample else list(read_samples(inputs.samples))
    for sample in samples:
        made = read_made(folder.chunks(sample).made)
        if made is None:
            problems.append(f"sample {sample} is not chunked; run `chunk` first")
        elif made.problem:
            problems.append(made.problem)
    for problem in problems:
        logger.error("%s", problem)
    if problems:
        count = f"{len(problems)} of {len(samples)} samples"
        raise VirnucError(f"{count} could not be used; the others are finished")
    if stamp:
        touch(stamp)


def _name(log: Path | None) -> str:
    return str(log or "standard error")


def _work(worker: "Worker", stamp: Path | None) -> None:
    from virnuc_rules.serving.worker import Exit

    code = worker.run()
    if code == Exit.DRAINED and stamp:
        touch(stamp)
    raise typer.Exit(int(code))
