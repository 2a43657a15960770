"""Compiled layers: torch.compile for each layer of the networks, with the same bytes every time.

inductor chooses code by the sizes that it meets first, and by measurements. So all graphs are made
from fixed sizes before the first chunk, in a fixed order, and measurements that could change the
order of additions are off (`_PINNED`). After that nothing is compiled: an input that no graph is
for is computed without. Thus the bytes of a chunk do not depend on the chunks before it.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from virnuc_rules.errors import ModelError, one_line
from virnuc_rules.models.device import matmul_precision

logger = logging.getLogger(__name__)

VARIABLE = "VIRNUC_COMPILE"  # 0: never, 1: also on a CPU; else on CUDA where it is possible
# Options of inductor, also against variables of the user's environment. Versions of torch that lack
# one are passed over: they do not have what it turns off, or `deterministic` is for it.
_PINNED = {
    "deterministic": True,  # no measuring of what changes numbers: configurations of reductions
    "max_autotune": False,  # products are cuBLAS's, not the fastest of several kernels
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,  # more of the same
    "benchmark_fusion": False,  # fused or not, by measurement
    "split_reductions": False,  # rows of a norm in parts, by the number of rows met first
    "shape_padding": False,  # products of padded matrices, by measurement
    "triton.cooperative_reductions": False,  # several blocks for a row, by the number of rows
    "triton.cudagraphs": False,  # one graph and its memory for each size
}
# Rows, tokens of each, and whether there is padding; the numbers differ, as equal ones would be
# taken for one. Two lengths: attention may treat multiples of 8 or 64 in another way. A single row
# would need a graph of its own; it is computed without.
_WARM_UP = [(6, 75, False), (5, 128, False), (6, 75, True), (5, 128, True)]
_TOKEN = 5  # a letter in both vocabularies
_private: list["tempfile.TemporaryDirectory[str]"] = []  # removed when the process ends


def compile_layers(networks: list[Any], device: torch.device, precision: str) -> bool:
    """Compile the layers of networks where that is wanted and possible; tell whether they are.

    They are all compiled, or none is and one line says why. Raises ModelError for a VIRNUC_COMPILE
    that is neither 0 nor 1.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "0", "1"):
        raise ModelError(f"{VARIABLE} is {wanted!r}; it can be 0 or 1")
    if wanted == "0" or (device.type != "cuda" and wanted != "1"):
        return False
    start = time.monotonic()
    layers = [layer for network in networks for layer in network.encoder.layer]
    try:
        _need_compilers(device)
        folder = _cache_folder(device)
        graphs = _compile(networks, device, precision)
    except Exception as error:  # of the C compiler, Triton, the disk, memory, ...
        for layer in layers:
            vars(layer).pop("forward", None)
        text = one_line(error).partition("Set TORCHDYNAMO_VERBOSE")[0]  # advice for its authors
        reason = f"{type(error).__name__}: {text[:300]}"  # torch appends its code
        logger.warning("layers are not compiled: %s", reason)
        return False
    logger.info(
        "compiled %d layers to %d graphs in %.1f s (cache: %s)",
        len(layers), graphs, time.monotonic() - start, folder,
    )  # fmt: skip
    return True


def _need_compilers(device: torch.device) -> None:
    """Raise RuntimeError, which says in few words what is not there."""
    names = (os.environ.get("CC", "gcc"), "clang") if device.type == "cuda" else ("g++", "clang++")
    if not any(map(shutil.which, names)):
        raise RuntimeError("there is no C compiler")
    if device.type == "cuda" and not has_triton():
        raise RuntimeError("Triton is not installed, or not for this GPU")


@torch.inference_mode()
def _compile(networks: list[Any], device: torch.device, precision: str) -> int:
    """Give all layers a compiled `forward`, and make its graphs; return their number."""
    from torch._dynamo.utils import counters
    from torch._inductor import config
    from torch._inductor.async_compile import shutdown_compile_workers

    known = config.get_config_copy()
    options: dict[str, Any] = {name: value for name, value in _PINNED.items() if name in known}
    if device.type == "cpu":
        options["cpp.threads"] = torch.get_num_threads()  # they are written into the code
    before = counters["stats"]["unique_graphs"]
    torch.compiler.set_stance("default")
    try:
        for network in networks:
            forward = _compiled(type(network.encoder.layer[0]).forward, options)
            for layer in network.encoder.layer:
                layer.forward = MethodType(forward, layer)
            with matmul_precision(precision):
                for rows, length, padded in _WARM_UP:
                    network(*_input(rows, length, padded, device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # errors of a kernel are raised here
    finally:
        torch.compiler.set_stance("eager_on_recompile")
        shutdown_compile_workers()  # processes with a torch of their own
    return int(counters["stats"]["unique_graphs"] - before)


def _compiled(forward: Callable[..., Tensor], options: dict[str, Any]) -> Callable[..., Tensor]:
    """Compile a copy of a function: torch counts and limits graphs by code object.

    So all layers of a network share their graphs, and two networks of one class do not.
    """
    assert isinstance(forward, FunctionType)
    copy = FunctionType(forward.__code__.replace(), forward.__globals__, forward.__name__)
    return torch.compile(copy, dynamic=True, fullgraph=True, options=options)


def _input(
    rows: int, length: int, padded: bool, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    ids = torch.full((rows, length), _TOKEN, device=device)
    present = torch.ones_like(ids, dtype=torch.bool)
    present[-1, -1] = False
    return ids, present if padded else None


def _cache_folder(device: torch.device) -> Path:
    """Let inductor and Triton keep their files in a folder that can be used; return its path.

    It is TORCHINDUCTOR_CACHE_DIR, else one for this version of torch in the user's cache. Workers
    share it: inductor and Triton write each file under another name and rename it (`write_atomic`
    in torch/_inductor/codecache.py, `FileCacheManager.put` in triton/runtime/cache.py). Not so the
    C++ libraries for a CPU: a worker that is killed leaves half a file, so on a CPU, and where the
    folder cannot be written or locked, a temporary folder of this process takes its place.
    """
    try:
        folder = _shared_folder(device)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 65536)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        _private.append(tempfile.TemporaryDirectory(prefix="virnuc-"))
        if not isinstance(error, _NotShared):
            logger.warning("compiled layers are kept for this process only: %s", one_line(error))
        folder = Path(_private[-1].name)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    return folder


class _NotShared(RuntimeError):
    """Compiled layers are kept for one process."""


def _shared_folder(device: torch.device) -> Path:
    if folder := os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return Path(folder)
    if device.type == "cpu":
        raise _NotShared
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "virnuc" / f"torch-{torch.__version__}"
