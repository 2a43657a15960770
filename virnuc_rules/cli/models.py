"""The commands of `virnuc-rules models`: make, list, show and check bundles."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from virnuc_rules.cli.settings import Log, with_settings
from virnuc_rules.config.model import Compute, Embedding, Run
from virnuc_rules.errors import UnreachableError, VirnucError
from virnuc_rules.logs import logger, say, start_log
from virnuc_rules.models.card import is_bundle

app = typer.Typer(no_args_is_help=True, help="Model bundles.")
_BUNDLES = Path("bundles")  # where `prepare` makes them
_FRAMES = Path(__file__).parents[2] / "demo/data/gut.fa.gz"  # in a checkout
Out = Annotated[
    Path | None, typer.Option(help="new folder for the bundle \\[default: bundles/NAME]")
]
Cache = Annotated[
    Path | None, typer.Option(help="folder for downloads \\[default: .downloads beside OUT]")
]
TrustUnpinned = Annotated[
    bool, typer.Option("--trust-unpinned", help="also use files without a known sha256")
]


@app.command()
def prepare(
    definition: Annotated[
        str, typer.Argument(help="name of a definition (see `models list`), or a .yaml file")
    ] = "",
    out: Out = None,
    cache: Cache = None,
    trust_unpinned: TrustUnpinned = False,
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
            "or give copies of the files above"
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
    from virnuc_rules.bundles.overview import find_model

    shown = find_model(model)
    if json:
        say(shown.model_dump_json(indent=1))
    else:
        _say_yaml(shown.model_dump(mode="json"))


def _say_yaml(content: Any) -> None:
    import yaml

    say(yaml.safe_dump(content, sort_keys=False, width=100).rstrip())


@app.command()
@with_settings
def verify(
    compute: Compute,
    embedding: Embedding,
    bundle: Annotated[Path, typer.Argument(help="folder of the bundle")],
    data: Annotated[
        Path | None, typer.Option(help="your FASTA file, to compare the precision with fp32")
    ] = None,
    log: Log = None,
) -> None:
    """Check a bundle's hashes and a self-check batch; with --data, the effect of a precision.

    The result is stored in the bundle's folder; runs report a precision that was not verified.

    Example: virnuc-rules models verify bundles/virnucpro-500 --data my.fa --precision fp16
    """
    import torch

    from virnuc_rules.inspection.verify import verify as measure
    from virnuc_rules.models.bundle import Bundle
    from virnuc_rules.models.device import choose_device, choose_precision

    torch.set_num_threads(compute.threads)
    device = choose_device(compute.device)
    precision = choose_precision(embedding.precision, device)
    runs = measure(Bundle(bundle), device, precision, embedding, data)
    for run in runs:
        say(run)
    logger.info("%s: files and self-check are sound (%s on %s)", bundle, precision, device)


@app.command()
@with_settings
def attest(
    compute: Compute,
    embedding: Embedding,
    definition: Annotated[
        str, typer.Argument(help="name of a definition (see `models list`), or a .yaml file")
    ],
    out: Out = None,
    cache: Cache = None,
    trust_unpinned: TrustUnpinned = False,
    data: Annotated[Path, typer.Option(help="FASTA file of which open frames are taken")] = _FRAMES,
    frames: Annotated[
        int, typer.Option(min=1, help="open frames at most; on a CPU take few")
    ] = 256,
    golden: Annotated[
        Path | None, typer.Option(help="folder of a run of VirNucPro, to compare with its results")
    ] = None,
    log: Log = None,
) -> None:
    """Compare a bundle with fair-esm and transformers; print a block for an issue.

    Makes the bundle if it is missing. Exits with 1 if a difference is above its limit. Needs the
    extra `reference`, and memory for ESM-2 in fp32 once.

    Example: virnuc-rules models attest virnucpro-500 --trust-unpinned --golden run/
    """
    from virnuc_rules.inspection.references import reference_versions

    reference_versions()  # before gigabytes are downloaded
    for path in filter(None, (data, golden)):
        if not path.exists():
            raise VirnucError(f"{path}: no such path; correct --data FASTA or --golden FOLDER")
    import torch

    from virnuc_rules.bundles.definition import find_definition
    from virnuc_rules.bundles.prepare import attested_bundle
    from virnuc_rules.inspection.attest import attest as compare
    from virnuc_rules.models.device import choose_device, choose_precision

    torch.set_num_threads(compute.threads)
    device = choose_device(compute.device)
    made = find_definition(definition)
    bundle, fetched = attested_bundle(
        made, out or _BUNDLES / made.name, cache=cache, trust_unpinned=trust_unpinned
    )
    report = compare(
        made, bundle, fetched, embedding, device=device, fasta=data, golden=golden, frames=frames,
        precision=choose_precision(embedding.precision, device),
    )  # fmt: skip
    _say_yaml(report)
    differences = report["greatest_differences_in_fp32"].items()
    # One that is no number is above any limit.
    if wrong := [name for name, row in differences if not row["value"] <= row["limit"]]:
        raise VirnucError(f"{definition}: above the limit: {', '.join(wrong)}")
