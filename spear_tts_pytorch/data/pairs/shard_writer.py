"""Cuts pairs into shards and writes them. An interruption at any point loses no pair and writes none twice.

In: rows of the columns of a shard, one at a time, or tables of them. Out: shards that appear whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spear_tts_pytorch.data.arrow import Table, arrow, parquet_bytes
from spear_tts_pytorch.data.pairs.shards import (
    COLUMNS,
    ID_COLUMNS,
    list_shards,
    pair_table,
    ragged,
    shard_name,
    shard_numbers,
)
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.values import whole_number

MOST_LOOSE = 2**30  # bytes of ids in rows that are not in a table: a table holds less than twice as many
Row = tuple[str, np.ndarray, np.ndarray, "str | None", "float | None", str]
"""A pair in the order of `COLUMNS`; ids are int32 `[n]`."""


@dataclass(frozen=True)
class _Held:
    """Pairs that are not on disk, in their order: shards, tables, rows. One assignment replaces them all.

    Attributes:
        number: of the next shard.
        shards: complete shards.
        tables: the beginning of the next shard.
        rows, bytes: pairs in `tables`, and bytes of their ids.
        loose: rows after `tables`.
    """

    number: int
    shards: tuple[Table, ...] = ()
    tables: tuple[Table, ...] = ()
    rows: int = 0
    bytes: int = 0
    loose: list[Row] = field(default_factory=list[Row])


def write_shard(path: Path, data: bytes) -> None:
    """Writes the bytes of a shard, which appears whole.

    Raises:
        FileExistsError: the shard exists.
        OSError: it could not be written; the message names the folder.
    """
    try:
        write_whole(path, data, replace=False)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}; {path.name} was not written to {path.parent}. Earlier shards there are complete: make room "
            "(or choose another folder) and start again",
        ) from error


def shard_bytes(table: Table) -> Any:
    """The bytes of a shard, for a table of pairs. Equal tables give equal bytes."""
    return parquet_bytes(table, "zstd")


class ShardWriter:
    """Cuts pairs into shards of a folder. It checks no ids and does not write dataset.json.

    Args:
        folder: must exist.
        rank: number of this process.
        rows_per_shard: pairs after which a shard is complete.
        bytes_per_shard: bytes of ids, 4 for each id, after which a shard is complete; None sets no bound.

    Raises:
        TypeError, ValueError: a bound that is not a whole number of at least 1.
    """

    def __init__(self, folder: Path, rank: int = 0, rows_per_shard: int = 10_000, bytes_per_shard: int | None = None):
        self.folder, self.rank = folder, rank
        self.rows_per_shard = whole_number("rows_per_shard", rows_per_shard, 1)
        self.bytes_per_shard = None if bytes_per_shard is None else whole_number("bytes_per_shard", bytes_per_shard, 1)
        own = [number for r, number in map(shard_numbers, list_shards(folder)) if r == rank]
        self._held: _Held = _Held(max(own, default=-1) + 1)
        self._loose_bytes = 0

    def _is_full(self, rows: int, bytes: int) -> bool:
        """Whether this many pairs, or bytes of ids, make a shard."""
        return rows >= self.rows_per_shard or (self.bytes_per_shard is not None and bytes >= self.bytes_per_shard)

    def add(self, row: Row) -> None:
        """Adds a pair. It is on disk when its shard is written; if that fails, it is held for the next attempt."""
        held = self._held
        held.loose.append(row)
        self._loose_bytes += row[1].nbytes + row[2].nbytes
        if self._loose_bytes >= MOST_LOOSE or self._is_full(
            held.rows + len(held.loose), held.bytes + self._loose_bytes
        ):
            self._cut()
            self._write_shards()

    def write(self, table: Table) -> None:
        """Adds the pairs of a table, as `add`."""
        self._cut(table)
        self._write_shards()

    def flush(self) -> None:
        """Writes the pairs that are held as shards; if that fails, they stay held."""
        self._cut()
        held = self._held
        if held.tables:
            whole = arrow().concat_tables(held.tables)
            self._held = replace(held, shards=(*held.shards, whole), tables=(), rows=0, bytes=0)
        self._write_shards()

    def _cut(self, *tables: Table) -> None:
        """Cuts shards off the loose rows and the tables, which come after them."""
        held = self._held
        if held.loose:
            tables = (pair_table(dict(zip(COLUMNS, zip(*held.loose, strict=True), strict=True))), *tables)
        shards, rest, rows, bytes = list(held.shards), list(held.tables), held.rows, held.bytes
        for table, size in self._parts(tables, rows, bytes):
            rest.append(table)
            rows, bytes = rows + len(table), bytes + size
            if self._is_full(rows, bytes):
                shards.append(arrow().concat_tables(rest))
                rest, rows, bytes = [], 0, 0
        self._held = _Held(held.number, tuple(shards), tuple(rest), rows, bytes)
        self._loose_bytes = 0

    def _parts(self, tables: Iterable[Table], rows: int, bytes: int) -> Iterable[tuple[Table, int]]:
        """Parts of tables and their bytes of ids: no shard ends within a part. Before them stand `rows` and `bytes`."""
        for table in tables:
            (_, semantic), (_, text) = (ragged(table.column(name)) for name in ID_COLUMNS)
            ends = 4 * (semantic + text)  # bytes of ids before each row, int64 `[rows + 1]`
            start = 0
            while start < len(table):
                stop = min(len(table), start + max(1, self.rows_per_shard - rows))
                if self.bytes_per_shard is not None:  # up to the row that reaches the bound
                    reached = int(np.searchsorted(ends, int(ends[start]) + self.bytes_per_shard - bytes))
                    stop = min(stop, max(start + 1, reached))
                size = int(ends[stop] - ends[start])
                yield table.slice(start, stop - start), size
                rows, bytes, start = rows + stop - start, bytes + size, stop
                if self._is_full(rows, bytes):
                    rows, bytes = 0, 0

    def _write_shards(self) -> None:
        """Writes the complete shards. A shard that an interrupted call has written is known by its contents."""
        while self._held.shards:
            held = self._held
            data = shard_bytes(held.shards[0])
            path = self.folder / shard_name(self.rank, held.number)
            try:
                write_shard(path, data)
            except FileExistsError:
                if path.read_bytes() != data:  # another writer took this number: try the next
                    self._held = replace(held, number=held.number + 1)
                    continue
            self._held = replace(held, number=held.number + 1, shards=held.shards[1:])
