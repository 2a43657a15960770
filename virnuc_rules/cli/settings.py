"""What verbs share: config keys as options, and the options that are no keys."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from virnuc_rules.config.model import Config, check_config
from virnuc_rules.logs import start_log

# What the keys of results depend on, and what a worker needs beside it.
RESULT_KEYS = ("results", "bundle", "precision", "batch_tokens")
WORKER_KEYS = (*RESULT_KEYS, "device", "threads", "cache_clear_interval", "lease_seconds",
                "load_timeout", "on_failed_chunks")  # fmt: skip
CALL_KEYS = ("min_score", "min_viral_fraction", "min_called_windows")

Log = Annotated[Path | None, typer.Option(help="also log to this file, with tracebacks")]
Stamp = Annotated[Path | None, typer.Option(help="file to write when the work is done")]


def with_settings(*keys: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb config keys as options; it gets them checked, as one argument `config`.

    Type, default and help text of an option are those of the key.
    """

    def option(key: str) -> Parameter:
        field = Config.model_fields[key]
        kind = field.annotation if isinstance(field.annotation, type) else str  # a Literal is text
        annotation = Annotated[kind, typer.Option(help=field.description)]  # type: ignore[valid-type]
        return Parameter(key, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            log = start_log(values.get("log"))
            if "log" in values:
                values["log"] = log
            config = check_config({key: values.pop(key) for key in keys})
            verb(config=config, **values)

        own = [p for p in signature(verb).parameters.values() if p.name != "config"]
        parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own] + list(map(option, keys))
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate
