"""The device that the networks run on: which one, in which precision, and its memory."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from virnuc_rules.errors import ModelError

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # the weights; their products are rounded
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_CUDA_ONLY = ("tf32", "fp16")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_KEPT = 2**31 - 1  # bytes of free heap


def choose_device(wanted: str, number: int = 0) -> torch.device:
    """Return the torch device: `auto` spreads workers over the CUDA devices that are visible.

    Raises ModelError where a CUDA device is wanted that is not there.
    """
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device(f"cuda:{number % devices}" if devices else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= devices:
        raise ModelError(f"device {wanted} is not there: {devices} CUDA devices are visible")
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return the precision of matrix products: `auto` is fp16 on CUDA and fp32 elsewhere.

    Raises ModelError for what the device cannot do.
    """
    if wanted in _CUDA_ONLY and device.type != "cuda":
        raise ModelError(f"precision {wanted} needs a CUDA device; take fp32 or bf16 on {device}")
    if wanted == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return wanted


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Have torch round the factors of float32 products within the block if it is tf32, else not.

    torch knows one setting for all threads of the process; what it was before comes back.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error is a lack of memory; on a CPU torch has no class of its own for it."""
    lack = "DefaultCPUAllocator: can't allocate memory"
    return isinstance(error, torch.OutOfMemoryError) or lack in str(error)


def reuse_memory() -> None:
    """Let glibc keep large blocks that are freed, for the next micro-batch.

    It would give blocks above 32 MiB back to the system each time, and get them anew page by page:
    that took 15 % of the time in fp32 and 30 % in bf16. `clear_caches` gives them back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, other systems do not
    if mallopt:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def clear_caches(device: torch.device) -> None:
    """Give unused memory back to the system or the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
