"""Positions: rotary embedding (arXiv 2104.09864) of queries and keys, and sinusoids to add to embeddings.

In: positions as tensors. The caller numbers them, so caches, padded batches and rows of unequal lengths are no special
cases. Out: rotated queries and keys of the same shape, or sinusoids `[..., n, dim]`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Angles for the interleaved pairs of a whole head.

    It has no buffers: a model cast to bfloat16 would round them, and with them the positions.
    """

    def __init__(self, dim_head: int, base: float = 10_000.0):
        super().__init__()
        self.dim_head, self.base = dim_head, base

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, float32: `[n, d/2]` for positions `[n]`, and `[b, 1, n, d/2]` for positions `[b, n]`."""
        exponents = torch.arange(0, self.dim_head, 2, device=positions.device, dtype=torch.float32) / self.dim_head
        angles = positions[..., None].float() * self.base**-exponents
        if positions.ndim == 2:
            angles = angles[:, None]
        return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates each pair of `x` `[b, h, n, d]` by its position's angles: a product of complex numbers."""
    cos, sin = rotation
    x_float = x.float() if x.stride(-1) == 1 else x.float().contiguous()
    pairs = torch.unflatten(x_float, -1, (-1, 2))  # [b, h, n, d/2, 2]
    if torch.compiler.is_compiling():  # torch.compile cannot generate code for complex numbers
        a, b = pairs.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)
    rotated = torch.view_as_complex(pairs) * torch.complex(cos, sin)
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)


def sinusoids(positions: Tensor, dim: int, base: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding (arXiv 1706.03762, section 3.5) `[..., n, dim]` of positions `[..., n]`, which may be fractions."""
    half = (dim + 1) // 2
    frequencies = base ** (-torch.arange(half, device=positions.device).float() / max(half, 1))
    angles = positions[..., None].float() * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :dim]
