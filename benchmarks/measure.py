"""What the benchmarks of the networks share: operations, and time on a device."""

import time
from collections import defaultdict
from collections.abc import Callable

import torch


def products(lengths: list[int], width: int, inner: int, num_layers: int) -> float:
    """Floating-point operations of the matrix products of one network, without padding."""
    linear = 2 * (4 * width * width + inner * width)
    return float(sum(num_layers * (n * linear + 4 * n * n * width) for n in lengths))


def timed(device: torch.device, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Stopwatch:
    """Seconds spent inside networks."""

    def __init__(self, device: torch.device, **networks: torch.nn.Module) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.device = device
        for name, network in networks.items():
            network.register_forward_pre_hook(lambda *_, name=name: self._add(name, -1))
            network.register_forward_hook(lambda *_, name=name: self._add(name, 1))

    def _add(self, name: str, sign: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += sign * time.perf_counter()
