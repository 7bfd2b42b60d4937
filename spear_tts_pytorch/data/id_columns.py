"""Rows of ids in columns of Arrow tables: checked one by one, and read without bound on their number.

In: columns of lists, perhaps in several pieces, from files that other programs may have written. Out: errors that name the
row and the value; rows `[n]` as NumPy arrays.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, cast

import numpy as np

from spear_tts_pytorch.data.arrow import Column, Table, arrow

MOST_ID = 2**31 - 1  # ids are stored in 32 bits
Ragged = tuple[np.ndarray, np.ndarray]
"""Rows of different lengths as values and offsets: row i is `values[offsets[i] : offsets[i + 1]]`."""


def ragged(column: Column) -> Ragged:
    """A column of ids as values and offsets, int64 `[rows + 1]`. Values of a column in one piece are not copied."""
    chunks = getattr(column, "chunks", [column])
    values = [_numpy(chunk.flatten()) for chunk in chunks]
    lengths = [np.diff(_numpy(chunk.offsets)) for chunk in chunks]
    offsets = np.concatenate([[0], *lengths]).astype(np.int64).cumsum()
    return values[0] if len(values) == 1 else np.concatenate([np.empty(0, np.int32), *values]), offsets


class IdRows:
    """A column of ids as a sequence of int64 rows `[n]`. Its pieces stay apart, so it may hold more than 2**31 ids.

    Attributes:
        total: number of ids.
        lengths: ids of each row, int64 `[rows]`.
    """

    def __init__(self, column: Column):
        pieces = [ragged(chunk) for chunk in column.chunks if len(chunk)]
        self._pieces = pieces
        self._starts = [0, *accumulate(len(offsets) - 1 for _, offsets in pieces)]
        self.lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(offsets) for _, offsets in pieces)])
        self.total = int(self.lengths.sum())

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        piece = bisect_right(self._starts, index) - 1
        values, offsets = self._pieces[piece]
        row = index - self._starts[piece]
        return values[offsets[row] : offsets[row + 1]].astype(np.int64)


def check_id_columns(table: Table, names: Iterable[str], lowest: int = -MOST_ID) -> None:
    """Raises ValueError if a column holds something else than rows of whole numbers from `lowest` to 2**31 - 1.

    Null and 1.7 are no whole numbers, 2.0 is one. The message names the column, the row and the value.
    """
    for name in names:
        column, start = table.column(name), 0
        for chunk in column.chunks:
            if not _is_list(chunk.type) or chunk.null_count or not _are_ids(chunk.flatten(), lowest):
                row, value = _fault(chunk, lowest)
                raise ValueError(
                    f"row {start + row} (from 0) of the column {name!r} holds {value}, but ids are whole numbers from "
                    f"{lowest} to {MOST_ID}"
                )
            start += len(chunk)


def check_filled(table: Table, names: Iterable[str]) -> None:
    """Raises ValueError if a column holds null; the message names the column and the row."""
    for name in names:
        start = 0
        for chunk in table.column(name).chunks:
            if chunk.null_count:
                row = int(np.flatnonzero(_numpy_of_any(chunk.is_null()))[0])
                raise ValueError(f"row {start + row} (from 0) of the column {name!r} holds null")
            start += len(chunk)


def _is_list(kind: Any) -> bool:
    types = arrow().types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _are_ids(values: Column, lowest: int) -> bool:
    """Whether all values `[n]` of a piece are ids."""
    types = arrow().types
    if types.is_null(values.type):
        return len(values) == 0
    if values.null_count or not (types.is_integer(values.type) or types.is_floating(values.type)):
        return False
    found = _numpy(values)
    if not found.size:
        return True
    whole = found.dtype.kind in "iu" or bool((found == np.floor(found)).all())  # False for NaN
    return whole and bool(lowest <= found.min()) and bool(found.max() <= MOST_ID)


def _fault(chunk: Column, lowest: int) -> tuple[int, str]:
    """The first row of a piece that is not a row of ids, and what it holds."""
    for index, row in enumerate(cast("list[object]", chunk.to_pylist())):
        if row is None or not isinstance(row, list):
            return index, "null" if row is None else repr(row)[:80]
        for value in cast("list[object]", row):
            if not _is_id(value, lowest):
                return index, "null" if value is None else repr(value)[:80]
    return 0, f"values of the type {chunk.type}"


def _is_id(value: object, lowest: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value == math.floor(value) and lowest <= value <= MOST_ID


def _numpy(array: Column) -> np.ndarray:
    if array.null_count:
        return _numpy_of_any(array)
    return np.from_dlpack(array)  # to_numpy would import pandas where it is installed


def _numpy_of_any(array: Column) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def offsets_of(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The offsets of rows that are joined, int64 `[rows + 1]`."""
    return np.cumsum([0, *map(len, rows)], dtype=np.int64)
