"""The help of commands: each has an example that works, and of `make`, each target a line."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from harness import REPO
from rich.text import Text

from virnuc_rules.cli.main import app
from virnuc_rules.cli.settings import OF_JOBS


def commands(group: Any, *before: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_has_an_example_with_its_options(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    example = re.search(r"^Example: virnuc-rules (.+)$", command.help or "", re.MULTILINE)
    assert example
    given = shlex.split(example[1])
    assert tuple(given[: len(words)]) == words
    command.make_context(words[-1], given[len(words) :])  # raises for what it does not know


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_options_of_jobs_are_apart(words: tuple[str, ...]) -> None:
    for option in COMMANDS[words].params:
        if option.name in ("stamp", "log", "every_sample", "need_embeddings"):
            assert option.rich_help_panel == OF_JOBS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_text_in_brackets_is_lost(words: tuple[str, ...]) -> None:
    """Rich takes it for the name of a style where it is not escaped."""
    for option in COMMANDS[words].params:
        text = option.help or ""
        assert Text.from_markup(text).plain == text.replace("\\[", "[")


def test_make_lists_its_targets() -> None:
    command = ["make", "--no-print-directory"]  # which a make that runs the tests asks for
    shown = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    listed = [line.split()[1] for line in shown.splitlines()]
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (REPO / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())
    assert all(len(line.split()) > 2 for line in shown.splitlines())
