"""The commands of `virnuc-rules models`: make, list, show and check bundles."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from virnuc_rules.cli.settings import Log, with_settings
from virnuc_rules.config.model import Compute, Embedding, Run
from virnuc_rules.errors import UnreachableError, VirnucError
from virnuc_rules.logs import logger, say, start_log
from virnuc_rules.models.card import is_bundle

app = typer.Typer(no_args_is_help=True, help="Model bundles.")
_BUNDLES = Path("bundles")  # where `prepare` makes them


@app.command()
def prepare(
    definition: Annotated[
        str, typer.Argument(help="name of a definition (see `models list`), or a .yaml file")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="new folder for the bundle \\[default: bundles/NAME]")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="folder for downloads \\[default: .downloads beside OUT]")
    ] = None,
    trust_unpinned: Annotated[
        bool, typer.Option("--trust-unpinned", help="also use files without a known sha256")
    ] = False,
    dnabert_s: Annotated[Path | None, typer.Option(help="Hugging Face folder of DNABERT-S")] = None,
    esm2: Annotated[
        Path | None, typer.Option(help="Hugging Face folder of ESM-2, or fair-esm's .pt")
    ] = None,
    classifier: Annotated[Path | None, typer.Option(help="VirNucPro's .pth, or your own")] = None,
    window: Annotated[int | None, typer.Option(min=3, help="its window length")] = None,
    name: Annotated[
        str, typer.Option(help="name of the bundle \\[default: the definition's or the folder's]")
    ] = "",
    log: Log = None,
) -> None:
    """Make a bundle: download missing files, compare hashes, convert; no code in files is run.

    Example: virnuc-rules models prepare virnucpro-500 --trust-unpinned
    """
    start_log(log)
    from virnuc_rules.bundles.definition import customized, find_definition
    from virnuc_rules.bundles.prepare import prepare_bundle

    base = find_definition(definition) if definition else None
    name = name or (base.name if base else out.name if out else "own")
    paths = {"dnabert_s": dnabert_s, "esm2": esm2, "classifier": classifier}
    made = customized(base, name=name, window=window, paths=paths)
    out = out or _BUNDLES / name
    try:
        card = prepare_bundle(made, out, cache=cache, trust_unpinned=trust_unpinned)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}; complete downloads are kept. On a machine with a network run "
            f"`virnuc-rules {shlex.join(sys.argv[1:])}` and copy {out} here, "
            "or set HF_ENDPOINT to a mirror of the hub"
        ) from None
    logger.info("%s: bundle %s for windows of %d bases", out, card.name, card.window)


@app.command("list")
@with_settings
def list_models(run: Run) -> None:
    """List the shipped definitions, the bundles in ./bundles and the one of the config.

    Example: virnuc-rules models list
    """
    from virnuc_rules.bundles.overview import overview
    from virnuc_rules.terminal import Terminal

    folders = sorted(path for path in _BUNDLES.glob("*") if is_bundle(path))
    if run.bundle.exists() and run.bundle.resolve() not in {path.resolve() for path in folders}:
        folders.append(run.bundle)
    Terminal().print(overview(folders))


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="folder of a bundle, or a definition")],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show the card of a bundle, or a definition, as YAML.

    Example: virnuc-rules models show demo/bundle
    """
    import yaml

    from virnuc_rules.bundles.overview import find_model

    shown = find_model(model)
    if json:
        say(shown.model_dump_json(indent=1))
    else:
        say(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False, width=100).rstrip())


@app.command()
@with_settings
def verify(
    compute: Compute,
    embedding: Embedding,
    bundle: Annotated[Path, typer.Argument(help="folder of the bundle")],
    data: Annotated[
        Path | None, typer.Option(help="your FASTA file, to compare the precision with fp32")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="fair-esm's .pt: also compare ESM-2 with fair-esm's forward pass"),
    ] = None,
    log: Log = None,
) -> None:
    """Check a bundle's hashes and a self-check batch; with --data, the effect of a precision.

    The result is stored in the bundle's folder; runs report a precision that was not verified.

    Example: virnuc-rules models verify bundles/virnucpro-500 --data my.fa --precision fp16
    """
    if reference and not data:
        raise VirnucError("--reference needs --data: a FASTA file to compare on")
    import torch

    from virnuc_rules.inspection.verify import verify as measure
    from virnuc_rules.models.bundle import Bundle
    from virnuc_rules.models.device import choose_device, choose_precision

    torch.set_num_threads(compute.threads)
    device = choose_device(compute.device)
    precision = choose_precision(embedding.precision, device)
    runs = measure(Bundle(bundle), device, precision, embedding, data, reference)
    for run in runs:
        say(run)
    logger.info("%s: files and self-check are sound (%s on %s)", bundle, precision, device)
