"""Linear layers that are fast on a CPU, both for the few rows of decoding and for the many rows of training.

In: `[..., in]`. Out: `[..., out]`. Parameters, gradients and (up to rounding) results are those of `torch.nn.Linear`.

A product with few rows spends its time reading the weight, and the usual kernel does so on one core. Here each core reads
its own block of the weight's rows: 2 to 3 times as fast on two cores.
A product with many rows in float32 usually runs in MKL, at half speed or less on CPUs of other makers than Intel. There it
is written as a convolution of width 1, which runs in oneDNN: 1.7 to 2.2 times as fast on an AMD EPYC, and a tenth slower on
an Intel Xeon.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 4  # from 8 rows on, the usual kernel is as fast
MANY_PRODUCTS = 40_000_000  # rows x in x out; from here on, oneDNN saves more than a convolution costs in addition
X86 = platform.machine().lower() in ("x86_64", "amd64")


@cache
def made_by_intel() -> bool:
    """Whether Intel made the CPU. True on a Mac with an x86 CPU; False where the system does not tell."""
    if platform.system() == "Darwin":
        return X86
    described = platform.processor()  # on Windows it names the maker
    if Path("/proc/cpuinfo").is_file():
        described += Path("/proc/cpuinfo").read_text(errors="replace")
    return "GenuineIntel" in described


def number_of_blocks(size: int, threads: int) -> int:
    """The largest number up to `threads` that divides `size`."""
    return next(blocks for blocks in range(min(threads, size), 0, -1) if size % blocks == 0)


def linear_of_few_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for `x` `[..., in]` and `weight` `[out, in]`, one block of outputs per thread."""
    size, inner = weight.shape
    blocks = number_of_blocks(size, torch.get_num_threads())
    rows = x.reshape(-1, inner)
    out = torch.bmm(weight.view(blocks, size // blocks, inner), rows.t().expand(blocks, -1, -1))
    out = out.view(size, -1).t()  # [rows, out]
    out = out.contiguous() if bias is None else (out + bias).contiguous()  # a strided input slows the next product
    return out.view(*x.shape[:-1], size)


def linear_by_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` for `x` `[..., in]` as a convolution over the rows. In channels-last order it copies nothing."""
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # [1, in, rows, 1]
    out = F.conv2d(rows, weight[:, :, None, None], bias)  # [1, out, rows, 1]
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` by the fastest of the three ways."""
    if not x.is_cpu or x.numel() == 0 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if x.numel() <= FEW_ROWS * weight.shape[1] and weight.is_contiguous() and not torch.is_grad_enabled():
        return linear_of_few_rows(x, weight, bias)
    if (
        x.numel() * weight.shape[0] >= MANY_PRODUCTS
        and x.dtype == weight.dtype == torch.float32
        and _onednn_is_faster()
    ):
        return linear_by_convolution(x, weight, bias)
    return F.linear(x, weight, bias)


def _onednn_is_faster() -> bool:
    reachable = X86 and not made_by_intel() and torch.backends.mkldnn.is_available() and torch.get_num_threads() > 1
    return reachable and not torch.is_autocast_enabled("cpu")


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
