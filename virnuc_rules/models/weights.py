"""Putting a safetensors file into a network: every key, or an error."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from virnuc_rules.errors import ModelError


def load_weights(
    network: nn.Module,
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    ignore: tuple[str, ...] = (),
) -> None:
    """Fill `network` (built on the meta device) from `path`, mapped into memory, on `device`.

    Keys that begin with one of `ignore` may be in the file without being used. Raises ModelError
    for a missing or damaged file, and for any other missing or unexpected key or shape: a network
    with a single random weight looks like one that works.
    """
    try:
        tensors = load_file(path, device=str(device))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; prepare the model bundle again") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged ({error}); prepare the model bundle again") from None
    tensors = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
        if not key.startswith(ignore)
    }
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: does not fit the network: {reason}") from None
    network.requires_grad_(False).eval()
