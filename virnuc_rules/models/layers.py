"""Linear layers whose matrix products run in the dtype of their weights, for both networks.

Only matrix products and attention run in the precision of the settings. Residuals, norms, softmax
and means are always float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN's product includes GELU at no cost, and is up to 1.25x as fast as `F.linear` on AMD.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)
_ONEDNN_DTYPES = {torch.float32}  # bfloat16 only if the processor has instructions for it
if _ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _ONEDNN_DTYPES.add(torch.bfloat16)


class Linear(nn.Linear):
    """Linear that casts its input to the weight dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class LinearGelu(Linear):
    """`Linear` followed by the exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, gelu=True)


def dtype_of(network: nn.Module) -> torch.dtype:
    """Return the dtype of a network's matrix products."""
    return next(part.weight.dtype for part in network.modules() if isinstance(part, Linear))


def aligned(bias: Tensor) -> Tensor:
    """Return the bias of attention scores [..., T], its rows a multiple of 8 numbers apart.

    Fused attention on CUDA needs that: it would copy any other bias in every layer. There is always
    a gap between rows: to a compiled layer, rows without one would be a case of their own.
    """
    length = bias.shape[-1]
    return F.pad(bias, (0, 8 + -length % 8))[..., :length]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return x [..., n] times weight [m, n] transposed, plus bias [m], in the weight dtype.

    gelu: apply the exact GELU to the result. oneDNN's operation has no gradient, so training does
    not use it.
    """
    x = x.to(weight.dtype)
    eager = not torch.compiler.is_compiling()  # compiled layers fuse GELU, if into other code
    on_cpu = x.device.type == "cpu" and eager and not torch.is_grad_enabled()
    if _ONEDNN and on_cpu and weight.dtype in _ONEDNN_DTYPES:
        operation, kind = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, operation, [], kind)  # type: ignore[no-any-return]
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x
