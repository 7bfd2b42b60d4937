"""Random numbers that belong to a row: a pure function of the row's key, so that the other rows of a batch do not matter.

In: keys `[b]`, int64, and how many numbers each row wants. Out: uniform numbers in [0, 1), or Gumbel noise. A row gets the
same numbers in a batch of any size and padding, and in any process.
"""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64 (Steele, Lea and Flood 2014), its constants as signed numbers
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def _scramble(x: Tensor) -> Tensor:
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x = _shift(x, shift).bitwise_xor_(x).mul_(factor)
    return _shift(x, 31).bitwise_xor_(x)


def _shift(x: Tensor, bits: int) -> Tensor:
    """`x >> bits` as for unsigned numbers."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def row_keys(numbers: Tensor, *context: int | Tensor) -> Tensor:
    """Keys `[b]` of rows with these numbers `[b]`, other ones in each context (a seed, a step)."""
    keys = torch.zeros_like(numbers)
    for value in (*context, numbers):
        keys = _scramble((keys ^ value) + _STEP)
    return keys


def _stream(keys: Tensor, length: int) -> Tensor:
    """64 random bits for each of `length` places, `[..., length]`, from keys `[...]`."""
    return _scramble(keys[..., None] + torch.arange(1, length + 1, device=keys.device) * _STEP)


def row_uniform(keys: Tensor, length: int, purpose: int = 0) -> Tensor:
    """Numbers in [0, 1) for each row, `[b, length]`; the first ones of a row are the same at any `length`."""
    return _shift(_stream(row_keys(keys, purpose), length), 40).float() / (1 << 24)


def uniform_rows(
    shape: torch.Size | tuple[int, int], device: torch.device, keys: Tensor | None, purpose: int
) -> Tensor:
    """Numbers in [0, 1) of a shape `[b, n]`: those of the rows' keys, or without keys the generator's."""
    return torch.rand(shape, device=device) if keys is None else row_uniform(keys, shape[1], purpose)


def uniform_at(keys: Tensor, places: Tensor, purpose: int = 0) -> Tensor:
    """A number in [0, 1) for each place `[b, n]` of rows with keys `[b]`: float32 `[b, n]`."""
    return _shift(row_keys(places, purpose, keys[:, None]), 40).float() / (1 << 24)


def gumbel_at(keys: Tensor, places: Tensor, size: int, purpose: int = 0) -> Tensor:
    """Standard Gumbel noise for each place `[b, n]` of rows with keys `[b]`: float32 `[b, n, size]`."""
    bits = 23 if keys.device.type == "mps" else 52  # that device has no float64
    whole = _shift(_stream(row_keys(places, purpose, keys[:, None]), size), 64 - bits)
    uniform = whole.to(torch.float32 if bits == 23 else torch.float64).add_(0.5).mul_(0.5**bits)  # never 0 or 1
    return uniform.log_().neg_().log_().neg_().float()
