"""Writes pairs of semantic and text ids to a folder of Parquet shards and a dataset.json.

In: semantic ids `[n]` and text ids `[m]`, one pair, many pairs or a table at a time. Out: shards that appear whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from spear_tts_pytorch.data.arrow import Table, arrow
from spear_tts_pytorch.data.id_columns import check_filled, check_id_columns
from spear_tts_pytorch.data.pairs.legacy import legacy_rows
from spear_tts_pytorch.data.pairs.shard_writer import Row, ShardWriter
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
    read_column,
    read_metadata,
    update_counts,
    write_metadata,
)
from spear_tts_pytorch.utils.files import clear_leftovers
from spear_tts_pytorch.utils.values import absolute_path, plain, shown, switch, unicode_text, whole_number

Ids = Tensor | Sequence[int] | np.ndarray


class PairWriter:
    """Writes pairs to shards `pairs-{rank:05d}-{n:06d}.parquet`; a context manager.

    New shards are numbered after the last one of the folder. Existing shards are never changed.

    Args:
        folder: made if it does not exist.
        num_semantic_token_ids, num_text_token_ids: K and V; each id is checked against them. None is unchecked.
        unique_consecutive: whether the semantic tokenizer removes repeats.
        model_hash, options, semantic_tokenizer: the origin of the pairs, kept in dataset.json: a hash of the model's weights,
            options of decoding, and the fingerprint of the tokenizer of speech.
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
        semantic_tokenizer: str | None = None,
        rank: int = 0,
        rows_per_shard: int = 10_000,
        bytes_per_shard: int | None = None,
    ):
        self.folder = absolute_path("folder", folder)
        self.rank = whole_number("rank", rank, 0)
        semantic, text = (
            None if number is None else whole_number(name, number, 1)
            for name, number in (
                ("num_semantic_token_ids", num_semantic_token_ids),
                ("num_text_token_ids", num_text_token_ids),
            )
        )
        if unique_consecutive is not None:
            unique_consecutive = switch("unique_consecutive", unique_consecutive, also=" or None")
        if model_hash is not None:
            model_hash = unicode_text("model_hash", model_hash, also=" or None")
        if semantic_tokenizer is not None:
            semantic_tokenizer = unicode_text("semantic_tokenizer", semantic_tokenizer, also=" or None")
        origin = model_hash, _checked_options(options), semantic_tokenizer
        described = describe(semantic, text, unique_consecutive, *origin)
        rows_per_shard = whole_number("rows_per_shard", rows_per_shard, 1)
        if bytes_per_shard is not None:
            bytes_per_shard = whole_number("bytes_per_shard", bytes_per_shard, 1)
        self.limits = id_limits(semantic, text)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards = ShardWriter(self.folder, self.rank, rows_per_shard, bytes_per_shard)
        if self.rank == 0:
            self._open(described)
        clear_leftovers(self.folder)

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
            TypeError, ValueError: ids out of range or of the wrong shape, a name or text that UTF-8 does not hold, a score
                that is no number. The pair is left out; those before it and after it are kept.
        """
        id = str(id)
        arrays = [
            np.copy(_array(ids, name, id)) for name, ids in zip(ID_COLUMNS, (semantic_ids, text_ids), strict=True)
        ]
        for name, array in zip(ID_COLUMNS, arrays, strict=True):
            low, high = self.limits[name]
            if array.size and (array.min() < low or (high is not None and array.max() >= high)):
                check_ids(pair_table(_columns([id], [arrays[0]], [arrays[1]], None, None, "")), self.limits)
        row: Row = (id, arrays[0], arrays[1], text, _score(score, id), source)
        check_words(row)
        self.shards.add(row)

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
        try:
            "".join([*ids, *(text for text in columns["text"] if text is not None), source]).encode()
        except (TypeError, UnicodeEncodeError):
            for row in zip(*columns.values(), strict=True):
                check_words(cast(Row, row))
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
        check_id_columns(table, ID_COLUMNS)
        check_filled(table, ["id"])
        try:
            table = table.select(list(COLUMNS)).cast(pair_schema())
        except arrow().ArrowException as error:
            raise ValueError(
                f"the table holds no pairs ({error}): it must have the types of {pair_schema()}"
            ) from error
        check_ids(table, self.limits)
        self.shards.write(table)

    def flush(self) -> None:
        """Writes the pending pairs as a shard."""
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


def check_words(row: Row) -> None:
    """Raises TypeError or ValueError for a name, text or source of a pair that a shard cannot hold."""
    for name, value in (("id", row[0]), ("text", row[3]), ("source", row[5])):
        if value is not None or name != "text":
            unicode_text(f"{name} of the pair {row[0]!r}", value)


def _checked_options(options: object) -> dict[str, Any]:
    """Options that dataset.json can hold."""
    try:
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"got {shown(options)}")
        found = dict(cast("Mapping[str, Any]", {} if options is None else options))
        json.dumps(found, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"options must have names and values that JSON can hold ({error})") from error
    return found


def _score(score: object, id: str) -> float | None:
    number = plain(score)
    if number is not None and (not isinstance(number, (int, float)) or isinstance(number, bool)):
        raise TypeError(f"score of the pair {id!r} must be a number or None, got {shown(score)}")
    return None if number is None else float(number)


def _array(ids: Ids, name: str, id: str) -> np.ndarray:
    """Ids as int32 `[n]`; raises ValueError if they are of another shape or kind."""
    try:
        array = np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} of the pair {id!r} must be integers [n] ({error})") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} of the pair {id!r} must be integers [n], got {array.dtype} {list(array.shape)}")
    if array.size and array.dtype.itemsize >= 4 and array.dtype != np.int32:
        far = array.max() if array.max() >= 2**31 else array.min()
        if not -(2**31) <= far < 2**31:
            raise ValueError(f"{name} of the pair {id!r} holds {far}, but ids must be at least 0 and below {2**31}")
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
    if scores is not None and not (isinstance(scores, np.ndarray) and scores.dtype.kind == "f"):
        scores = [_score(score, id) for score, id in zip(scores, ids, strict=True)]
    columns: list[Sequence[Any]] = [ids, semantic_ids, text_ids, none if texts is None else texts]
    columns += [none if scores is None else cast("Sequence[Any]", scores), [source] * len(ids)]
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
