"""Pairs of a shard, ready for random access: in memory, or decoded once to a file that is mapped into memory.

Parquet is compressed, so that one row cannot be read alone. Shards are therefore decoded to Arrow files in a hidden folder
`.decoded-1/` beside them, when a pair of theirs is first read. Such a file bears the size and time of its shard in its
name: another shard makes another file. Processes may decode at once, each puts a whole file in place. Knows nothing of
datasets.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import LongTensor

from spear_tts_pytorch.data.pairs.shards import ID_COLUMNS, check_ids, pair_schema, ragged, read_shard
from spear_tts_pytorch.utils.files import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

CACHE_NAME = ".decoded-1"


class Part:
    """Some pairs of a folder.

    Attributes:
        batch: the columns of a shard; ids may be narrower.
        lengths: ids of each pair, int64 `[pairs, 2]`: semantic, text.
    """

    def __init__(self, batch: pa.RecordBatch):
        self.batch = batch
        self._ids = {name: ragged(batch.column(name)) for name in ID_COLUMNS}

    def value(self, name: str, row: int) -> LongTensor | str | float | None:
        """What a column holds for a pair."""
        if name in self._ids:
            values, offsets = self._ids[name]
            return torch.from_numpy(values[offsets[row] : offsets[row + 1]].astype(np.int64))
        return self.batch.column(name)[row].as_py()

    @property
    def lengths(self) -> np.ndarray:
        return np.stack([np.diff(offsets) for _, offsets in self._ids.values()], axis=1)


def decode(table: pa.Table) -> pa.RecordBatch:
    """A table of pairs in one piece, its ids in 16 bits where they fit."""
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if field.name in ID_COLUMNS:
            values, _ = ragged(table.column(field.name))
            if not values.size or values.max() < 2**16:
                narrow = table.column(field.name).cast(pa.list_(pa.uint16()))
                table = table.set_column(index, field.name, narrow)
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=pair_schema())


def read_part(shard: Path, limits: Mapping[str, tuple[int, int | None]], caches: Sequence[Path]) -> Part:
    """The pairs of a shard, mapped from the first of the folders `caches` that has or takes them; in memory without any.

    Raises:
        ValueError: the shard cannot be read, or holds ids out of range.
        OSError: none of the folders can be written to.
    """
    name = _name(shard)
    for folder in caches:
        batch = _mapped(folder / name)
        if batch is not None:
            return Part(batch)
    table = read_shard(shard)
    check_ids(table, limits, f" in {shard}")
    batch = decode(table)
    if not caches:
        return Part(batch)
    return Part(_store(batch, name, shard, caches))


def cache_folders(folder: Path, chosen: str | Path | None = None) -> list[Path]:
    """Where decoded shards of a folder go: beside them, or to the user's cache if that folder cannot be written to.

    A folder that was chosen instead may serve many folders of pairs.
    """
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    if chosen is not None:
        return [Path(chosen) / digest]
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [folder / CACHE_NAME, Path(root) / "spear-tts-pytorch" / digest]


def remove_stale(shards: Sequence[Path], caches: Sequence[Path]) -> None:
    """Removes what was decoded of shards that have changed or are gone."""
    names = {_name(shard) for shard in shards}
    for folder in caches:
        with contextlib.suppress(OSError):
            for path in folder.glob("pairs-*.arrow"):
                if path.name not in names:
                    path.unlink(missing_ok=True)


def _name(shard: Path) -> str:
    state = shard.stat()
    return f"{shard.stem}.{state.st_size:x}-{state.st_mtime_ns:x}.arrow"


def _store(batch: pa.RecordBatch, name: str, shard: Path, caches: Sequence[Path]) -> pa.RecordBatch:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data, problems = sink.getvalue(), []
    for folder in caches:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, data)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        return _mapped(folder / name) or batch
    raise OSError(
        f"{shard} cannot be decoded for reading at random, {len(data) >> 20} MiB ({'; '.join(problems)}): make room, or "
        "pass a cache_folder that can be written to"
    )


def _mapped(path: Path) -> Any:
    """The pairs of an Arrow file, mapped; None if there is no such file or it is broken."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:  # the mapping outlives the file, which would be one open for each shard
            return pa.ipc.open_file(file).get_batch(0)
    except (OSError, pa.ArrowException):
        return None
