"""Items of datasets of any kind: how many ids each is, and how messages name it.

In: a dataset of semantic ids `[n]`, waveforms `[t]`, texts, or tuples of those. Out: lengths `[items, parts]`; ids of items.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from spear_tts_pytorch.data.loader import Indices, SizedDataset, is_row, is_tuple, is_wave
from spear_tts_pytorch.utils.values import as_tensor


def dataset_lengths(
    dataset: SizedDataset, samples_per_token: int = 1, *, skip: bool = False, first: int = 0
) -> Indices:
    """Ids of each item of a dataset, `[items, parts]`: its attribute `lengths`; without that every item is read.

    Args:
        dataset: items are tensors, arrays, lists or texts, or tuples of those.
        samples_per_token: samples of a waveform that count as one id. A text counts its characters.
        skip: whether an item that has no length counts 1; else it is an error.
        first: index of the first item, for messages.

    Raises:
        ValueError: an item that has no length, or another number of parts than the others.
    """
    if isinstance(dataset, Subset):
        subset = cast("Subset[Any]", dataset)
        whole = dataset_lengths(cast(SizedDataset, subset.dataset), samples_per_token, skip=skip, first=first)
        return whole[np.asarray(subset.indices, int)]
    if isinstance(dataset, ConcatDataset):
        joined = cast("ConcatDataset[Any]", dataset)
        starts = [first, *(first + size for size in joined.cumulative_sizes)]
        parts = zip(cast("list[SizedDataset]", joined.datasets), starts, strict=False)
        return np.concatenate([dataset_lengths(part, samples_per_token, skip=skip, first=at) for part, at in parts])
    known = getattr(dataset, "lengths", None)
    if known is not None:
        known = np.asarray(known, dtype=np.int64)
        return known[:, None] if known.ndim == 1 else known
    rows: list[list[int]] = []
    for index in range(len(dataset)):
        try:
            rows.append(_lengths(dataset[index], samples_per_token))
        except (TypeError, ValueError, RuntimeError) as error:
            if not skip:
                raise ValueError(f"{item_name(dataset, index, first + index)} has no length: {error}") from error
            rows.append([])
        except Exception:  # datasets raise errors of any type
            if not skip:
                raise
            rows.append([])
    return _as_array(rows, skip, lambda index: item_name(dataset, index, first + index))


def _as_array(rows: list[list[int]], skip: bool, name: Callable[[int], str]) -> Indices:
    parts = max((len(row) for row in rows), default=1)
    for index, row in enumerate(rows):
        if len(row) < parts and not skip:
            raise ValueError(f"{name(index)} has {len(row)} parts, others have {parts}: give all items the same parts")
        row += [1] * (parts - len(row))
    return np.asarray(rows, dtype=np.int64).reshape(len(rows), parts)


def _lengths(item: Any, samples_per_token: int) -> list[int]:
    parts: Sequence[Any] = item if is_tuple(item) and not is_row(item) else (item,)
    return [_length(part, samples_per_token) for part in parts]


def _length(part: Any, samples_per_token: int) -> int:
    if part is None:
        raise TypeError("a part of it is None: leave the item out, or give its text")
    if isinstance(part, str):
        return len(part)
    row = as_tensor(part)
    if row.ndim == 0:
        raise TypeError("it is a number, not a row")
    return -(-len(row) // samples_per_token) if is_wave(row) else len(row)


def item_name(dataset: SizedDataset, index: int, shown: int | None = None, title: str = "the dataset") -> str:
    """An item in words: its index, or `shown` instead, and its entry of `dataset.ids` if there are ids."""
    id = id_of_item(dataset, index)
    return f"item {index if shown is None else shown} of {title}{'' if id is None else f' ({id!r})'}"


def id_of_item(dataset: SizedDataset, index: int) -> str | None:
    """The entry of `dataset.ids` for an item, also in a part of a dataset or in joined ones; None without ids."""
    if isinstance(dataset, Subset):
        subset = cast("Subset[Any]", dataset)
        return id_of_item(cast(SizedDataset, subset.dataset), int(subset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        joined = cast("ConcatDataset[Any]", dataset)
        part = bisect_right(joined.cumulative_sizes, index)
        start = joined.cumulative_sizes[part - 1] if part else 0
        return id_of_item(cast(SizedDataset, joined.datasets[part]), index - start)
    try:
        return str(cast(Any, dataset).ids[index])
    except (AttributeError, TypeError, IndexError, KeyError):
        return None
