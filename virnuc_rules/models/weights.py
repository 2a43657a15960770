"""Loading all weights of a network from a safetensors file."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from virnuc_rules.errors import EnvironmentProblem, ModelError, one_line
from virnuc_rules.files.environment import environment_named, open_regular, patient
from virnuc_rules.models.layers import Linear

_AT_ONCE = 8  # tensors mapped from one opening of the file

Network = TypeVar("Network", bound=nn.Module)
Shape = TypeVar("Shape", bound=BaseModel)


class _NothingDrawn(TorchFunctionMode):
    """Skips the random initial values: drawing them on the meta device imports torch for 2 s."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def check_size(shape: BaseModel, sizes: list[Sequence[int]], path: Path) -> None:
    """Raise ModelError where tensors of these sizes cannot be those of a network of this shape.

    They are fewer than its layers, or none is as wide. Building it could take any memory.
    """
    widest = max((max(size) for size in sizes if size and math.prod(size)), default=0)
    for field, value in shape:
        held = len(sizes) if field == "num_hidden_layers" else widest
        if isinstance(value, int) and value > held:
            what = f"{len(sizes):,} tensors, at most {widest:,} wide"
            raise ModelError(f"{path}: does not fit the network: {field} {value:,}, but {what}")


def skeleton(kind: Callable[[Shape], Network], shape: Shape) -> Network:
    """Build a network on the meta device: names and shapes without values."""
    with torch.device("meta"), _NothingDrawn():
        return kind(shape)


def load_network(
    kind: Callable[[Shape], Network],
    shape: Shape,
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    ignore: tuple[str, ...] = (),
) -> Network:
    """Build a network of class `kind` on `device` with the weights of `path`, for inference.

    The weights of matrix products (`Linear`) get `dtype`, all others float32. On the CPU, weights
    that have their dtype already stay mapped from the file. Keys that begin with one of `ignore`
    are not used. Modules with a method `fuse` are fused, one after the other. Raises ModelError for
    a missing or damaged file, and for any other missing or unexpected key or shape: a network with
    a single random weight would seem to work; and EnvironmentProblem for a file that cannot be
    read, or for too little memory.
    """

    def converted(key: str, tensor: Tensor) -> Tensor:
        target = dtype if key.rpartition(".")[0] in products else torch.float32
        target = target if tensor.is_floating_point() else tensor.dtype
        # Tensors that are not converted are copied too, or they keep the file mapped.
        return tensor.to(device, target, copy=dtype != torch.float32)

    try:
        with environment_named(path):
            with _opened(path) as file:
                sizes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
            check_size(shape, sizes, path)
            network = skeleton(kind, shape)
            products = {name for name, m in network.named_modules() if isinstance(m, Linear)}
            tensors = _read(path, ignore, converted)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; prepare the model bundle again") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged ({error}); prepare the model bundle again") from None
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{path}: does not fit the network: {one_line(error)}") from None
    tensors.clear()  # else the parts of what is fused would stay
    for module in list(network.modules()):
        getattr(module, "fuse", lambda: None)()
    return network.requires_grad_(False).eval()


def _read(
    path: Path, ignore: tuple[str, ...], converted: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Read all tensors but those of keys that begin with one of `ignore`."""
    tensors: dict[str, Tensor] = {}
    with _opened(path) as file:
        keys = iter([key for key in file.keys() if not key.startswith(ignore)])  # noqa: SIM118
    # Reopened for every few tensors so that converted pages are released.
    while batch := list(itertools.islice(keys, _AT_ONCE)):
        with _opened(path) as file:
            for key in batch:
                tensors[key] = converted(key, file.get_tensor(key))
    return tensors


@patient
def _opened(path: Path) -> Any:
    """Open a file with safetensors, which says FileNotFoundError of any that it cannot open."""
    with environment_named(path):
        open_regular(path).close()
        try:
            return safe_open(path, "pt")
        except FileNotFoundError:
            open_regular(path).close()  # says why, if it is still so
            raise EnvironmentProblem(f"{path}: cannot be opened by safetensors") from None
