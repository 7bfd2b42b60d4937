"""Random access to the pairs of a shard: decoded in memory, or decoded once to a file that is mapped into memory.

In: a shard. Out: a `Part`, its pairs by row number. Parquet is compressed, so a single row cannot be read from it. When a
pair of a shard is first read, the shard is decoded to an Arrow file in the hidden folder `.decoded-1/` beside it. The name
of this file holds a hash of the shard's contents, so a changed shard gets a new file. Several processes may decode at
once, because each file appears whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear_tts_pytorch.data.arrow import RecordBatch, Table, arrow, source_of
from spear_tts_pytorch.data.pairs.shards import ID_COLUMNS, check_ids, pair_schema, ragged, read_shard
from spear_tts_pytorch.utils.files import clear_leftovers, write_whole

CACHE_NAME = ".decoded-1"


class Part:
    """The decoded pairs of a shard.

    Attributes:
        batch: the columns of the shard; ids may have 16 bits.
        lengths: number of ids of each pair, int64 `[pairs, 2]`: semantic, text.
    """

    def __init__(self, batch: RecordBatch):
        self.batch = batch
        self._ids = {name: ragged(batch.column(name)) for name in ID_COLUMNS}

    def value(self, name: str, row: int) -> Tensor | str | float | None:
        """The value of a column for a pair; ids as int64 `[n]`."""
        if name in self._ids:
            values, offsets = self._ids[name]
            return torch.from_numpy(values[offsets[row] : offsets[row + 1]].astype(np.int64))
        return self.batch.column(name)[row].as_py()

    @property
    def lengths(self) -> np.ndarray:
        return np.stack([np.diff(offsets) for _, offsets in self._ids.values()], axis=1)


def decode(table: Table) -> RecordBatch:
    """A table of pairs in one piece, its ids in 16 bits if all of them fit."""
    pa = arrow()
    for index, field in enumerate(table.schema):
        if field.name in ID_COLUMNS:
            values, _ = ragged(table.column(field.name))
            if not values.size or values.max() < 2**16:
                narrow = table.column(field.name).cast(pa.list_(pa.uint16()))
                table = table.set_column(index, field.name, narrow)
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=pair_schema())


class Shards:
    """Reads shards, by way of decoded files.

    Args:
        limits: of the ids, as `id_limits` gives them.
        caches: folders of decoded shards. Pairs are mapped from the first that holds them, else written to the first that
            can be written to. Without any they are held in memory.
    """

    def __init__(self, limits: Mapping[str, tuple[int, int | None]], caches: Sequence[Path]):
        self.limits, self.caches = limits, caches
        self._names: dict[Path, str] = {}  # of the decoded files

    def read(self, shard: Path) -> Part:
        """The pairs of a shard. Its contents are hashed at the first call, so it must not change after that.

        Raises:
            ValueError: the shard cannot be read, or holds ids out of range.
            OSError: none of the folders can be written to.
        """
        name = self._name(shard) if self.caches else ""
        for folder in self.caches:
            batch = _mapped(folder / name)
            if batch is not None:
                return Part(batch)
        table = read_shard(shard)
        check_ids(table, self.limits, f" in {shard}")
        batch = decode(table)
        return Part(_store(batch, name, shard, self.caches) if self.caches else batch)

    def _name(self, shard: Path) -> str:
        """The name of a shard's decoded file: it tells all that the file was made from."""
        if shard not in self._names:
            digest = hashlib.blake2b(repr(sorted(self.limits.items())).encode(), digest_size=16)
            with open(shard, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
            self._names[shard] = f"{shard.stem}.{digest.hexdigest()}.arrow"
        return self._names[shard]


def cache_folders(folder: Path, chosen: str | Path | None = None) -> list[Path]:
    """The folders to try for decoded shards of `folder`: one beside the shards, then one in the user's cache.

    A `chosen` folder replaces both. It may serve many folders of pairs.
    """
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    if chosen is not None:
        return [Path(chosen) / digest]
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [folder / CACHE_NAME, Path(root).absolute() / "spear-tts-pytorch" / digest]


def remove_stale(shards: Sequence[Path], caches: Sequence[Path]) -> None:
    """Removes decoded files of shards that are gone."""
    stems = {shard.stem for shard in shards}
    for folder in caches:
        clear_leftovers(folder)
        with contextlib.suppress(OSError):
            for path in folder.glob("pairs-*.arrow"):
                if path.name.partition(".")[0] not in stems:
                    path.unlink(missing_ok=True)


def _store(batch: RecordBatch, name: str, shard: Path, caches: Sequence[Path]) -> RecordBatch:
    """Writes a decoded file into the first folder that takes it, in place of former ones, and maps it."""
    pa = arrow()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data, problems = sink.getvalue(), list[str]()
    for folder in caches:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, data)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
            continue
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{shard.stem}.*.arrow"):  # of the shard before it changed
                if path.name != name:
                    path.unlink(missing_ok=True)
        return _mapped(folder / name) or batch
    raise OSError(
        f"{shard} cannot be decoded to a file of {len(data) >> 20} MiB for random access ({'; '.join(problems)}): make "
        "room, or pass a cache_folder that can be written to"
    )


def _mapped(path: Path) -> RecordBatch | None:
    """The pairs of an Arrow file, mapped into memory; None if there is no such file or it is broken."""
    pa = arrow()
    try:
        source = source_of(path)
        if not isinstance(source, str):
            return pa.ipc.open_file(source).get_batch(0)
        with pa.memory_map(source) as file:  # closed, so that no file stays open for each shard; the mapping stays
            return pa.ipc.open_file(file).get_batch(0)
    except (OSError, pa.ArrowException):
        return None
