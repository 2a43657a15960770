"""Putting a safetensors file into a network: every key, or an error."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from virnuc_rules.errors import ModelError
from virnuc_rules.models.layers import Linear

_AT_ONCE = 8  # tensors that are mapped while they are converted

Network = TypeVar("Network", bound=nn.Module)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the initial values, whose drawing on the meta device imports 2 s of torch."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def skeleton(build: Callable[[], Network]) -> Network:
    """Build a network without memory or values: its names and shapes, to be filled from a file."""
    with torch.device("meta"), _NothingDrawn():
        return build()


def load_weights(
    network: nn.Module,
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    ignore: tuple[str, ...] = (),
) -> None:
    """Fill `network` (a `skeleton`) from `path` on `device`.

    The weights of matrix products (`Linear`) get `dtype`, all others float32. What is so already,
    on the CPU, stays mapped from the file. Keys that begin with one of `ignore` may be in the file
    without being used. Raises ModelError for a missing or damaged file, and for any other missing
    or unexpected key or shape: a network with a single random weight looks like one that works.
    """
    products = {name for name, module in network.named_modules() if isinstance(module, Linear)}

    def wanted(key: str, tensor: Tensor) -> torch.dtype:
        if not tensor.is_floating_point():
            return tensor.dtype
        return dtype if key.rpartition(".")[0] in products else torch.float32

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, "pt") as file:
            keys = iter([key for key in file.keys() if not key.startswith(ignore)])  # noqa: SIM118
        # Opened anew for every few: what was mapped only to be converted leaves the memory.
        while some := list(itertools.islice(keys, _AT_ONCE)):
            with safe_open(path, "pt") as file:
                for key in some:
                    tensor = file.get_tensor(key)
                    # Where products are converted, even the others must not keep the file mapped.
                    copy = dtype != torch.float32
                    tensors[key] = tensor.to(device, wanted(key, tensor), copy=copy)
                    del tensor
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; prepare the model bundle again") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged ({error}); prepare the model bundle again") from None
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: does not fit the network: {reason}") from None
    network.requires_grad_(False).eval()
