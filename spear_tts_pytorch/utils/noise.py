"""Random numbers of rows: a pure function of a row's key, so that it does not matter which rows stand in a batch.

In: keys `[b]`, int64, and how many numbers each row wants. Out: uniform numbers in [0, 1). What is drawn for a row is the
same in a batch of any size and padding, on any process and device. Knows nothing of what it is for.
"""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64 (Steele, Lea and Flood 2014), its constants as signed numbers
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def _scramble(x: Tensor) -> Tensor:
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x = (x ^ _shift(x, shift)) * factor
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """`x >> bits` as for unsigned numbers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def row_keys(numbers: Tensor, *context: int) -> Tensor:
    """Keys `[b]` of rows with these numbers `[b]`, other ones in each context (a seed, a step)."""
    keys = torch.zeros_like(numbers)
    for value in (*context, numbers):
        keys = _scramble((keys ^ value) + _STEP)
    return keys


def row_uniform(keys: Tensor, length: int, purpose: int = 0) -> Tensor:
    """Numbers in [0, 1) for each row, `[b, length]`; the first ones of a row are the same at any `length`."""
    places = torch.arange(1, length + 1, device=keys.device)
    numbers = _scramble(row_keys(keys, purpose)[:, None] + places * _STEP)
    return _shift(numbers, 40).float() / (1 << 24)


def uniform_rows(
    shape: torch.Size | tuple[int, int], device: torch.device, keys: Tensor | None, purpose: int
) -> Tensor:
    """Numbers in [0, 1) of a shape `[b, n]`: those of the rows' keys, or without keys the generator's."""
    return torch.rand(shape, device=device) if keys is None else row_uniform(keys, shape[1], purpose)
