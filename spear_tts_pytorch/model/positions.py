"""Positions on the speech timeline: additive sinusoids and the diagonal prior of cross-attention.

Both speech and text have a position in units of semantic tokens: speech id i stands at i, text id i at
`i * text_rate` (the mean number of semantic tokens per text id), and an id of a speech source of which a share p was
deleted at `i / (1 - p)`. In: lengths or positions. Out: embeddings and additive attention biases.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spear_tts_pytorch.nn.rotary import sinusoids

PRIOR_WIDTH, PRIOR_SPREAD, PRIOR_FLOOR = 5.0, 0.1, 8.0


def timeline(first: list[int], n: int, rate: float, device: torch.device) -> Tensor:
    """Positions of `n` ids from each row's `first`, `[b, n]`, or `[1, n]` where all rows agree."""
    starts = first[:1] if min(first) == max(first) else first
    places = torch.tensor(starts, device=device)[:, None] + torch.arange(n, device=device)
    return places * rate


def add_sinusoids(x: Tensor, positions: Tensor) -> Tensor:
    """Adds sinusoids of `positions` `[b or 1, n]` to `x` `[b, n, dim]`, at the scale of `dim ** -0.5` per element."""
    dim = x.shape[-1]
    return x + (sinusoids(positions, dim) * dim**-0.5).to(x.dtype)


def diagonal_prior(target: Tensor, source: Tensor) -> Tensor:
    """How unlikely, a priori, the target position i is to read the source position j: `[b, i, j]`, 0 to -8.

    `-min((i - j)^2 / (2 (5 + 0.1 i)^2), 8)`: a Gaussian about the diagonal that widens as drift adds up.
    """
    width = PRIOR_WIDTH + PRIOR_SPREAD * target[..., :, None]
    distance = (target[..., :, None] - source[..., None, :]) / width
    return -(distance.square() / 2).clamp(max=PRIOR_FLOOR)
