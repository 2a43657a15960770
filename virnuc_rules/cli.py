"""The command line: every rule of the workflow is one call of one of these verbs."""

import os
import shlex
import sys
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virnuc_rules import __version__
from virnuc_rules.config import Config, check_config, read_samples
from virnuc_rules.errors import UnreachableError, VirnucError
from virnuc_rules.logs import logger, start_log

if TYPE_CHECKING:
    from virnuc_rules.server import Worker

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
models = typer.Typer(no_args_is_help=True, help="Model bundles.")
app.add_typer(models, name="models")


def _with_settings(*keys: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb config keys as options; it gets them checked, as one argument `config`.

    Type, default and help text of an option are those of the key.
    """

    def option(key: str) -> Parameter:
        field = Config.model_fields[key]
        kind = field.annotation if isinstance(field.annotation, type) else str  # a Literal is text
        annotation = Annotated[kind, typer.Option(help=field.description)]  # type: ignore[valid-type]
        return Parameter(key, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            log = start_log(values.get("log"))
            if "log" in values:
                values["log"] = log
            config = check_config({key: values.pop(key) for key in keys})
            verb(config=config, **values)

        own = [p for p in signature(verb).parameters.values() if p.name != "config"]
        parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own] + list(map(option, keys))
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


# What the keys of results depend on, and what a worker needs beside it.
_RESULT_KEYS = ("results", "bundle", "precision", "batch_tokens")
_WORKER_KEYS = (*_RESULT_KEYS, "device", "threads", "cache_clear_interval", "lease_seconds",
                "load_timeout", "on_failed_chunks")  # fmt: skip
_CALL_KEYS = ("min_score", "min_viral_fraction", "min_called_windows")

Log = Annotated[Path | None, typer.Option(help="also log to this file, with tracebacks")]
Stamp = Annotated[Path | None, typer.Option(help="file to write when the work is done")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        print(f"virnuc-rules {__version__}")
        raise typer.Exit


@app.command()
@_with_settings("window", "chunk_size", "min_length", "max_ambiguous", "duplicate_ids")
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
    from virnuc_rules.chunks import write_chunks
    from virnuc_rules.progress import progress
    from virnuc_rules.streams import STDIN, size_on_disk

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
@_with_settings("samples", *_WORKER_KEYS)
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
    from virnuc_rules.server import Worker
    from virnuc_rules.tasks import all_tasks, read_settings

    samples = read_samples(config.samples)
    tasks = all_tasks(config.results, samples, *read_settings(config))
    _work(Worker(config, str(worker), worker, tasks, deadline), stamp, log)


@app.command()
@_with_settings(*_WORKER_KEYS)
def embed(
    config: Config,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    chunk: Annotated[str, typer.Option(help="name of the chunk file, as in the manifest")],
    stamp: Stamp = None,
    log: Log = None,
) -> None:
    """Embed one chunk in a process of its own: the reference, and the way to debug a chunk."""
    from virnuc_rules.server import Worker
    from virnuc_rules.tasks import read_settings, sample_tasks

    tasks = sample_tasks(config.results, sample, *read_settings(config))
    wanted = {task.key: task for task in tasks if task.path.name == chunk}
    if not wanted:
        raise VirnucError(f"sample {sample}: no chunk {chunk} in its manifest; run `chunk` first")
    _work(Worker(config, f"{sample}-{chunk}", 0, wanted), stamp, log, report=False)


@app.command()
@_with_settings(*_RESULT_KEYS, "on_failed_chunks", *_CALL_KEYS)
def predict(
    config: Config,
    sample: Annotated[str, typer.Option(help="name of the sample")],
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    log: Log = None,
) -> None:
    """Classify the embeddings of a sample and write its tables."""
    from virnuc_rules.predict import predict as write_predictions

    write_predictions(config, sample, out)


@app.command()
@_with_settings(*Config.model_fields)
def report(
    config: Config,
    out: Annotated[
        Path | None, typer.Option(help="page to write [default: report.html in the results]")
    ] = None,
    log: Log = None,
) -> None:
    """Write one HTML page about the run; figures, provenance, MultiQC's tables beside it.

    All keys of the config are options; most are only written down as the settings of the run.
    """
    from virnuc_rules.report import write_report

    out = out or config.results / "report.html"
    run = write_report(config, out)
    logger.info("%s: %d samples, %d contigs", out, len(run.samples), run.contigs.total)


@app.command()
@_with_settings("samples", *_RESULT_KEYS, "lease_seconds")
def status(
    config: Config,
    watch: Annotated[bool, typer.Option("--watch", help="redraw until all is done")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show how far a run is: chunks by state, workers, time left."""
    from rich.console import Console

    from virnuc_rules.status import read_status, render
    from virnuc_rules.status import watch as watch_status

    if json:
        print(read_status(config).model_dump_json(indent=1))
    elif watch:
        watch_status(config, Console())
    else:
        Console().print(render(read_status(config)))


@app.command()
@_with_settings(
    "samples", "results", "bundle", "window", "device", "precision", "threads", "lease_seconds"
)
def doctor(
    config: Config,
    profile: Annotated[
        Path | None,
        typer.Option(help="folder of the Slurm profile to ask Slurm about [default: slurm]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON, a finding a line")] = False,
) -> None:
    """Check what a run needs: filesystem, clock, device, bundle, input, what Slurm would accept."""
    from rich.console import Console

    from virnuc_rules.doctor import COLOURS, diagnose

    failed = 0
    plain = Console(markup=False, highlight=False, soft_wrap=True)
    for finding in diagnose(config, profile):
        if json:
            print(finding.model_dump_json(), flush=True)
        else:
            plain.print(str(finding), style=COLOURS[finding.level])
        failed += finding.level == "FAILED"
    raise typer.Exit(int(failed > 0))


@models.command("make-demo")
def make_demo(
    fasta: Annotated[list[Path], typer.Argument(help="sequences to train the tokenizer on")],
    out: Annotated[Path, typer.Option(help="folder for the bundle")],
    seed: Annotated[int, typer.Option(help="seed of the random weights")] = 1,
) -> None:
    """Make the demo bundle: tiny networks with random weights, whose scores mean nothing."""
    start_log(None)
    from virnuc_rules.models.demo import make_demo_bundle

    card = make_demo_bundle(fasta, out, seed)
    logger.info("%s: %s", out, card.description)


@models.command()
def prepare(
    definition: Annotated[
        str, typer.Argument(help="name of a shipped definition (see `models list`), or a .yaml")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="new folder for the bundle [default: bundles/NAME]")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="folder for downloads [default: .downloads beside OUT]")
    ] = None,
    trust_unpinned: Annotated[
        bool, typer.Option("--trust-unpinned", help="also take files whose sha256 is not known")
    ] = False,
    dnabert_s: Annotated[Path | None, typer.Option(help="Hugging Face folder of DNABERT-S")] = None,
    esm2: Annotated[
        Path | None, typer.Option(help="Hugging Face folder of ESM-2, or fair-esm's .pt")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="VirNucPro's .pth, or one of your own")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=3, help="bases of the windows it was trained on")
    ] = None,
    name: Annotated[
        str, typer.Option(help="name of the bundle [default: the definition's or the folder's]")
    ] = "",
    log: Log = None,
) -> None:
    """Make a bundle: download what is not here, compare hashes, convert; nothing in files runs."""
    start_log(log)
    from virnuc_rules.models.definition import customized, find_definition
    from virnuc_rules.models.prepare import prepare_bundle

    base = find_definition(definition) if definition else None
    name = name or (base.name if base else out.name if out else "own")
    paths = {"dnabert_s": dnabert_s, "esm2": esm2, "classifier": classifier}
    made = customized(base, name=name, window=window, paths=paths)
    out = out or Path("bundles") / name
    try:
        card = prepare_bundle(made, out, cache=cache, trust_unpinned=trust_unpinned)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}; what is there is kept. On a machine with a network run "
            f"`virnuc-rules {shlex.join(sys.argv[1:])}` and copy {out} here, "
            "or name a mirror of the hub in HF_ENDPOINT"
        ) from None
    logger.info("%s: bundle %s for windows of %d bases", out, card.name, card.window)


@models.command("list")
def list_models() -> None:
    """List the shipped definitions, and the bundles in ./bundles and of the default config."""
    from rich.console import Console

    from virnuc_rules.models.overview import overview

    found = sorted(path.parent for path in Path("bundles").glob("*/bundle.json"))
    default = Config().bundle
    Console().print(overview([*found, default] if default.exists() else found))


@models.command()
def show(
    model: Annotated[str, typer.Argument(help="folder of a bundle, or a definition")],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what a bundle is, or what a definition would make, as YAML."""
    import yaml

    from virnuc_rules.models.overview import find_model

    found = find_model(model)
    if json:
        print(found.model_dump_json(indent=1))
    else:
        print(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, width=100), end="")


@models.command()
@_with_settings("device", "precision", "threads", "batch_tokens")
def verify(
    config: Config,
    bundle: Annotated[Path, typer.Argument(help="folder of the bundle")],
    data: Annotated[
        Path | None, typer.Option(help="FASTA of your own, to compare the precision with fp32 on")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="fair-esm's .pt: also compare ESM-2 with fair-esm's own forward of it"),
    ] = None,
    log: Log = None,
) -> None:
    """Check a bundle's hashes and a self-check batch; on data, what a precision changes.

    The result is kept in the bundle's folder: runs say where a precision was not verified.
    """
    if reference and not data:
        raise VirnucError("--reference needs --data: a FASTA file to compare on")
    import torch

    from virnuc_rules.models.bundle import Bundle
    from virnuc_rules.models.device import choose_device, choose_precision
    from virnuc_rules.models.verify import verify as measure
    from virnuc_rules.tasks import Settings

    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    runs = measure(Bundle(bundle), device, precision, Settings.of(config), data, reference)
    for run in runs:
        print(run)
    logger.info("%s: files and self-check are sound (%s on %s)", bundle, precision, device)


def _work(worker: "Worker", stamp: Path | None, log: Path | None, report: bool = True) -> None:
    from virnuc_rules.files import replacing
    from virnuc_rules.server import Exit

    code = worker.run(str(log or "standard error"), report)
    if code == Exit.DRAINED and stamp:
        with replacing(stamp) as handle:
            handle.write(f"{len(worker.tasks)} chunks\n")
    raise typer.Exit(int(code))


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 1."""
    # Read when CUDA starts: without it, chunks of many lengths fragment the memory.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # Read when torch is imported: threads that spin while they wait slow a shared node down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Read when oneDNN and torch's layer over it start. Each number of rows that a product has had
    # is remembered, 0.4 MB each and 1,024 of them: a worker would grow for days.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    try:
        app()
    except VirnucError as error:
        logger.error("error: %s", error)
        sys.exit(1)
    except OSError as error:  # a full disk under a log, a folder that cannot be written
        logger.error("error: %s: %s", error.filename or "files", error.strerror or error)
        sys.exit(1)
