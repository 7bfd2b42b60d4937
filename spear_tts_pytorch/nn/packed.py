"""One weight laid out for decoding: products with a few rows, as fast as it can be read.

In: `[rows, in]`, contiguous. Out: `[rows, out]`, contiguous; to rounding what `torch.nn.functional.linear` gives.
A `Packed` is a snapshot: it shares the weight's memory or holds a copy, and belongs to one call of `generate` or to a
quantised model. Knows nothing of what the rows are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spear_tts_pytorch.nn.linear import FEW_ROWS, linear

MANY_STEPS = 32  # decoding steps that pay for reordering a weight


class Packed:
    """`x @ weight.T (+ bias) (+ residual)`.

    Args:
        weight: `[out, in]`.
        bias: `[out]` or None.
        rows, steps: how many rows and calls to expect: whether a reordered copy pays.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, rows: int = 1, steps: int = 1):
        self.weight, self.bias = weight, bias
        pays = weight.is_cpu and weight.dtype == torch.float32 and rows > FEW_ROWS and steps >= MANY_STEPS
        reorder = pays and weight.is_contiguous() and _onednn_linear()
        self.reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if reorder else None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.reordered is not None and x.shape[0] > FEW_ROWS:
            out = torch.ops.mkldnn._linear_pointwise(x, self.reordered, self.bias, "none", [], "")
        else:
            out = linear(x, self.weight, self.bias)
        return out if residual is None else residual + out


def _onednn_linear() -> bool:
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
