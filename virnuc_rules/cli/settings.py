"""Options of several commands: the keys of their sections, and options that are not keys."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from virnuc_rules.config.load import load_config
from virnuc_rules.config.model import SECTIONS, Chunking, Config, Group, Section, check_config
from virnuc_rules.logs import logger, start_log

OF_JOBS, _OF_CONFIG = "Options for jobs of a workflow", "Settings: the keys of the config"
Log = Annotated[
    Path | None,
    typer.Option(help="also log to this file, with tracebacks", rich_help_panel=OF_JOBS),
]
Stamp = Annotated[
    Path | None,
    typer.Option(help="file to write when all work is done", rich_help_panel=OF_JOBS),
]
_CONFIGFILE = Annotated[
    Path | None,
    typer.Option(
        help="YAML file of settings; options win \\[default: config.yaml in the results, else "
        "config/config.yaml; about the next run in reverse]"
    ),
]
_KEYWORD = Parameter.KEYWORD_ONLY
SECTIONS_OF: dict[str, list[type[Section]]] = {}  # by command


def with_settings(
    command: Callable[..., None], *, next_run: str | bool = False
) -> Callable[..., None]:
    """Add the keys of a command's sections, and `--configfile`, to its options.

    The command is called with a checked section, or group of sections such as `Config`, for each
    parameter with this annotation. Type and help text of an option are those of the key.
    `next_run`: the command asks about the next run, always or with the flag of this name; then
    `config/config.yaml` comes before the settings of the last run.
    """
    parameters = signature(command).parameters
    kinds = {name: p.annotation for name, p in parameters.items() if _sections(p.annotation)}
    needed = {section for kind in kinds.values() for section in _sections(kind)}
    sections = [section for section in SECTIONS.values() if section in needed]
    keys = [key for kind in sections for key in kind.model_fields]
    SECTIONS_OF[command.__name__] = sections

    def run(configfile: Path | None, **values: Any) -> None:
        log = start_log(values.get("log"))
        if "log" in values:
            values["log"] = log
        given = {key: values.pop(key) for key in keys}
        asks_next = values[next_run] if isinstance(next_run, str) else next_run
        options = {key: value for key, value in given.items() if value is not None}
        config = _load(configfile, options, sections, asks_next)
        if Chunking in kinds.values() and not config.chunking.window:
            from virnuc_rules.bundles.definition import with_window

            config = with_window(config)
        for name, kind in kinds.items():
            values[name] = config.part(kind)
        command(**values)

    own = [p.replace(kind=_KEYWORD) for name, p in parameters.items() if name not in kinds]
    of_keys = [_option(key, kind) for kind in sections for key in kind.model_fields]
    file = Parameter("configfile", _KEYWORD, default=None, annotation=_CONFIGFILE)
    shown = [*own, *of_keys, file]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    run.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    return run


def _sections(annotation: Any) -> list[type[Section]]:
    """Return the sections of a parameter; none where its annotation is no section or group."""
    if not isinstance(annotation, type):
        return []
    if issubclass(annotation, Group):
        return [SECTIONS[name] for name in annotation.model_fields]
    return [annotation] if issubclass(annotation, Section) else []


def _option(key: str, kind: type[Section]) -> Parameter:
    field = kind.model_fields[key]
    type_ = field.annotation if isinstance(field.annotation, type) else str  # a Literal is text
    # Escaped: a help text is markup, in which [...] is a style.
    help_ = f"{field.description} \\[default: {field.default}]"
    option = typer.Option(help=help_, show_default=False, rich_help_panel=_OF_CONFIG)
    annotation = Annotated[type_ | None, option]  # type: ignore[valid-type]
    return Parameter(key, _KEYWORD, default=None, annotation=annotation)


def _load(
    configfile: Path | None, options: dict[str, Any], sections: list[type[Section]], next_run: bool
) -> Config:
    """Load the settings; log their source unless all keys are options."""
    if configfile is None and all(key in options for kind in sections for key in kind.model_fields):
        return check_config(options)  # as in jobs: no file matters
    config, source = load_config(configfile, options, next_run=next_run)
    logger.info("settings: %s", source)
    return config
