"""The command line: every rule of the workflow is one call of one of these commands."""

import os
import shlex
import sys
import traceback
from typing import Annotated

import typer

from virnuc_rules import __version__
from virnuc_rules.cli import begin, inspection, models, run, training
from virnuc_rules.cli import config as config_commands
from virnuc_rules.cli.room import look_for_room
from virnuc_rules.cli.settings import SECTIONS_OF
from virnuc_rules.config.model import Config
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.logs import logger, say, start_log

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
# Each kind of command has a file with an app: a new command is a function with `@app.command()` in
# one of them, a new kind is a new file and a line here, in the order of the help. Slow imports
# (torch, pyarrow) are inside the commands, so that `--help` is fast.
app.add_typer(begin.app)
app.add_typer(run.app)
app.add_typer(inspection.app)
app.add_typer(training.app)
app.add_typer(models.app, name="models")
app.add_typer(config_commands.app, name="config")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        say(f"virnuc-rules {__version__}")
        raise typer.Exit


def command_options(config: Config, command: str) -> str:
    """Return the sections of a command as its options, quoted for a shell line."""
    words: list[str] = []
    for kind in SECTIONS_OF[command]:
        for key, value in config.part(kind):
            name = key.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words.append(f"--{name}={value}")
    return shlex.join(words)


def main() -> None:
    """Run the command line; an error that a user can fix is one line and its exit code."""
    # Read when CUDA starts: without it, chunks of different lengths fragment the memory.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # Read when torch is imported: threads must not spin while they wait on a shared node.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Read when oneDNN and torch's layer over it start. By default they cache 1,024 matrix products
    # by their number of rows, 0.4 MB each: the memory of a worker would grow for days.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    # Read when pyarrow is first imported. Its own pool releases and reallocates pages between
    # blocks: 10 % of the run time of `chunk`, and 40 MB more (benchmarks/chunk.py).
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    look_for_room()
    start_log(None)  # until the command starts its own
    sys.excepthook = lambda *error: say("".join(traceback.format_exception(*error)), sys.stderr)
    try:
        app()
    except BaseException as error:  # a panic in Rust is not an Exception
        if isinstance(error, VirnucError):
            known: VirnucError | None = error
        else:  # a full disk under a log, no memory to import a module
            known = environment_problem(error)
        if known is None and isinstance(error, OSError):
            known = VirnucError(f"{error.filename or 'files'}: {error.strerror or error}")
        if known is None:
            raise
        logger.error("error: %s", known)
        sys.exit(known.exit_code)
