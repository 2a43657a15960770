"""The result files: embeddings or scores of a chunk, with hashes and metadata."""

import hashlib
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, Json
from safetensors.torch import save
from torch import Tensor

from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.tasks import FLOAT32, SCHEMA
from virnuc_rules.errors import MissingResult, ResultError, one_line
from virnuc_rules.files.environment import environment_named, open_regular, patient

_METADATA = "virnuc"  # a single key: safetensors writes several keys in random order
_BLOCK = 1 << 20  # bytes hashed at once
_KINDS = ({"dnabert_s", "esm2"}, {"scores"})  # names of the matrices of a result


class Computation(BaseModel):
    """How embeddings were computed."""

    model_config = ConfigDict(frozen=True)

    precision: str  # of the matrix products
    device: str  # type: cpu, cuda
    compiled: bool = False  # the layers of both networks, by torch.compile

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}" + ", compiled" * self.compiled


@dataclass(frozen=True, slots=True)
class Embeddings:
    """R embeddings with the ids of their open frames; float32 on the CPU."""

    ids: list[str]
    dnabert_s: Tensor  # [R, width of DNABERT-S], mean over all tokens with [CLS] and [SEP]
    esm2: Tensor  # [R, width of ESM-2], mean over the residues only
    computed: Computation
    tokens: int = 0  # of both models, without padding
    padding: int = 0  # padding tokens
    notes: dict[str, int] = field(default_factory=dict)  # counts of unusual events

    @property
    def matrices(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"dnabert_s": self.dnabert_s, "esm2": self.esm2}


@dataclass(frozen=True, slots=True)
class Scores:
    """R scores by the classifier of a bundle, with the ids of their open frames."""

    ids: list[str]
    scores: Tensor  # float32 [R, 2]: score1 (non-viral) and score2 (virus), on the CPU
    computed: Computation  # of the embeddings that were scored
    tokens: int = 0
    padding: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def matrices(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {"scores": self.scores}


Result = Embeddings | Scores


class ResultCard(BaseModel):
    """The metadata of a result file."""

    schema_version: int
    key: str
    ids: list[str] | None  # of the open frames; those of scores are only in the chunk: 8 bytes each
    ids_sha256: str
    sha256: dict[str, str]  # of each matrix
    settings: Embedding
    notes: dict[str, int]
    computed: Computation


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid")

    virnuc: Json[ResultCard]


class _Matrix(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: Literal["F32"]
    shape: list[int]
    data_offsets: list[int]


class _Header(BaseModel):
    """The header of a result, a file of safetensors: after its length in 8 bytes, JSON."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, _Matrix] = Field(init=False)
    metadata: _Metadata = Field(alias="__metadata__")

    @property
    def matrices(self) -> dict[str, _Matrix]:
        """Return the matrices by name, in the order of the file."""
        return dict(sorted(self.__pydantic_extra__.items()))


def write_result(path: Path, key: str, settings: Embedding, result: Result) -> None:
    """Write a result file: its matrices, and key, ids, hashes and notes as metadata."""
    tensors = {name: matrix.contiguous() for name, matrix in result.matrices.items()}
    card = ResultCard(
        schema_version=SCHEMA,
        key=key,
        ids=result.ids if isinstance(result, Embeddings) else None,
        ids_sha256=ids_hash(result.ids),
        sha256={name: _tensor_hash(tensor) for name, tensor in tensors.items()},
        settings=settings,
        notes=result.notes,
        computed=result.computed,
    )
    # Not `save_file`: it writes a file of another name first, which a kill would leave behind.
    path.write_bytes(save(tensors, metadata={_METADATA: card.model_dump_json()}))


@patient
def read_result(path: Path, key: str, ids: list[str]) -> Result:
    """Read a result file and check that it is complete and belongs to the R rows `ids`.

    All bytes are read and hashed; the matrices stay mapped from the file. Raises ResultError if it
    is missing, truncated, changed, or belongs to other rows, and EnvironmentProblem if it cannot be
    read.
    """
    try:
        with environment_named(path), open_regular(path) as file:
            header, start = _read_header(file)
            card = header.metadata.virnuc
            is_of = (card.key, card.ids_sha256) == (key, ids_hash(ids))
            if not is_of or card.ids not in (None, ids):
                raise ResultError(f"{path}: the result belongs to other open frames")
            end = _check_matrices(file, header, len(ids))
            # Not by the open file: Python keeps a file open as long as it is mapped.
            content = torch.from_file(str(path), size=start + end, dtype=torch.uint8)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingResult(f"{path}: no such result; run again to embed the chunk") from None
    except (OSError, ValueError) as error:  # pydantic's is a ValueError
        raise ResultError(f"{path}: the result is damaged ({one_line(error)})") from None
    matrices = {
        name: content[start + matrix.data_offsets[0] : start + matrix.data_offsets[1]]
        .view(torch.float32)
        .view(matrix.shape)
        for name, matrix in header.matrices.items()
    }
    if "scores" in matrices:
        return Scores(ids, matrices["scores"], card.computed, notes=card.notes)
    both = matrices["dnabert_s"], matrices["esm2"]
    return Embeddings(ids, *both, card.computed, notes=card.notes)


def _read_header(file: io.FileIO) -> tuple[_Header, int]:
    """Return the header, and the position of the first matrix. Raises ValueError, OSError."""
    length = int.from_bytes(file.read(8), "little")
    start, size = 8 + length, file.seek(0, io.SEEK_END)
    if start > size or start % FLOAT32:
        raise ValueError(f"its header has {length} bytes of {size}")
    file.seek(8)
    return _Header.model_validate_json(file.read(length)), start


def _check_matrices(file: io.FileIO, header: _Header, rows: int) -> int:
    """Read the rest of a file; return its length. Raises ValueError where it is not as written."""
    end, sha256 = 0, header.metadata.virnuc.sha256
    if set(header.matrices) not in _KINDS:
        raise ValueError(f"its matrices are {', '.join(header.matrices) or 'none'}")
    for name, matrix in header.matrices.items():
        first, end = end, end + math.prod(matrix.shape) * FLOAT32
        if len(matrix.shape) != 2 or matrix.shape[0] != rows or min(matrix.shape) < 1:
            raise ValueError(f"{name} is {matrix.shape}, not a matrix of {rows} rows")
        if matrix.data_offsets != [first, end] or sha256.get(name) != _file_hash(file, end - first):
            raise ValueError(f"sha256 of {name} differs")
    if file.read(1):
        raise ValueError("it has more bytes than its matrices")
    return end


def _file_hash(file: io.FileIO, size: int) -> str:
    """Hash the next bytes of a file, or fewer at its end."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    while size and (read := file.readinto(block[:size])):
        digest.update(block[:read])
        size -= read
    return digest.hexdigest()


def _tensor_hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().data).hexdigest()


def ids_hash(ids: list[str]) -> str:
    """Return the sha256 of ids as a JSON list."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()
