"""What a bundle is made from: definitions as YAML files, some shipped, others a user's own."""

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
    field_validator,
)

from virnuc_rules.config.model import Config
from virnuc_rules.errors import ModelError
from virnuc_rules.models.card import BundleCard, is_bundle, read_card

_SHIPPED = Path(__file__).parent / "definitions"
_KINDS = ("hub", "url", "path")
NETWORKS = ("dnabert_s", "esm2", "classifier")

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # no way out of a folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(_Strict):
    parameters: PositiveInt | None = None  # that our network uses; compared with what is read
    bytes: PositiveInt | None = None  # size of the download, for people to read


class HubSource(_Source):
    """Files of one commit of a repository on the Hugging Face hub."""

    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # a commit: names can be moved
    files: Annotated[dict[FileName, Sha256 | None], Field(min_length=1)]

    @property
    def origin(self) -> str:
        """Say where it comes from."""
        return self.hub


class UrlSource(_Source):
    """One file of a web server."""

    url: str
    sha256: Sha256 | None

    @field_validator("url")
    @classmethod
    def _of_a_file(cls, url: str) -> str:
        parts = urlsplit(url)
        steps = parts.path.split("/")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https address")
        if not steps[-1] or ".." in steps:
            raise ValueError("not the address of a file")
        return url

    @property
    def origin(self) -> str:
        """Say where it comes from."""
        return self.url

    @property
    def files(self) -> dict[str, str | None]:
        """Return the file's name with the sha256 that it must have."""
        return {Path(urlsplit(self.url).path).name: self.sha256}


class PathSource(_Source):
    """A folder or file on this machine; in a definition, relative to the definition's file."""

    path: Path
    sha256: dict[FileName, Sha256] = {}  # of files in the folder, or of the file

    @property
    def origin(self) -> str:
        """Say where it comes from."""
        return str(self.path)


def _kind(source: Any) -> str | None:
    """Tell which of the sources is meant, so that mistakes are reported of that one only."""
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
    """A bundle to be made: what its networks are converted from."""

    name: Annotated[str, Field(min_length=1)]
    description: str
    window: Annotated[int, Field(ge=3)]  # bases of the windows that the classifier is trained on
    dnabert_s: Source
    esm2: Source
    classifier: Source | None = None  # None: for embeddings, or for classifiers to come

    @property
    def sources(self) -> dict[str, HubSource | UrlSource | PathSource]:
        """Return the sources by the network's name."""
        sources = {name: getattr(self, name) for name in NETWORKS}
        return {name: source for name, source in sources.items() if source is not None}

    def unpinned(self) -> list[tuple[str, str]]:
        """Return the files that would be downloaded without a sha256: network, name."""
        return [
            (network, name)
            for network, source in self.sources.items()
            if not isinstance(source, PathSource)
            for name, sha256 in source.files.items()
            if sha256 is None
        ]

    @property
    def bytes(self) -> int:
        """Return the size of the download, as far as it is known."""
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
    """Fill in `window`: that of the bundle, or of the definition that it is to be made from.

    Raises ModelError where there is neither, and where the config says another one.
    """
    run, wanted = config.run, config.chunking.window
    if config.workflow.bundle_definition and not is_bundle(run.bundle):
        made: Definition | BundleCard = find_definition(config.workflow.bundle_definition)
    else:
        made = read_card(run.bundle)
    if wanted not in (0, made.window):
        raise ModelError(
            f"window: {wanted}, but {made.name} is for windows of {made.window} bases; leave "
            "`window` out, or take another bundle"
        )
    return config.replace(window=made.window)


def read_definition(path: Path) -> Definition:
    """Read a definition. Raises ModelError that names the file, the key and the problem."""
    try:
        definition = Definition.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the file"
        key = re.sub(f"^({'|'.join(NETWORKS)})\\.({'|'.join(_KINDS)})", r"\1", key)  # no tags
        raise ModelError(f"{path}: {key}: {problem['msg']}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: not YAML ({reason[:200]})") from None
    local = {
        name: source.model_copy(update={"path": path.parent / source.path})
        for name, source in definition.sources.items()
        if isinstance(source, PathSource)
    }
    return definition.model_copy(update=local)


def customized(
    base: Definition | None, *, name: str, window: int | None, paths: dict[str, Path | None]
) -> Definition:
    """Put local files in the place of sources; without `base` they must be all but a classifier.

    What a replaced source was to be (sha256, parameters) is not asked of the file in its place.
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
