"""Which sources stand together: batches under a budget of ids, the longest sources first.

In: lengths of sources by their number. Out: numbers, in lists.
"""

from __future__ import annotations

from typing import Any

import torch

SAMPLES_PER_ID = 320  # of tokenizers that have no downsample_factor


def size_in_ids(source: Any, samples_per_id: int) -> int:
    """About how many ids a source will have; 1 if it is no source."""
    try:
        length = len(source)
    except TypeError:
        return 1
    kind = getattr(source, "dtype", None)
    is_wave = kind.is_floating_point if isinstance(kind, torch.dtype) else getattr(kind, "kind", "") == "f"
    return -(-length // samples_per_id) if is_wave else length


def in_batches(lengths: dict[int, int], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Keys by falling length, cut so that rows times the longest are at most `max_tokens`, or one row."""
    batches: list[list[int]] = []
    for key in sorted(lengths, key=lambda key: -lengths[key]):
        last = batches[-1] if batches else []
        if last and len(last) < max_rows and (len(last) + 1) * lengths[last[0]] <= max_tokens:
            last.append(key)
        else:
            batches.append([key])
    return batches


def in_shifts(lengths: dict[int, int], max_tokens: int, max_rows: int) -> list[tuple[int, list[int]]]:
    """Keys by falling length, in parts with the number of rows there is room for; more rows once twice as many fit."""
    shifts: list[tuple[int, list[int]]] = []
    for key in sorted(lengths, key=lambda key: -lengths[key]):
        room = min(max_rows, max(1, max_tokens // lengths[key]))
        if not shifts or room >= 2 * shifts[-1][0]:
            shifts.append((room, []))
        shifts[-1][1].append(key)
    return shifts
