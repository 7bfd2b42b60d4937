"""Writes pairs of semantic and text ids to a folder of Parquet shards and a dataset.json.

In: semantic ids `[n]` and text ids `[m]`, one pair, many pairs or a table at a time. Out: shards that appear whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from spear_tts_pytorch.data.arrow import Table, arrow, parquet_bytes
from spear_tts_pytorch.data.pairs.legacy import legacy_rows
from spear_tts_pytorch.data.pairs.shards import (
    COLUMNS,
    DATASET_NAME,
    ID_COLUMNS,
    SOURCE_GENERATED,
    check_ids,
    describe,
    difference,
    id_limits,
    list_shards,
    pair_schema,
    pair_table,
    ragged,
    read_column,
    read_metadata,
    shard_name,
    shard_numbers,
    update_counts,
    write_metadata,
)
from spear_tts_pytorch.utils.files import write_whole

Ids = Tensor | Sequence[int] | np.ndarray


def write_shard(path: Path, table: Table) -> None:
    """Writes a table as a shard, which appears whole.

    Raises:
        FileExistsError: the shard exists.
        OSError: it could not be written; the message names the folder.
    """
    try:
        write_whole(path, parquet_bytes(table, "zstd"), replace=False)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}; {path.name} was not written to {path.parent}. Earlier shards there are complete: make room "
            "(or choose another folder) and start again",
        ) from error


class ShardWriter:
    """Cuts tables of pairs into shards of a folder. It checks no ids and does not write dataset.json.

    Args:
        folder: must exist.
        rank: number of this process.
        rows_per_shard: pairs after which a shard is complete.
        bytes_per_shard: bytes of ids, 4 for each id, after which a shard is complete; None sets no bound.
    """

    def __init__(self, folder: Path, rank: int = 0, rows_per_shard: int = 10_000, bytes_per_shard: int | None = None):
        for name, value in (("rows_per_shard", rows_per_shard), ("bytes_per_shard", bytes_per_shard)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.folder, self.rank = folder, rank
        self.rows_per_shard, self.bytes_per_shard = rows_per_shard, bytes_per_shard
        own = [number for r, number in map(shard_numbers, list_shards(folder)) if r == rank]
        self.next_shard = max(own, default=-1) + 1
        self.pending: list[Table] = []  # tables of the next shard, not yet written
        self.rows = 0  # pairs in them
        self.bytes = 0  # bytes of ids in them

    def is_full(self, rows: int, bytes: int) -> bool:
        """Whether this many pairs, or bytes of ids, make a shard."""
        return rows >= self.rows_per_shard or (self.bytes_per_shard is not None and bytes >= self.bytes_per_shard)

    def write(self, table: Table) -> None:
        """Adds pairs. They are on disk when their shard is written; if that fails, they stay pending."""
        (_, semantic), (_, text) = (ragged(table.column(name)) for name in ID_COLUMNS)
        ends = 4 * (semantic + text)  # bytes of ids before each row, int64 `[rows + 1]`
        start = 0
        try:
            while start < len(table):
                stop = min(len(table), start + max(1, self.rows_per_shard - self.rows))
                if self.bytes_per_shard is not None:  # up to the row that reaches the bound
                    reached = int(np.searchsorted(ends, int(ends[start]) + self.bytes_per_shard - self.bytes))
                    stop = min(stop, max(start + 1, reached))
                self._hold(table.slice(start, stop - start), int(ends[stop] - ends[start]))
                start = stop
                if self.is_full(self.rows, self.bytes):
                    self.flush()
        except OSError:
            self._hold(table.slice(start), int(ends[-1] - ends[start]))
            raise

    def _hold(self, table: Table, bytes: int) -> None:
        self.pending.append(table)
        self.rows, self.bytes = self.rows + len(table), self.bytes + bytes

    def flush(self) -> None:
        """Writes the pending pairs as a shard; if that fails, they stay pending."""
        if self.pending:
            table, written = arrow().concat_tables(self.pending), False
            while not written:
                with contextlib.suppress(FileExistsError):  # another writer took this number: try the next
                    write_shard(self.folder / shard_name(self.rank, self.next_shard), table)
                    written = True
                self.next_shard += 1
            self.pending, self.rows, self.bytes = [], 0, 0


class PairWriter:
    """Writes pairs to shards `pairs-{rank:05d}-{n:06d}.parquet`; a context manager.

    New shards are numbered after the last one of the folder. Existing shards are never changed.

    Args:
        folder: made if it does not exist.
        num_semantic_token_ids, num_text_token_ids: K and V; each id is checked against them. None is unchecked.
        unique_consecutive: whether the semantic tokenizer removes repeats.
        model_hash, options: the origin of the pairs, kept in dataset.json.
        rank: number of this process. Each process writes shards of its own; rank 0 also writes dataset.json.
        rows_per_shard: pairs after which a shard is complete.
        bytes_per_shard: bytes of ids, 4 for each id, after which a shard is complete; None sets no bound.

    Raises:
        ValueError: the folder holds pairs of another description, or files that are not pairs of this format.
        OSError: it cannot be written to.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_semantic_token_ids: int | None = None,
        num_text_token_ids: int | None = None,
        unique_consecutive: bool | None = None,
        model_hash: str | None = None,
        options: Mapping[str, Any] | None = None,
        rank: int = 0,
        rows_per_shard: int = 10_000,
        bytes_per_shard: int | None = None,
    ):
        self.folder, self.rank = Path(folder), rank
        self.limits = id_limits(num_semantic_token_ids, num_text_token_ids)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards = ShardWriter(self.folder, rank, rows_per_shard, bytes_per_shard)
        if rank == 0:
            self._open(describe(num_semantic_token_ids, num_text_token_ids, unique_consecutive, model_hash, options))
        for path in self.folder.glob(f".pairs-{rank:05d}-*.tmp"):  # left by killed writers of this rank
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)
        self._clear()

    def _open(self, description: dict[str, Any]) -> None:
        shards = list_shards(self.folder)
        old = read_metadata(self.folder) if shards else {}  # without shards, an old dataset.json is ignored
        if not old and (shards or legacy_rows(self.folder)):
            raise ValueError(f"{self.folder} holds pairs without a {DATASET_NAME}: write to another folder")
        different = difference(old, description) if old else None
        if different is not None:
            raise ValueError(f"{self.folder} holds pairs of another kind ({different}): write to another folder")
        if not old:
            write_metadata(self.folder, {**description, "counts": {"pairs": 0, "shards": 0}})

    def _clear(self) -> None:
        self._rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._bytes = 0

    def write(
        self,
        id: str,
        semantic_ids: Ids,
        text_ids: Ids,
        *,
        text: str | None = None,
        score: float | None = None,
        source: str = SOURCE_GENERATED,
    ) -> None:
        """Adds a pair. It is on disk when its shard is written.

        Args:
            id: name of the pair.
            semantic_ids: integers `[n]`, without padding and end-of-sequence.
            text_ids: integers `[m]`, without padding and end-of-sequence.
            text: the text itself, if known.
            score: higher is surer; None if unknown.
            source: origin of the pair, such as "generated" or "real".

        Raises:
            ValueError: ids out of range or of the wrong shape.
        """
        score = None if score is None else float(score)
        arrays: list[np.ndarray] = []
        for name, ids in zip(ID_COLUMNS, (semantic_ids, text_ids), strict=True):
            arrays.append(np.copy(_array(ids, name, id)))
        for name, array in zip(ID_COLUMNS, arrays, strict=True):
            low, high = self.limits[name]
            if array.size and (array.min() < low or (high is not None and array.max() >= high)):
                check_ids(pair_table(_columns([id], [arrays[0]], [arrays[1]], None, None, source)), self.limits)
        for name, value in zip(COLUMNS, (str(id), *arrays, text, score, source), strict=True):
            self._rows[name].append(value)
        self._bytes += sum(array.nbytes for array in arrays)
        rows = len(self._rows["id"])
        if self.shards.is_full(self.shards.rows + rows, self.shards.bytes + self._bytes):
            self._hand_over()

    def write_many(
        self,
        ids: Sequence[str],
        semantic_ids: Sequence[Ids],
        text_ids: Sequence[Ids],
        *,
        texts: Sequence[str | None] | None = None,
        scores: Sequence[float | None] | np.ndarray | None = None,
        source: str = SOURCE_GENERATED,
    ) -> None:
        """Adds many pairs at once, which is faster than `write`; arguments are lists, errors as `write`."""
        ids = list(map(str, ids))
        columns = _columns(
            ids,
            [_array(row, "semantic_ids", id) for id, row in zip(ids, semantic_ids, strict=True)],
            [_array(row, "text_ids", id) for id, row in zip(ids, text_ids, strict=True)],
            texts,
            scores,
            source,
        )
        self.write_table(pair_table(columns))

    def write_table(self, table: Table) -> None:
        """Adds a pyarrow table with the columns of a shard (`shards.pair_schema`).

        Raises:
            ValueError: ids out of range, columns missing or of other types.
        """
        missing = set(COLUMNS) - set(table.column_names)
        if missing:
            raise ValueError(
                f"the table has no column {sorted(missing)[0]!r}: a table of pairs has {', '.join(COLUMNS)}"
            )
        table = table.select(list(COLUMNS)).cast(pair_schema())
        check_ids(table, self.limits)
        self._hand_over()
        self.shards.write(table)

    def _hand_over(self) -> None:
        """Gives the collected pairs to the shards."""
        if self._rows["id"]:
            table = pair_table(self._rows)
            self._clear()
            self.shards.write(table)

    def flush(self) -> None:
        """Writes the pending pairs as a shard."""
        self._hand_over()
        self.shards.flush()

    def close(self) -> None:
        """Writes the pending pairs as a shard, and the counts into dataset.json."""
        self.flush()
        if self.rank == 0:
            update_counts(self.folder)

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()  # also after an exception: the pairs written before it are kept


def _array(ids: Ids, name: str, id: str) -> np.ndarray:
    """Ids as int32 `[n]`; raises ValueError if they are of another shape or kind."""
    array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} of the pair {id!r} must be integers [n], got {array.dtype} {list(array.shape)}")
    if array.size and array.dtype.itemsize >= 4 and array.dtype != np.int32 and array.max() >= 2**31:
        raise ValueError(f"{name} of the pair {id!r} holds {array.max()}, but ids must be below {2**31}")
    return array.astype(np.int32, copy=False)


def _columns(
    ids: list[str],
    semantic_ids: list[np.ndarray],
    text_ids: list[np.ndarray],
    texts: Sequence[str | None] | None,
    scores: Sequence[float | None] | np.ndarray | None,
    source: str,
) -> dict[str, Sequence[Any]]:
    """The columns of a shard by name."""
    none = [None] * len(ids)
    texts, scores = none if texts is None else texts, none if scores is None else scores
    columns = (ids, semantic_ids, text_ids, texts, cast("Sequence[Any]", scores), [source] * len(ids))
    return dict(zip(COLUMNS, columns, strict=True))


def write_pairs(
    folder: str | Path,
    pairs: Iterable[tuple[Ids, Ids]],
    *,
    ids: Iterable[str] | None = None,
    texts: Iterable[str | None] | None = None,
    source: str = "real",
    **metadata: Any,
) -> None:
    """Writes `(semantic ids [n], text ids [m])` pairs to a folder, for example a real parallel set.

    Args:
        pairs: ids without padding and end-of-sequence.
        ids: names of the pairs; numbers if None.
        texts: the texts themselves, if known.
        source: origin of the pairs.
        metadata: further arguments of `PairWriter`.

    Raises:
        ValueError: an id that comes twice, here or in the folder; fewer ids or texts than pairs.
    """
    texts = None if texts is None else iter(texts)
    with PairWriter(folder, **metadata) as writer:
        seen: set[str] = {name for shard in list_shards(folder) for name in read_column(shard, "id").to_pylist()}
        names = (str(len(seen)) for _ in iter(int, 1)) if ids is None else map(str, ids)
        for semantic_ids, text_ids in pairs:
            name = _next(names, "ids")
            if name in seen:
                raise ValueError(f"the id {name!r} comes twice in {folder}: give every pair an id of its own")
            seen.add(name)
            writer.write(
                name, semantic_ids, text_ids, text=None if texts is None else _next(texts, "texts"), source=source
            )


def _next(values: Iterator[Any], name: str) -> Any:
    """The next value; raises ValueError if there is none."""
    try:
        return next(values)
    except StopIteration:
        raise ValueError(f"{name} has fewer entries than there are pairs: give one for each") from None
