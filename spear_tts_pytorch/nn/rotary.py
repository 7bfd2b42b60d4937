"""Positions: rotary embedding (arXiv 2104.09864) of queries and keys, and additive sinusoids.

In: explicit positions, so that a cache, a padded batch or rows at unequal lengths need no special case.
Does not know where the positions come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Rotates interleaved pairs of the whole head, base 10,000. It holds no tensor that a cast of the model could round."""

    def __init__(self, dim_head: int, base: float = 10_000.0):
        super().__init__()
        self.dim_head, self.base = dim_head, base

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions `[n]` or `[b, n]` to cosines and sines `[n, d/2]` or `[b, 1, n, d/2]`, float32."""
        exponents = torch.arange(0, self.dim_head, 2, device=positions.device, dtype=torch.float32) / self.dim_head
        angles = positions[..., None].float() * self.base**-exponents
        if positions.ndim == 2:
            angles = angles[:, None]
        return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates each pair of `x` `[b, h, n, d]` by the cosines and sines of its position: a product of complex numbers."""
    cos, sin = rotation
    x_float = x.float() if x.stride(-1) == 1 else x.float().contiguous()
    pairs = x_float.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compiled kernels have no complex numbers
        a, b = pairs.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)
    rotated = torch.view_as_complex(pairs) * torch.complex(cos, sin)
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)


def sinusoids(positions: Tensor, dim: int, base: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding (arXiv 1706.03762, section 3.5) of real-valued positions `[..., n]`: `[..., n, dim]`."""
    half = (dim + 1) // 2
    frequencies = base ** (-torch.arange(half, device=positions.device).float() / max(half, 1))
    angles = positions[..., None].float() * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :dim]
