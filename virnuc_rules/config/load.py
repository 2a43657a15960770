"""Load the settings of a command from a file and its options; write the settings of a run.

Without `--configfile` a command reads the settings that the last run wrote below `results`, else
`config/config.yaml` in the working folder, else it has the defaults. A command that asks about the
next run reads `config/config.yaml` first, as that run will, unless it names `results`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from virnuc_rules.config.model import Config, check_config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing
from virnuc_rules.files.environment import YAML, environment_problem, read_small

_DEFAULT_FILE = Path("config/config.yaml")


def load_config(
    configfile: Path | None, options: Mapping[str, Any], *, next_run: bool = False
) -> tuple[Config, str]:
    """Return the settings, and their source for messages; `options` (flat keys) win.

    Raises VirnucError for a file that cannot be read or has a wrong key, and for wrong options.
    """
    settings, source = _settings(configfile, options, next_run)
    check_config(settings, source)
    return check_config({**settings, **options}), source


def _settings(
    configfile: Path | None, options: Mapping[str, Any], next_run: bool
) -> tuple[dict[str, Any], str]:
    if configfile is not None:
        return _read(configfile), str(configfile)
    if "results" in options and (of_last_run := _of_last_run(check_config(options))):
        return of_last_run
    settings, source = {}, "defaults"
    if _DEFAULT_FILE.is_file():
        settings, source = _read(_DEFAULT_FILE), str(_DEFAULT_FILE)
        if next_run and "results" not in options:
            return settings, source
    own = check_config(settings, source)
    return ("results" not in options and _of_last_run(own)) or (settings, source)


def _of_last_run(config: Config) -> tuple[dict[str, Any], str] | None:
    path = RunFolder(config.run.results).config
    # The folder may have been moved or copied since.
    settings = {**_read(path), "results": config.run.results} if path.is_file() else None
    return (settings, str(path)) if settings else None


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(read_small(path, YAML).decode())
    except OSError as error:
        problem = VirnucError(f"{path}: cannot be read ({error.strerror})")
        raise environment_problem(error, path) or problem from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VirnucError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict | None):
        raise VirnucError(f"{path}: no settings in it; write lines `key: value`")
    return settings or {}


def write_run_config(config: Config) -> None:
    """Write the settings of a run below its `results`, with absolute paths, where they differ."""
    flat = {
        key: str(value.absolute()) if isinstance(value, Path) else value
        for key, value in config.flat().items()
    }
    text = "# The settings of the last run here, written when it started.\n"
    text += yaml.safe_dump(flat, sort_keys=False, allow_unicode=True)
    path = RunFolder(config.run.results).config
    if not path.is_file() or path.read_bytes() != text.encode():
        with replacing(path) as handle:
            handle.write(text)
