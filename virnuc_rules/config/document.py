"""Files written from the settings: the config file, the table of keys, the JSON schema."""

import json
from pathlib import Path
from typing import Any

from virnuc_rules.config.model import SECTIONS
from virnuc_rules.errors import VirnucError
from virnuc_rules.files.atomic import replacing

_HEADING = "## Keys\n\n"  # of the table in README.md, which ends with it


def write_documents(folder: Path) -> list[Path]:
    """Write `config.yaml`, the end of `README.md`, and `schema.json` in a folder; return the paths.

    Raises VirnucError where README.md has no heading for the table.
    """
    readme = folder / "README.md"
    before, heading, _ = readme.read_text(encoding="utf-8").partition(_HEADING)
    if not heading:
        raise VirnucError(f"{readme}: no line {_HEADING.strip()!r}, below which the table goes")
    texts = {
        folder / "config.yaml": yaml_text(),
        readme: before + heading + key_table(),
        folder / "schema.json": json.dumps(json_schema(), indent=1) + "\n",
    }
    for path, text in texts.items():
        with replacing(path) as handle:
            handle.write(text)
    return list(texts)


def yaml_text() -> str:
    """Return the config file: every key with its description and its default."""
    lines = [
        "# yaml-language-server: $schema=schema.json",  # editors check and explain the keys
        "# Settings of VirNuc. Every key may be left out; these are the defaults.",
        "",
    ]
    for key, schema in _properties().items():
        value = _default(schema) or '""'
        lines += [f"# {schema['description']}", f"{key}: {value}", ""]
    return "\n".join(lines).rstrip() + "\n"


def key_table() -> str:
    """Return the keys as a Markdown table: key, default, values, meaning."""
    lines = ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
    for key, schema in _properties().items():
        default = _default(schema)
        cells = (f"`{key}`", f"`{default}`" if default else "empty", _values(schema))
        lines.append(f"| {' | '.join(cells)} | {schema['description']} |")
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "VirNuc's config file",
        "type": "object",
        "additionalProperties": False,
        "properties": _properties(),
    }


def _properties() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each key, with its description on one line and its default."""
    properties: dict[str, dict[str, Any]] = {}
    for section in SECTIONS.values():
        for key, schema in section.model_json_schema()["properties"].items():
            default = section.model_fields[key].default
            del schema["title"]
            schema["description"] = " ".join(schema["description"].split())
            schema["default"] = str(default) if isinstance(default, Path) else default
            properties[key] = schema
    return properties


def _default(schema: dict[str, Any]) -> str:
    value = schema["default"]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(schema: dict[str, Any]) -> str:
    """Return the permitted values of a key as text."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if isinstance(schema["type"], list):
        return " or ".join(schema["type"]).replace("string", "text")
    kind = {"string": "text", "boolean": "`true`, `false`"}.get(schema["type"], schema["type"])
    if schema.get("format") == "path":
        return "path"
    if "maximum" in schema and "minimum" in schema:
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    bounds["maximum"] = "at most"
    return ", ".join([kind, *(f"{bounds[k]} {schema[k]}" for k in bounds if k in schema)])
