"""Which settings a command has: those of a file, options on top; and what a run writes for others.

Without `--configfile` a command takes what the last run wrote below `results`, else the
`config/config.yaml` of the working folder, else the defaults.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from virnuc_rules.config.model import Config, check_config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing

_OF_THE_FOLDER = Path("config/config.yaml")


def load_config(configfile: Path | None, options: Mapping[str, Any]) -> tuple[Config, str]:
    """Return the settings and where they are from, for people; `options` (flat keys) win.

    Raises VirnucError for a file that cannot be read or has a wrong key, and for wrong options.
    """
    settings, source = _settings(configfile, options)
    check_config(settings, source)
    return check_config({**settings, **options}), source


def _settings(configfile: Path | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if configfile is not None:
        return _read(configfile), str(configfile)
    own = _read(_OF_THE_FOLDER) if _OF_THE_FOLDER.is_file() else None
    results = options.get("results") or (own or {}).get("results") or Config().run.results
    written = RunFolder(Path(results).expanduser()).config
    if written.is_file():
        return _read(written), str(written)
    return ({}, "defaults") if own is None else (own, str(_OF_THE_FOLDER))


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VirnucError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VirnucError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict | None):
        raise VirnucError(f"{path}: no settings in it; write lines `key: value`")
    return settings or {}


def write_run_config(config: Config) -> None:
    """Write the settings of a run below its `results`; paths as seen from any folder."""
    flat = {
        key: str(value.absolute()) if isinstance(value, Path) else value
        for key, value in config.flat().items()
    }
    with replacing(RunFolder(config.run.results).config) as handle:
        handle.write("# The settings of the last run here, written when it started.\n")
        yaml.safe_dump(flat, handle, sort_keys=False, allow_unicode=True)
