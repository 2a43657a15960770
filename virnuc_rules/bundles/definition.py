"""Definitions of bundles: YAML files with the sources of the networks, shipped or a user's."""

import io
import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    field_serializer,
    field_validator,
)

from virnuc_rules.config.model import Config
from virnuc_rules.errors import ModelError, one_line, without_secrets
from virnuc_rules.files.environment import YAML, environment_problem, read_small
from virnuc_rules.models.card import BundleCard, is_bundle, read_card

_SHIPPED = Path(__file__).parent / "definitions"
_KINDS = ("hub", "url", "path")
NETWORKS = ("dnabert_s", "esm2", "classifier")

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # cannot leave its folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(_Strict):
    parameters: PositiveInt | None = None  # of VirNuc's network; compared with the checkpoint
    bytes: PositiveInt | None = None  # size of all files, only for display


class HubSource(_Source):
    """Files of one commit of a repository on the Hugging Face hub."""

    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # a commit: branches can move
    files: Annotated[dict[FileName, Sha256 | None], Field(min_length=1)]

    @property
    def origin(self) -> str:
        """The origin, for messages and the card."""
        return self.hub


class UrlSource(_Source):
    """One file of a web server."""

    url: str
    sha256: Sha256 | None

    @field_validator("url")
    @classmethod
    def _of_a_file(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            has_host = bool(parts.hostname) and parts.port != 0
        except ValueError:  # its text may have a part of a password
            raise ValueError("not an http or https address") from None
        is_plain = url.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not has_host or not is_plain:
            raise ValueError("not an http or https address")
        steps = parts.path.split("/")
        if not steps[-1] or ".." in steps:
            raise ValueError("not the address of a file")
        return url

    @field_serializer("url")
    def _shown(self, url: str) -> str:
        return without_secrets(url)

    @property
    def origin(self) -> str:
        """The origin, for messages and the card: without passwords and tokens."""
        return without_secrets(self.url)

    @property
    def files(self) -> dict[str, str | None]:
        """The file's name and expected sha256."""
        return {Path(urlsplit(self.url).path).name: self.sha256}


class PathSource(_Source):
    """A folder or file on this machine; in a definition, relative to the definition's file."""

    path: Path
    sha256: dict[FileName, Sha256] = {}  # of files in the folder, or of the file

    @property
    def origin(self) -> str:
        """The origin, for messages and the card."""
        return str(self.path)


def _kind(source: Any) -> str | None:
    """Return the kind of a source, so that errors are reported for that kind only."""
    keys = source if isinstance(source, dict) else getattr(source, "__dict__", {})
    return next((kind for kind in _KINDS if kind in keys), None)


Source = Annotated[
    Annotated[HubSource, Tag("hub")]
    | Annotated[UrlSource, Tag("url")]
    | Annotated[PathSource, Tag("path")],
    Discriminator(
        _kind,
        custom_error_type="no_source",
        custom_error_message="one of hub, url or path is needed",
    ),
]


class Definition(_Strict):
    """A bundle to make: the sources of its networks."""

    name: Annotated[str, Field(min_length=1)]
    description: str
    window: Annotated[int, Field(ge=3)]  # bases of the windows that the classifier is trained on
    dnabert_s: Source
    esm2: Source
    classifier: Source | None = None  # None: for embeddings, or to train a classifier

    @property
    def sources(self) -> dict[str, HubSource | UrlSource | PathSource]:
        """The sources by name of the network."""
        sources = {name: getattr(self, name) for name in NETWORKS}
        return {name: source for name, source in sources.items() if source is not None}

    def unpinned(self) -> list[tuple[str, str]]:
        """Return network and name of each download without a sha256."""
        return [
            (network, name)
            for network, source in self.sources.items()
            if not isinstance(source, PathSource)
            for name, sha256 in source.files.items()
            if sha256 is None
        ]

    @property
    def bytes(self) -> int:
        """The size of the download, as far as it is known."""
        return sum(source.bytes or 0 for source in self.sources.values())


def shipped_definitions() -> list[Definition]:
    """Return the definitions that come with VirNuc, by name."""
    return [read_definition(path) for path in sorted(_SHIPPED.glob("*.yaml"))]


def find_definition(text: str) -> Definition:
    """Find a shipped definition by name, or read a YAML file. Raises ModelError."""
    if os.sep in text or text.endswith((".yaml", ".yml")):
        return read_definition(Path(text))
    shipped = {definition.name: definition for definition in shipped_definitions()}
    if text not in shipped:
        raise ModelError(f"no definition {text!r}; give one of {', '.join(shipped)}, or a .yaml")
    return shipped[text]


def with_window(config: Config) -> Config:
    """Set `window` to that of the bundle, or of the definition from which it will be made.

    Raises ModelError if both are missing, or if the config has another `window`.
    """
    bundle, window = config.run.bundle, config.chunking.window
    if config.workflow.bundle_definition and not is_bundle(bundle):
        model: Definition | BundleCard = find_definition(config.workflow.bundle_definition)
    else:
        model = read_card(bundle)
    if window not in (0, model.window):
        raise ModelError(
            f"window: {window}, but {model.name} is for windows of {model.window} bases; leave "
            "`window` out, or take another bundle"
        )
    return config.replace(window=model.window)


def read_definition(path: Path) -> Definition:
    """Read a definition. Raises ModelError with the file, the key and the problem."""
    try:
        # Of a stream: errors of a text would show a part of it.
        content = yaml.safe_load(io.BytesIO(read_small(path, YAML)))
        definition = Definition.model_validate(content)
    except OSError as error:
        missing = ModelError(f"{path}: cannot be read ({error.strerror})")
        raise environment_problem(error, path) or missing from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the file"
        key = re.sub(f"^({'|'.join(NETWORKS)})\\.({'|'.join(_KINDS)})", r"\1", key)  # no tags
        raise ModelError(without_secrets(f"{path}: {key}: {problem['msg']}")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not YAML ({without_secrets(one_line(error))[:200]})") from None
    local = {
        name: source.model_copy(update={"path": path.parent / source.path})
        for name, source in definition.sources.items()
        if isinstance(source, PathSource)
    }
    return definition.model_copy(update=local)


def customized(
    base: Definition | None, *, name: str, window: int | None, paths: dict[str, Path | None]
) -> Definition:
    """Replace sources by local files; without `base`, all but the classifier must be given.

    The sha256 and parameters of a replaced source are not checked for the local file.
    """
    given = {key: path for key, path in paths.items() if path is not None}
    changes: dict[str, Any] = {key: PathSource(path=path) for key, path in given.items()}
    if window is not None:
        changes["window"] = window
    if base is None:
        if missing := {"dnabert_s", "esm2", "window"} - set(changes):
            options = " and ".join(f"--{key.replace('_', '-')}" for key in sorted(missing))
            raise ModelError(
                f"give a definition (`virnuc-rules models list` shows some), or also {options}"
            )
        files = ", ".join(path.name for path in given.values())
        return Definition(name=name, description=f"Converted from {files}.", **changes)
    if changes:
        listed = ", ".join(f"{key}={paths.get(key) or window}" for key in changes)
        changes["description"] = f"{base.description} Changed: {listed}."
    return base.model_copy(update={**changes, "name": name})
