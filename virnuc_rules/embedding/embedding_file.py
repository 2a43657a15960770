"""The result files: the embeddings of a chunk, with hashes and metadata."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from virnuc_rules.config.model import Embedding
from virnuc_rules.embedding.tasks import SCHEMA
from virnuc_rules.errors import ResultError, one_line

_METADATA = "virnuc"  # a single key: safetensors writes several keys in random order


class Computation(BaseModel):
    """How embeddings were computed."""

    model_config = ConfigDict(frozen=True)

    precision: str  # of the matrix products
    device: str  # type: cpu, cuda

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}"


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


class ResultCard(BaseModel):
    """The metadata of a result file."""

    schema_version: int
    key: str
    ids: list[str]
    sha256: dict[str, str]  # of each matrix
    settings: Embedding
    notes: dict[str, int]
    computed: Computation


def write_result(path: Path, key: str, settings: Embedding, result: Embeddings) -> None:
    """Write a result file: both matrices, and key, ids, hashes and notes as metadata."""
    tensors = {"dnabert_s": result.dnabert_s.contiguous(), "esm2": result.esm2.contiguous()}
    card = ResultCard(
        schema_version=SCHEMA,
        key=key,
        ids=result.ids,
        sha256={name: _tensor_hash(tensor) for name, tensor in tensors.items()},
        settings=settings,
        notes=result.notes,
        computed=result.computed,
    )
    # Not `save_file`: it writes a file of another name first, which a kill would leave behind.
    path.write_bytes(save(tensors, metadata={_METADATA: card.model_dump_json()}))


def read_result(path: Path, key: str, ids: list[str]) -> Embeddings:
    """Read a result file and check that it is complete and belongs to the rows `ids`.

    Raises ResultError if it is missing, truncated, changed, or belongs to other rows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = ResultCard.model_validate_json((file.metadata() or {}).get(_METADATA, ""))
            tensors = {name: file.get_tensor(name) for name in ("dnabert_s", "esm2")}
    except FileNotFoundError:
        raise ResultError(f"{path}: no such result; run again to embed the chunk") from None
    except (SafetensorError, OSError, ValidationError) as error:
        raise ResultError(f"{path}: the result is damaged ({one_line(error)})") from None
    if (card.key, card.ids) != (key, ids):
        raise ResultError(f"{path}: the result belongs to other open frames")
    for name, tensor in tensors.items():
        if len(tensor) != len(ids) or card.sha256.get(name) != _tensor_hash(tensor):
            raise ResultError(f"{path}: the result is damaged (sha256 of {name} differs)")
    return Embeddings(ids, tensors["dnabert_s"], tensors["esm2"], card.computed, notes=card.notes)


def _tensor_hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().data).hexdigest()
