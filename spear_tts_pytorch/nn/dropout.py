"""Dropout that is fast on a CPU.

In and out: floating point of any shape. The usual kernel draws one random number for each element; here one draw of 64 bits
decides on four, in less than half of the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 1 << 16  # of the probability: an element is dropped where its 16 random bits are among the lowest ones


def dropout_by_words(x: Tensor, p: float) -> Tensor:
    """`x` on a CPU with each element dropped with the probability `p`, rounded to 1 / 65,536; the others are scaled up."""
    dropped = round(p * STEPS)
    if dropped == STEPS:
        return x * 0.0
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (bits >= dropped - STEPS // 2).to(x.dtype)
    return x * kept.mul_(STEPS / (STEPS - dropped))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, by `dropout_by_words` on a CPU. Draws come from torch's generator."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        if input.is_cpu and not self.inplace and not torch.compiler.is_compiling():
            return dropout_by_words(input, self.p)
        return F.dropout(input, self.p, True, self.inplace)
