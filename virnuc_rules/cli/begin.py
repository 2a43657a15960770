"""The command with which a run begins: init."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from virnuc_rules.logs import logger, say, start_log

app = typer.Typer()


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="new folder for config, sheet and results")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="files of contigs or reads, each a sample; two mates are one"),
    ] = None,
) -> None:
    """Write a folder for a run: config, sample sheet, Snakefile, profiles.

    Example: virnuc-rules init lakes data/*.fa.gz
    """
    from virnuc_rules.config.new_project import new_project

    start_log(None)
    new_project(folder, files or [])
    sheet = folder / "config" / "samples.tsv"
    if not files:
        logger.warning("%s: no samples yet; add a line for each: name, tab, path", sheet)
    logger.info("look through %s and %s", folder / "config" / "config.yaml", sheet)
    say(f"cd {shlex.quote(str(folder))} && snakemake --profile profiles/local")
