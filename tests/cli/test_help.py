"""What `--help` says."""

import re
import shlex
from collections.abc import Iterator

import pytest
import typer

from virnuc_rules.cli.main import app


def commands(group: object, *path: str) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_it_can_parse(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    begin, _, examples = command.help.partition("Example")  # type: ignore[attr-defined]
    lines = re.findall(r"^ *virnuc-rules (.+)", examples, re.MULTILINE)
    assert begin.strip() and lines
    for line in lines:
        words = shlex.split(line)
        assert tuple(words[: len(path)]) == path
        command.make_context(path[-1], words[len(path) :])  # type: ignore[attr-defined]


def test_keys_are_in_panels_and_defaults_are_shown(command: object) -> None:
    """Rich would take [default: ...] for markup, and drop it."""
    text = command("predict", "--help").stdout  # type: ignore[operator]
    panels = re.findall(r"^╭─ (.+?) ─", text, re.MULTILINE)
    assert panels == [
        "Options", "Settings: run", "Settings: embedding", "Settings: calling",
        "Settings: probability", "For Snakemake",
    ]  # fmt: skip
    words = " ".join(text.replace("│", "").split())
    assert "[default: 8192]" in words and "[default: config.yaml in the results, else" in words
