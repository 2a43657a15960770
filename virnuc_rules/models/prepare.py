"""Making a model bundle from published checkpoints that are already on this machine."""

import shutil
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from virnuc_rules.errors import ModelError
from virnuc_rules.files import staged_folder
from virnuc_rules.models import card
from virnuc_rules.models.bundle import write_card
from virnuc_rules.models.checkpoints import read_classifier, read_dnabert_s, read_esm2
from virnuc_rules.models.dnabert import open_tokenizer


def prepare_bundle(
    *, dnabert_s: Path, esm2: Path, classifier: Path, window: int, name: str, out: Path
) -> card.BundleCard:
    """Convert checkpoints to a bundle folder `out`, which must not exist yet.

    dnabert_s: Hugging Face folder with `tokenizer.json`; esm2: Hugging Face folder or fair-esm
    `.pt`; classifier: VirNucPro's `.pth`. Weights keep the precision of their files. Raises
    ModelError for files that are damaged, unsafe, incomplete, or do not fit each other.
    """
    if out.exists():
        raise ModelError(f"{out}: is there already; give a new folder")
    with staged_folder(out) as stage:
        made = _write(stage, dnabert_s, esm2, classifier, window, name)
        stage.rename(out)
    return made


def _write(
    stage: Path, dnabert_s: Path, esm2: Path, classifier: Path, window: int, name: str
) -> card.BundleCard:
    tokenizer = dnabert_s / card.TOKENIZER
    vocabulary = open_tokenizer(tokenizer).get_vocab_size()
    dnabert_config, tensors = read_dnabert_s(dnabert_s)
    if vocabulary > dnabert_config.vocab_size:
        raise ModelError(
            f"{tokenizer}: {vocabulary} tokens, but the network knows {dnabert_config.vocab_size}; "
            "take the tokenizer of this checkpoint"
        )
    shutil.copyfile(tokenizer, stage / card.TOKENIZER)
    _save(tensors, stage / card.DNABERT_S)
    esm2_config, tensors = read_esm2(esm2)
    _save(tensors, stage / card.ESM2)
    shape, tensors = read_classifier(classifier)
    _save(tensors, stage / card.CLASSIFIER)
    try:
        return write_card(
            stage,
            name=name,
            description=f"Converted from {dnabert_s.name}, {esm2.name} and {classifier.name}.",
            demo=False,
            window=window,
            dnabert_s=dnabert_config,
            esm2=esm2_config,
            classifier=shape,
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ModelError(f"{classifier}: does not fit ({reason}); take one for them") from None


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    path.chmod(0o644)  # safetensors makes it 0600, but a bundle is for the group
