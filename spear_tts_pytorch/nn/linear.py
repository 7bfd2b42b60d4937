"""Linear layers that are quick on a CPU, for the few rows of decoding and the many rows of training.

In: `[..., in]`. Out: `[..., out]`. Parameters, results (to rounding) and gradients are those of `torch.nn.Linear`.
A few rows: time goes into reading the weight, which the usual kernel does on one core. Cutting the weight into as many
blocks of outputs as there are threads lets each core read its own: two to three times as fast on two cores.
Many rows in float32: the usual kernel is MKL's, which runs at half speed or less on CPUs that are not Intel's. The same
product as a convolution of width 1 is oneDNN's: 1.7 to 2.2 times as fast on an AMD EPYC.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 4  # from 8 rows on the usual kernel is as quick
MANY_PRODUCTS = 40_000_000  # rows x in x out from which oneDNN makes up for what a convolution costs beside the product
X86 = platform.machine().lower() in ("x86_64", "amd64")


def number_of_blocks(size: int, threads: int) -> int:
    """The largest number up to `threads` that divides `size`."""
    return next(blocks for blocks in range(min(threads, size), 0, -1) if size % blocks == 0)


def linear_of_few_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for `x` `[..., in]` and `weight` `[out, in]`, block by block of the outputs."""
    size, inner = weight.shape
    blocks = number_of_blocks(size, torch.get_num_threads())
    rows = x.reshape(-1, inner)
    out = torch.bmm(weight.view(blocks, size // blocks, inner), rows.t().expand(blocks, -1, -1))
    out = out.view(size, -1).t()
    out = out.contiguous() if bias is None else (out + bias).contiguous()  # the next product is slow otherwise
    return out.view(*x.shape[:-1], size)


def linear_by_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for `x` `[..., in]` as a convolution over the rows, channels last: nothing is copied."""
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, in the way that is quickest."""
    if not x.is_cpu or x.numel() == 0 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if x.numel() <= FEW_ROWS * weight.shape[1] and weight.is_contiguous() and not torch.is_grad_enabled():
        return linear_of_few_rows(x, weight, bias)
    if (
        x.numel() * weight.shape[0] >= MANY_PRODUCTS
        and x.dtype == weight.dtype == torch.float32
        and _onednn_is_quicker()
    ):
        return linear_by_convolution(x, weight, bias)
    return F.linear(x, weight, bias)


def _onednn_is_quicker() -> bool:
    reachable = X86 and torch.backends.mkldnn.is_available() and torch.get_num_threads() > 1
    return reachable and not torch.is_autocast_enabled("cpu")


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
