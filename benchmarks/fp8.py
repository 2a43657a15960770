"""ESM-2 with products of 8-bit numbers: what they would gain. Only a row of a benchmark.

Each row of the input and of the weights has its own factor; the result is bfloat16.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnuc_rules.models import compiled
from virnuc_rules.models.layers import Linear, LinearGelu

LARGEST = 448.0  # of float8_e4m3fn


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of x [n, k] as float8, and their factors [n, 1]."""
    factor = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x.float() / factor).to(torch.float8_e4m3fn), factor


def multiply(x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    """x [n, k] times weight [m, k] transposed (a view by columns, as cuBLAS wants), bfloat16."""
    rows, of_rows = rounded(x)
    return torch._scaled_mm(
        rows, weight.t(), scale_a=of_rows, scale_b=factor.t(), out_dtype=torch.bfloat16
    )


class Fp8(nn.Module):
    """A `Linear` or `LinearGelu` with its weights rounded."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        if linear.weight.shape[0] % 16 or linear.weight.shape[1] % 16:
            raise ValueError("both sizes of the weights must be multiples of 16")
        self.bits, self.factor = rounded(linear.weight)
        self.bias = linear.bias.to(torch.bfloat16)
        self.gelu = isinstance(linear, LinearGelu)

    def forward(self, x: Tensor) -> Tensor:
        y = multiply(x.flatten(0, -2), self.bits, self.factor) + self.bias
        y = y.view(*x.shape[:-1], -1)
        return F.gelu(y) if self.gelu else y


def to_fp8(network: Any, compile_it: bool) -> None:
    """Change all products of the layers; compile them as `compile_layers` does, but now."""
    for layer in network.encoder.layer:
        layer.attention["self"].qkv = Fp8(layer.attention["self"].qkv)
        layer.attention["output"]["dense"] = Fp8(layer.attention["output"]["dense"])
        layer.intermediate["dense"] = Fp8(layer.intermediate["dense"])
        layer.output["dense"] = Fp8(layer.output["dense"])
    if compile_it:
        forward = compiled._compiled(type(network.encoder.layer[0]).forward, {})
        for layer in network.encoder.layer:
            layer.forward = MethodType(forward, layer)
