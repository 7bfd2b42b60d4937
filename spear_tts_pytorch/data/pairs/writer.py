"""Writes pairs of semantic and text ids to a folder of Parquet shards and a dataset.json.

In: ids, one pair, many or a table at a time. Out: files that are there whole or not at all.
Knows nothing of models, audio or how pairs come about.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

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

if TYPE_CHECKING:
    import pyarrow as pa

Ids = Tensor | Sequence[int] | np.ndarray


def write_shard(path: Path, table: pa.Table) -> None:
    """Writes a table as a shard, whole or not at all.

    Raises:
        FileExistsError: there is such a shard.
        OSError: it could not be written; the message names the folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    try:
        write_whole(path, sink.getvalue(), replace=False)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}; {path.name} was not written to {path.parent}. Earlier shards there are whole and stay: "
            "make room (or choose another folder) and go on",
        ) from error


class ShardWriter:
    """Cuts tables of pairs into shards of a folder. It does not look at what is in them, nor at dataset.json.

    Args:
        folder: must exist.
        rank: number of this process.
        rows_per_shard: pairs after which a shard is complete.
        bytes_per_shard: or bytes of ids, 4 each, before compression; None is without bound. A pair is never cut.
    """

    def __init__(self, folder: Path, rank: int = 0, rows_per_shard: int = 10_000, bytes_per_shard: int | None = None):
        for name, value in (("rows_per_shard", rows_per_shard), ("bytes_per_shard", bytes_per_shard)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.folder, self.rank = folder, rank
        self.rows_per_shard, self.bytes_per_shard = rows_per_shard, bytes_per_shard
        own = [number for r, number in map(shard_numbers, list_shards(folder)) if r == rank]
        self.next_shard = max(own, default=-1) + 1
        self.pending: list[pa.Table] = []
        self.rows = self.bytes = 0

    def is_full(self, rows: int, bytes: int) -> bool:
        """Whether so many pairs and bytes of ids make a shard."""
        return rows >= self.rows_per_shard or (self.bytes_per_shard is not None and bytes >= self.bytes_per_shard)

    def write(self, table: pa.Table) -> None:
        """Adds pairs. They are on disk once their shard is, and held back if that fails."""
        ends = 4 * sum(ragged(table.column(name))[1] for name in ID_COLUMNS)  # bytes of ids before each row
        start = 0
        try:
            while start < len(table):
                stop = min(len(table), start + max(1, self.rows_per_shard - self.rows))
                if self.bytes_per_shard is not None:  # the last row reaches the bound
                    reached = np.searchsorted(ends, ends[start] + self.bytes_per_shard - self.bytes)
                    stop = min(stop, max(start + 1, int(reached)))
                self._hold(table.slice(start, stop - start), int(ends[stop] - ends[start]))
                start = stop
                if self.is_full(self.rows, self.bytes):
                    self.flush()
        except OSError:
            self._hold(table.slice(start), int(ends[-1] - ends[start]))
            raise

    def _hold(self, table: pa.Table, bytes: int) -> None:
        self.pending.append(table)
        self.rows, self.bytes = self.rows + len(table), self.bytes + bytes

    def flush(self) -> None:
        """Writes the pairs held back as a shard; they stay held back where that fails."""
        if self.pending:
            import pyarrow as pa

            table, written = pa.concat_tables(self.pending), False
            while not written:
                with contextlib.suppress(FileExistsError):  # another writer of this rank was quicker: the next number
                    write_shard(self.folder / shard_name(self.rank, self.next_shard), table)
                    written = True
                self.next_shard += 1
            self.pending, self.rows, self.bytes = [], 0, 0


class PairWriter:
    """Writes pairs to shards `pairs-{rank:05d}-{n:06d}.parquet`; a context manager.

    Writing to a folder goes on after its last shard; what stands there is never touched.

    Args:
        folder: made if it does not exist.
        num_semantic_token_ids, num_text_token_ids: K and V; ids written are checked against them.
        unique_consecutive: whether the tokenizer removes repeats.
        model_hash, options: where the pairs come from; kept in dataset.json.
        rank: number of this process; each process writes shards of its own, the one of rank 0 also dataset.json.
        rows_per_shard, bytes_per_shard: pairs, or bytes of ids before compression, after which a shard is complete.

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
        for path in self.folder.glob(f".pairs-{rank:05d}-*.tmp"):  # halves that killed writers of this rank left
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)
        self._clear()

    def _open(self, description: dict[str, Any]) -> None:
        shards = list_shards(self.folder)
        old = read_metadata(self.folder) if shards else {}  # a description of nothing binds nobody
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
        """Adds a pair of ids `[n]` and `[m]`, without padding and end-of-sequence. It is on disk once its shard is.

        Raises:
            ValueError: ids out of range or of the wrong shape.
        """
        score = None if score is None else float(score)
        arrays = [_array(ids, name, id).copy() for name, ids in zip(ID_COLUMNS, (semantic_ids, text_ids), strict=True)]
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
        """Adds many pairs at once, which is quicker than one by one; for the rest see `write`."""
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

    def write_table(self, table: pa.Table) -> None:
        """Adds a table with the columns of a shard (`pair_files.pair_schema`), as pyarrow reads it from anywhere.

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
        if self._rows["id"]:
            table = pair_table(self._rows)
            self._clear()
            self.shards.write(table)

    def flush(self) -> None:
        """Writes the pairs held back as a shard of their own."""
        self._hand_over()
        self.shards.flush()

    def close(self) -> None:
        self.flush()
        if self.rank == 0:
            update_counts(self.folder)

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()  # pairs that are complete are kept, whatever happened after them


def _array(ids: Ids, name: str, id: str) -> np.ndarray:
    array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} of the pair {id!r} must be integers [n], got {array.dtype} {list(array.shape)}")
    if array.size and array.dtype.itemsize >= 4 and array.dtype != np.int32 and array.max() >= 2**31:
        raise ValueError(f"{name} of the pair {id!r} holds {array.max()}, ids are less than {2**31}")
    return array.astype(np.int32, copy=False)


def _columns(
    ids: list[str],
    semantic_ids: list[np.ndarray],
    text_ids: list[np.ndarray],
    texts: Sequence[str | None] | None,
    scores: Sequence[float | None] | np.ndarray | None,
    source: str,
) -> dict[str, Sequence[Any]]:
    none = [None] * len(ids)
    texts, scores = none if texts is None else texts, none if scores is None else scores
    return dict(zip(COLUMNS, (ids, semantic_ids, text_ids, texts, scores, [source] * len(ids)), strict=True))


def write_pairs(
    folder: str | Path,
    pairs: Iterable[tuple[Ids, Ids]],
    *,
    ids: Iterable[str] | None = None,
    texts: Iterable[str | None] | None = None,
    source: str = "real",
    **metadata: Any,
) -> None:
    """Writes `(semantic ids [n], text ids [m])` pairs to a folder, a real parallel set for example.

    Args:
        ids: names of the pairs; without them they are numbered.
        metadata: for `PairWriter`.

    Raises:
        ValueError: an id that comes twice, here or in the folder; fewer ids or texts than pairs.
    """
    texts = None if texts is None else iter(texts)
    with PairWriter(folder, **metadata) as writer:
        seen = {name for shard in list_shards(folder) for name in read_column(shard, "id").to_pylist()}
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
    try:
        return next(values)
    except StopIteration:
        raise ValueError(f"{name} has fewer entries than there are pairs: give one for each") from None
