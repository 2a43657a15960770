"""The device of the networks: choice of device and precision, and memory."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from virnuc_rules.errors import ModelError

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # weights are float32; the factors of products are rounded
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_CUDA_ONLY = ("tf32", "fp16")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_KEPT = 2**31 - 1  # bytes of free heap that are kept


def choose_device(name: str, worker_index: int = 0) -> torch.device:
    """Return the torch device; `auto` distributes workers over the visible CUDA devices.

    Raises ModelError for a CUDA device that is not visible.
    """
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device(f"cuda:{worker_index % devices}" if devices else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= devices:
        raise ModelError(f"device {name} is not available: {devices} CUDA devices are visible")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision of matrix products: `auto` is fp16 on CUDA and fp32 elsewhere.

    Raises ModelError for a precision that the device does not support.
    """
    if name in _CUDA_ONLY and device.type != "cuda":
        raise ModelError(f"precision {name} needs a CUDA device; take fp32 or bf16 on {device}")
    if name == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return name


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Round the factors of float32 products within the block if `precision` is tf32.

    It is one setting of torch for all threads of the process; its old value is restored.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory was not sufficient; torch has no exception class for that on a CPU."""
    on_cpu = "DefaultCPUAllocator: can't allocate memory" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError)


def reuse_memory() -> None:
    """Let glibc keep large freed blocks for the next micro-batch.

    By default it returns blocks above 32 MiB to the system and allocates them again page by page,
    which took 15 % of the time in fp32 and 30 % in bf16. `clear_caches` returns them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, other systems do not
    if mallopt:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def clear_caches(device: torch.device) -> None:
    """Return unused memory to the system or the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
