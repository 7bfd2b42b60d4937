"""One weight laid out for decoding: products with a few rows, at the speed at which memory can be read.

In: float `[rows, in]`, contiguous. Out: float `[rows, out]`, contiguous.

In `fp32` the result is that of `torch.nn.functional.linear` up to rounding. In `bf16` and `int8` (one scale per output)
the weight is rounded, and the product's input and output are bfloat16. Biases and residuals are added in full precision.

In compiled code, `torch.compile` writes the product of one row with an int8 weight itself, and does not round its input
and output. All other products are the operator `spear_tts::packed_product`, which calls the same kernels as eager code.
"""

from __future__ import annotations

from itertools import count
from typing import Literal, get_args
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.nn.linear import linear
from spear_tts_pytorch.nn.untyped import int8_product

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
MANY_STEPS = 32  # from this number of decoding steps on, reordering a weight saves time
SMALLEST = 1e-20  # least maximum from which an int8 scale is made, so that a row of zeros has a scale above 0
INT8_BLOCK = 32  # the int8 kernel reads past the end of rows whose length is not a multiple of this

_packs: WeakValueDictionary[int, Packed] = WeakValueDictionary()
_handles = count()


class Packed:
    """A weight as a function: `x @ weight.T (+ bias) (+ residual)`.

    Args:
        weight: `[out, in]`.
        bias: `[out]`, or None.
        rows, steps: expected number of rows, and of calls. They decide whether a reordered copy saves time.
        precision: dtype in which the weight is stored.
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
        self.dtype = weight.dtype if precision == "fp32" else torch.bfloat16  # of the product's input
        self.scale: Tensor | None = None  # [out], for int8 weights
        self.missing = 0  # number of zeros that pad the rows of an int8 weight
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
        self.reordered: Tensor | None = None
        if reorder:
            self.reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        # bf16 reads the reordered copy only; fp32 reads the weight itself for single rows
        self.weight = weight.new_empty(0) if reorder and precision == "bf16" else weight
        self.handle = next(_handles)
        _packs[self.handle] = self

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`[rows, in]` to `[rows, out]` in the dtype of `x`; `residual` is `[rows, out]`."""
        compiling = torch.compiler.is_compiling()
        if self.precision == "fp32" and not compiling:
            out = self.product(x, self.bias)
        else:
            out = self._compiled(x) if compiling and x.is_cpu else self.product(x.to(self.dtype)).to(x.dtype)
            out = out if self.bias is None else out + self.bias
        return out if residual is None else residual + out

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product itself, `[rows, in]` to `[rows, out]`, both of dtype `dtype`."""
        if self.scale is not None:
            x = F.pad(x, (0, self.missing)) if self.missing else x
            if x.is_cpu:
                return int8_product(x.contiguous(), self.weight, self.scale)
            return F.linear(x, self.weight.to(x.dtype)) * self.scale
        if self.reordered is not None and (self.precision == "bf16" or x.shape[0] > 1):
            return torch.ops.mkldnn._linear_pointwise(x, self.reordered, bias, "none", [], "")
        return linear(x, self.weight, bias)

    def _compiled(self, x: Tensor) -> Tensor:
        """The product without bias, in compiled code."""
        if self.scale is not None and x.shape[0] == 1:  # reads the weight once, and computes each output on one core
            x = F.pad(x, (0, self.missing)) if self.missing else x
            return ((self.weight.to(x.dtype) * x).sum(dim=-1) * self.scale.to(x.dtype))[None]
        return torch.ops.spear_tts.packed_product(x.to(self.dtype), self.handle, self.size).to(x.dtype)


def _onednn_linear(dtype: torch.dtype) -> bool:
    """Whether oneDNN can reorder weights of this dtype. For bfloat16 the CPU needs AVX-512 or similar."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed_product(x: Tensor, handle: int, size: int) -> Tensor:
    return _packs[handle].product(x)


def _packed_product_shape(x: Tensor, handle: int, size: int) -> Tensor:
    return x.new_empty(x.shape[0], size)


# The compiler cannot handle reordered weights, nor choose a kernel by the number of rows, so the product is an operator of
# its own. A step calls some forty, and this interface of torch.library costs a third of `custom_op` per call.
_library = torch.library.Library("spear_tts", "FRAGMENT")
_library.define("packed_product(Tensor x, int handle, int size) -> Tensor")
_library.impl("packed_product", _packed_product, "CPU")
torch.library.register_fake("spear_tts::packed_product", _packed_product_shape, lib=_library)
