"""Making a model bundle from its definition: fetch, convert one network at a time, describe."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from virnuc_rules.bundles.checkpoints import read_classifier, read_dnabert_s, read_esm2
from virnuc_rules.bundles.definition import Definition, HubSource
from virnuc_rules.bundles.fetch import Fetched, fetch
from virnuc_rules.errors import ModelError
from virnuc_rules.files.atomic import staged_folder
from virnuc_rules.models import card
from virnuc_rules.models.bundle import write_card
from virnuc_rules.models.dnabert import open_tokenizer

logger = logging.getLogger("virnuc_rules")
# What is stored beside the parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "inv_freq")
_Reader = Callable[[Path], tuple[BaseModel, dict[str, Tensor]]]
_READERS: dict[str, _Reader] = {
    "dnabert_s": read_dnabert_s,
    "esm2": read_esm2,
    "classifier": read_classifier,
}
_FILES = {"dnabert_s": card.DNABERT_S, "esm2": card.ESM2, "classifier": card.CLASSIFIER}


def prepare_bundle(
    definition: Definition, out: Path, *, cache: Path | None = None, trust_unpinned: bool = False
) -> card.BundleCard:
    """Make the bundle folder `out`, which must not exist yet, or be empty.

    Downloads are kept in `cache`, by default `.downloads` beside `out`. Weights keep the precision
    of their files. A file without a sha256 is downloaded only with `trust_unpinned`. Raises
    ModelError for files that are not to be had, damaged, unsafe, incomplete, or do not fit each
    other; then there is no `out`, and what was downloaded is in the cache.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out}: is there already; give a new folder")
    unpinned = definition.unpinned()
    if unpinned and not trust_unpinned:
        files = ", ".join(f"{file} ({definition.sources[name].origin})" for name, file in unpinned)
        raise ModelError(
            f"{definition.name}: no sha256 is known of {files}; write it into a definition of your "
            "own, or take what comes with --trust-unpinned"
        )
    cache = cache or out.parent / ".downloads"
    # The classifier is small: what is wrong with it shows before hours of downloading.
    fetched = {name: fetch(source, cache) for name, source in reversed(definition.sources.items())}
    for name, file in unpinned:
        logger.info("%s: sha256 %s, unknown until now", file, fetched[name].sha256[file])
    try:
        with staged_folder(out) as stage:
            made = _convert(definition, fetched, stage)
            stage.rename(out)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{out}: cannot be written ({reason}); nothing of it was kept") from None
    return made


def _convert(definition: Definition, fetched: dict[str, Fetched], stage: Path) -> card.BundleCard:
    """Write all files of the bundle into `stage`."""
    shapes: dict[str, Any] = {"classifier": None}
    origins = {}
    for name, source in definition.sources.items():
        files = fetched[name]
        target = stage / _FILES[name]
        shapes[name], parameters = _convert_network(_READERS[name], files.path, target)
        if source.parameters not in (None, parameters):
            raise ModelError(
                f"{files.path}: {parameters:,} parameters, but definition {definition.name} has "
                f"{source.parameters:,}; take the right checkpoint, or mend the definition"
            )
        revision = source.revision if isinstance(source, HubSource) else None
        origins[name] = card.Origin(
            origin=source.origin, revision=revision, sha256=files.sha256, parameters=parameters
        )
    _copy_tokenizer(fetched["dnabert_s"].path / card.TOKENIZER, shapes["dnabert_s"], stage)
    try:
        return write_card(
            stage,
            name=definition.name,
            description=definition.description,
            demo=False,
            window=definition.window,
            source=origins,
            **shapes,
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        path = fetched["classifier"].path
        raise ModelError(f"{path}: does not fit ({reason}); take one for them") from None


def _convert_network(read: _Reader, path: Path, target: Path) -> tuple[BaseModel, int]:
    """Write a network's tensors; return its shape and the number of its parameters.

    The tensors are mapped from the file that was read, and are gone when this returns.
    """
    shape, tensors = read(path)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target)
    target.chmod(0o644)  # safetensors makes it 0600, but a bundle is for the group
    parameters = (t.numel() for key, t in tensors.items() if not key.endswith(_BUFFERS))
    return shape, sum(parameters)


def _copy_tokenizer(path: Path, network: card.DnabertConfig, stage: Path) -> None:
    vocabulary = open_tokenizer(path).get_vocab_size()
    if vocabulary > network.vocab_size:
        raise ModelError(
            f"{path}: {vocabulary} tokens, but the network knows {network.vocab_size}; "
            "take the tokenizer of this checkpoint"
        )
    shutil.copyfile(path, stage / card.TOKENIZER)
