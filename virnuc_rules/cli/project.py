"""The command that begins a project: init."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder; made where it is missing")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILES",
            help="contigs or reads, a sample each (read pairs: two files); plain, gz, bz2, xz, zst",
        ),
    ] = None,
    checkout: Annotated[
        Path | None,
        typer.Option(help="repository of VirNuc \\[default: that of this installation]"),
    ] = None,
) -> None:
    """Begin a project: write a config, a sample sheet and a Snakefile; print the line to run.

    Nothing is written where one of these files exists.

    Examples:
      virnuc-rules init lakes data/*.fa.gz
      virnuc-rules init reads data/gut_R1.fq.gz data/gut_R2.fq.gz
    """
    from virnuc_rules.config.project import CHECKOUT, begin

    print(begin(folder, files or [], checkout or CHECKOUT))
