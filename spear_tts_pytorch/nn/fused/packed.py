"""One weight laid out for decoding: products with a few rows, as fast as it can be read.

In: float `[rows, in]`, contiguous. Out: float `[rows, out]`, contiguous; in `fp32` to rounding what
`torch.nn.functional.linear` gives. In `bf16` and `int8` (one scale for each output) the weight is rounded, and what the
product reads and gives passes through bfloat16; biases and residuals are added as they are.

Compiled, the product of one row with an int8 weight is code that the compiler writes, whose inputs and outputs are not
rounded; the others are the operator `spear_tts::packed_product`, which calls the same kernels as without compiling.
"""

from __future__ import annotations

from itertools import count
from typing import Literal, get_args
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.nn.linear import linear

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
MANY_STEPS = 32  # decoding steps that pay for reordering a weight
SMALLEST = 1e-20  # of what an int8 scale is made of: a row of zeros has one, too
INT8_BLOCK = 32  # the int8 kernel reads beyond the end of rows that are no multiple of this

_packs: WeakValueDictionary[int, Packed] = WeakValueDictionary()
_handles = count()


class Packed:
    """`x @ weight.T (+ bias) (+ residual)`.

    Args:
        weight: `[out, in]`.
        bias: `[out]` or None.
        rows, steps: how many rows and calls to expect: whether a reordered copy pays.
        precision: of the weight.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        rows: int = 1,
        steps: int = 1,
        precision: Precision = "fp32",
    ):
        self.bias, self.size, self.precision = bias, weight.shape[0], precision
        self.dtype = weight.dtype if precision == "fp32" else torch.bfloat16  # of what the product reads
        self.scale: Tensor | None = None  # [out], of int8 weights
        self.missing = 0  # inputs that rows of an int8 weight are padded with
        if precision == "int8":
            weight = weight.float()
            self.scale = (weight.abs().amax(dim=1).clamp_min(SMALLEST) / 127).to(self.dtype)
            self.missing = -weight.shape[1] % INT8_BLOCK
            weight = (weight / self.scale[:, None]).round_().clamp_(-127, 127)
            weight = F.pad(weight, (0, self.missing)).to(torch.int8)
        elif precision == "bf16":
            weight = weight.to(self.dtype)
        pays = precision == "bf16" or (rows > 1 and steps >= MANY_STEPS and weight.dtype == torch.float32)
        reorder = pays and weight.is_cpu and weight.is_contiguous() and _onednn_linear(weight.dtype)
        self.reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if reorder else None
        self.weight = None if reorder and precision == "bf16" else weight  # fp32 needs it for single rows
        self.handle = next(_handles)
        _packs[self.handle] = self

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if self.precision == "fp32" and not compiling:
            out = self.product(x, self.bias)
        else:
            out = self._compiled(x) if compiling and x.is_cpu else self.product(x.to(self.dtype)).to(x.dtype)
            out = out if self.bias is None else out + self.bias
        return out if residual is None else residual + out

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`[rows, in]` to `[rows, out]`, both in `dtype`."""
        if self.scale is not None:
            x = F.pad(x, (0, self.missing)) if self.missing else x
            if x.is_cpu:
                return torch._weight_int8pack_mm(x.contiguous(), self.weight, self.scale)
            return F.linear(x, self.weight.to(x.dtype)) * self.scale
        if self.reordered is not None and (self.precision == "bf16" or x.shape[0] > 1):
            return torch.ops.mkldnn._linear_pointwise(x, self.reordered, bias, "none", [], "")
        return linear(x, self.weight, bias)

    def _compiled(self, x: Tensor) -> Tensor:
        if self.scale is not None and x.shape[0] == 1:  # the weight is read once, each output by one core
            x = F.pad(x, (0, self.missing)) if self.missing else x
            return ((self.weight.to(x.dtype) * x).sum(dim=-1) * self.scale.to(x.dtype))[None]
        return torch.ops.spear_tts.packed_product(x.to(self.dtype), self.handle, self.size).to(x.dtype)


def _onednn_linear(dtype: torch.dtype) -> bool:
    """Whether weights of this type can be reordered; bfloat16 asks for AVX-512 or the like."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


# An operator of our own, because the compiler knows neither reordered weights nor which kernel suits how many rows. The
# plain interface of torch.library costs a third of `custom_op` a call, and a step makes some forty.
_library = torch.library.Library("spear_tts", "FRAGMENT")
_library.define("packed_product(Tensor x, int handle, int size) -> Tensor")
_library.impl("packed_product", lambda x, handle, size: _packs[handle].product(x), "CPU")
torch.library.register_fake(
    "spear_tts::packed_product", lambda x, handle, size: x.new_empty(x.shape[0], size), lib=_library
)
