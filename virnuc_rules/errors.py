"""The errors that a user can cause or fix: one line, no traceback."""

import re

_ADDRESS = re.compile(r"(https?:/+)(?:[^\s/?#]*@)?([^\s?#]*)\S*", re.IGNORECASE)
_LONGEST = 4000  # characters of a message


def printable(text: str, keep: str = "") -> str:
    """Write what a terminal might obey, or not show, as JSON does: `\\u001b`; not those in `keep`.

    Every text on its way to a terminal or a log passes here: errors, `logs`, `terminal`.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


class VirnucError(Exception):
    """Something the user can fix. The message names the file, the record and the fix."""

    exit_code = 1

    def __str__(self) -> str:
        text = printable(super().__str__()[: _LONGEST + 1])
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class EnvironmentProblem(VirnucError):
    """Not the data: a file that cannot be opened, no memory, no space. It may pass by itself.

    Nothing is deleted and no data blamed; the message has the cause and the path that is meant.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class MadeMeanwhile(EnvironmentProblem):
    """Another process makes the same files at the same time, and was faster."""


class InputError(VirnucError):
    """A sequence file that cannot be used: its content is wrong, or there is no such file."""


class UnreadableInput(InputError):
    """A sequence file that could not be read now: permission, disk, network. Worth another try."""

    exit_code = EnvironmentProblem.exit_code


class ChunkError(VirnucError):
    """A chunk file or manifest that is missing, damaged or inconsistent."""


class UnusableSample(ChunkError):
    """A sample whose files could not be chunked; the message is what `chunk` found."""


class ResultError(VirnucError):
    """An embedding file that is missing, damaged, or belongs to other open frames."""


class MissingResult(ResultError):
    """There is no such embedding file."""


class ModelError(VirnucError):
    """A model bundle that is missing, damaged or does not fit."""


class UnreachableError(ModelError):
    """A server that this machine cannot reach; another machine may have a network."""


def one_line(error: object) -> str:
    """Return the text of an error of another library without its line breaks."""
    return " ".join(str(error).split())


def without_secrets(text: str) -> str:
    """Return a text with only host and path of its web addresses.

    User names, passwords and tokens must not get into logs, cards and pages; nobody can tell which
    parts of a query are secret.
    """
    return _ADDRESS.sub(r"\1\2", text)
