"""Making a model bundle from its definition: fetch, convert each network, write the card."""

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
from virnuc_rules.bundles.fetch import Fetched, fetch, needed
from virnuc_rules.errors import ModelError, UnreachableError, one_line
from virnuc_rules.files.atomic import put_folder, staged_folder, sync_files
from virnuc_rules.files.environment import environment_problem
from virnuc_rules.models import card
from virnuc_rules.models.bundle import Bundle, write_card
from virnuc_rules.models.dnabert import open_tokenizer

logger = logging.getLogger("virnuc_rules")
# Keys of tensors that are no parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "inv_freq")
_Reader = Callable[[Path], tuple[BaseModel, dict[str, Tensor]]]
_NETWORKS: dict[str, tuple[_Reader, str]] = {
    "dnabert_s": (read_dnabert_s, card.DNABERT_S),
    "esm2": (read_esm2, card.ESM2),
    "classifier": (read_classifier, card.CLASSIFIER),
}


def prepare_bundle(
    definition: Definition, out: Path, *, cache: Path | None = None, trust_unpinned: bool = False
) -> card.BundleCard:
    """Make the bundle folder `out`, which must not exist yet, or be empty.

    Downloads are kept in `cache`, by default `.downloads` beside `out`. Weights keep the precision
    of their files. A file without a sha256 is downloaded only with `trust_unpinned`. Raises
    ModelError for files that are missing, damaged, unsafe, incomplete, or do not fit each other;
    then `out` is not made, and the downloads stay in the cache.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out}: exists already; give a new folder")
    unpinned = definition.unpinned()
    if unpinned and not trust_unpinned:
        files = ", ".join(f"{file} ({definition.sources[name].origin})" for name, file in unpinned)
        raise ModelError(
            f"{definition.name}: no sha256 is known of {files}; write it into a definition of your "
            "own, or accept any file with --trust-unpinned"
        )
    cache = cache or out.parent / ".downloads"
    fetched = fetch_all(definition, cache)
    for name, file in unpinned:
        logger.info("%s: sha256 %s, unknown until now", file, fetched[name].sha256[file])
    try:
        with staged_folder(out) as stage:
            bundle = _convert(definition, fetched, stage)
            sync_files(stage.iterdir())
            put_folder(stage, out)
        for name, file in unpinned:
            fetched[name].accept(file)
    except (OSError, SafetensorError) as error:
        problem = f"{out}: cannot be written ({one_line(error)}); nothing of it was kept"
        raise environment_problem(error, out) or ModelError(problem) from None
    return bundle


def attested_bundle(
    definition: Definition, out: Path, *, cache: Path | None = None, trust_unpinned: bool = False
) -> tuple[Bundle, dict[str, Fetched]]:
    """Make the bundle unless it is there; return it and the files that it was made of.

    The hashes of all files and the numbers of parameters are compared. Raises ModelError.
    """
    if not card.is_bundle(out):
        prepare_bundle(definition, out, cache=cache, trust_unpinned=trust_unpinned)
    bundle = Bundle(out)
    bundle.check(*bundle.card.sha256)
    fetched = fetch_all(definition, cache or out.parent / ".downloads")
    for name, source in definition.sources.items():
        origin = bundle.card.source.get(name)
        if (
            origin is None
            or origin.sha256 != fetched[name].sha256
            or source.parameters not in (None, origin.parameters)
        ):
            problem = f"its {name} is not that of {definition.name}; give a new folder with --out"
            raise ModelError(f"{out}: {problem}")
    return bundle, fetched


def fetch_all(definition: Definition, cache: Path) -> dict[str, Fetched]:
    """Fetch all sources by network; without a network, log what is needed. Raises as `fetch`."""
    try:
        # The small classifier first: an error in it should not come after hours of downloading.
        return {name: fetch(source, cache) for name, source in reversed(definition.sources.items())}
    except UnreachableError:
        for line in needed(definition, cache):
            logger.error("needed: %s", line)
        raise


def _convert(definition: Definition, fetched: dict[str, Fetched], stage: Path) -> card.BundleCard:
    """Write all files of the bundle into `stage`."""
    shapes: dict[str, Any] = {"classifier": None}
    origins = {}
    for name, source in definition.sources.items():
        files = fetched[name]
        read, file = _NETWORKS[name]
        shapes[name], parameters = _convert_network(read, files.path, stage / file)
        if source.parameters not in (None, parameters):
            raise ModelError(
                f"{files.path}: {parameters:,} parameters, but definition {definition.name} has "
                f"{source.parameters:,}; take the right checkpoint, or correct the definition"
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
    """Convert a network and return its shape and number of parameters.

    The tensors are mapped from the file; returning here releases that memory.
    """
    shape, tensors = read(path)
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target)
    except RuntimeError as error:  # tensors that share memory
        reason = f"{one_line(error)[:100]}; write copies of them (`tensor.clone()`)"
        raise environment_problem(error, target) or ModelError(f"{path}: {reason}") from None
    target.chmod(0o644)  # safetensors sets 0600, but a group shares a bundle
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
