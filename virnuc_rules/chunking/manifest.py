"""The manifest of a chunk folder. Imports no pyarrow: a job without work reads only this."""

import hashlib

from pydantic import BaseModel, ConfigDict, ValidationError

from virnuc_rules.config.model import Chunking
from virnuc_rules.config.run_folder import ChunkFolder
from virnuc_rules.errors import ChunkError, UnusableSample
from virnuc_rules.files.environment import environment_named, patient, read_regular
from virnuc_rules.files.made import read_made


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChunkEntry(_Record):
    """One chunk file: its name, the sha256 of its content, and its size."""

    file: str
    sha256: str
    open_frames: int
    nucleotides: int
    residues: int


class Manifest(_Record):
    """The content of a chunk folder. Written last of its files."""

    version: str
    sources_sha256: list[str]  # of the input files as they are on disk; their names may change
    chunking: Chunking
    contigs: int
    bases: int
    windows: int
    open_frames: int
    reasons: dict[str, int]  # windows without an open frame, by reason
    chunks: list[ChunkEntry]


@patient
def read_manifest(folder: ChunkFolder) -> Manifest:
    """Read the manifest.

    Raises UnusableSample where `chunk` could not use the files of the sample, and ChunkError where
    the manifest is missing or not one; EnvironmentProblem where it cannot be read.
    """
    path, made = folder.manifest, read_made(folder.made)
    if made and made.problem:
        raise UnusableSample(made.problem)
    try:
        with environment_named(path):
            content = read_regular(path)
        known = made.files.get(path.name) if made else None
        if known and known.sha256 and hashlib.sha256(content).hexdigest() != known.sha256:
            raise ChunkError(
                f"{path}: the content has changed since it was written; delete the sample's chunk "
                "folder and run again"
            )
        return Manifest.model_validate_json(content)
    except OSError as error:
        reason = error.strerror or error
        raise ChunkError(f"{path}: cannot be read ({reason}); chunk the sample first") from None
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ChunkError(f"{path}: not a manifest ({problem}); delete it and run again") from None
