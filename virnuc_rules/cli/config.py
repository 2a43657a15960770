"""The commands of `virnuc-rules config`: files that are written from the settings."""

from pathlib import Path
from typing import Annotated

import typer

from virnuc_rules.config.document import write_documents
from virnuc_rules.logs import logger, start_log

app = typer.Typer(no_args_is_help=True, help="The settings.")


@app.callback()
def _group() -> None:
    """The settings."""  # with a single command, typer needs this to keep the group


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(help="folder with a README.md")] = Path("config"),
) -> None:
    """Write config.yaml, the table of keys in README.md, and schema.json, for developers.

    Example: virnuc-rules config write
    """
    start_log(None)
    logger.info("wrote %s", ", ".join(map(str, write_documents(folder))))
