"""What both networks share: matrix products in a precision of their own, and the padding mask.

Only the matrix products, and the attention between them, run in the precision that is asked for.
Residuals, norms, softmax and means are float32 in all precisions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN's product takes GELU in for nothing, and is up to 1.25x of what `F.linear` calls on AMD.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)
_ONEDNN_DTYPES = {torch.float32}  # bfloat16 only where the processor has instructions for it
if _ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _ONEDNN_DTYPES.add(torch.bfloat16)


class Linear(nn.Linear):
    """A matrix product in the dtype of its weights, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class LinearGelu(Linear):
    """The same, and the exact GELU of it."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, gelu=True)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return x [..., n] times weight [m, n] transposed, plus bias [m]; after that the exact GELU.

    In the dtype of the weight. oneDNN's operation has no gradient: training takes the other way.
    """
    x = x.to(weight.dtype)
    on_cpu = x.device.type == "cpu" and not torch.is_grad_enabled()
    if _ONEDNN and on_cpu and weight.dtype in _ONEDNN_DTYPES:
        operation, kind = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, operation, [], kind)  # type: ignore[no-any-return]
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x
