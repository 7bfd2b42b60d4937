"""The format of a folder of tokenized speech: Parquet shards `speech-{number}.parquet` of clips and their ids.

In: rows, one for each clip. Out: shards that appear whole, and checked tables of their columns `id`, `semantic_ids`, `text`,
`speaker` and `seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spear_tts_pytorch.data.arrow import Schema, Table, arrow, footer_of, parquet, parquet_bytes, source_of
from spear_tts_pytorch.data.id_columns import check_filled, check_id_columns
from spear_tts_pytorch.utils.files import write_whole

# a killed process loses at most so many clips, or the clips of this time
CLIPS_PER_WRITE, SECONDS_PER_WRITE = 1000, 60.0
IDS_PER_SHARD = 2**24  # 93 hours at 50 ids a second
Row = tuple[str, "np.ndarray | None", "str | None", "str | None", float, str]
"""Id, semantic ids int32 `[n]` (None for a clip that cannot be used), text, speaker, seconds, and the reason for None."""


def speech_schema() -> Schema:
    """Names and types of the columns of a shard."""
    pa = arrow()
    types = (pa.string(), pa.list_(pa.int32()), pa.string(), pa.string(), pa.float64())
    return pa.schema(list(zip(("id", "semantic_ids", "text", "speaker", "seconds"), types, strict=True)))


def speech_shards(folder: Path) -> list[Path]:
    """The shards of a folder, sorted by number."""
    return sorted(folder.glob("speech-[0-9]*.parquet"))


def read_speech(folder: Path, columns: Sequence[str]) -> Table:
    """Columns of all shards of a folder, of the types of `speech_schema`.

    Raises:
        ValueError: a shard cannot be read, or holds null or numbers that are not ids; the message names file, row and
            column.
    """
    return arrow().concat_tables([_read_shard(path, columns) for path in speech_shards(folder)])


def _read_shard(path: Path, columns: Sequence[str]) -> Table:
    pa = arrow()
    try:
        footer_of(path)
        table = parquet().read_table(source_of(path), columns=list(columns)).select(list(columns))
        check_id_columns(table, [name for name in columns if name == "semantic_ids"], lowest=0)
        check_filled(table, [name for name in columns if name in ("id", "seconds")])
        table = table.cast(pa.schema([speech_schema().field(name) for name in columns]))
        if "seconds" in columns:
            _check_seconds(np.asarray(table["seconds"], dtype=np.float64))
        return table
    except PermissionError:
        raise
    except (ValueError, pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is a shard that cannot be read ({reason}): remove it and tokenize again") from error


def _check_seconds(seconds: np.ndarray) -> None:
    wrong = np.flatnonzero(~(np.isfinite(seconds) & (seconds >= 0)))
    if wrong.size:
        raise ValueError(f"row {wrong[0]} (from 0) of the column 'seconds' holds {seconds[wrong[0]]}")


class SpeechWriter:
    """Collects rows and writes them to shards. The last shard is written again as it grows, so that little is ever lost.

    Args:
        folder: must exist. New shards are numbered after those that are there.
        rows_per_shard: clips after which a shard is complete.
    """

    def __init__(self, folder: Path, rows_per_shard: int):
        self.folder, self.rows_per_shard = folder, rows_per_shard
        self.number = max((int(path.stem.rpartition("-")[2]) + 1 for path in speech_shards(folder)), default=0)
        self._rows: list[Row] = []  # of the shard in work
        self._ids, self._written, self._last = 0, 0, time.monotonic()

    def add(self, row: Row) -> None:
        """Adds a clip with ids."""
        if row[1] is None:
            raise ValueError(f"the clip {row[0]!r} has no ids")
        self._rows.append(row)
        self._ids += len(row[1])
        if len(self._rows) >= self.rows_per_shard or self._ids >= IDS_PER_SHARD:
            self.flush()
            self._rows, self._ids, self._written, self.number = [], 0, 0, self.number + 1
        elif len(self._rows) - self._written >= CLIPS_PER_WRITE:
            self.flush()

    def write_if_due(self) -> None:
        """Writes the rows that wait if a minute has passed since the last write."""
        if time.monotonic() - self._last >= SECONDS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that wait."""
        if len(self._rows) > self._written:
            _write(self.folder / f"speech-{self.number:06d}.parquet", self._rows)
            self._written = len(self._rows)
        self._last = time.monotonic()


def _write(path: Path, rows: list[Row]) -> None:
    ids, semantic_ids, texts, speakers, seconds, _ = zip(*rows, strict=True)
    columns = (ids, list(semantic_ids), texts, speakers, seconds)
    pa = arrow()
    arrays = [pa.array(column, field.type) for column, field in zip(columns, speech_schema(), strict=True)]
    write_whole(path, parquet_bytes(pa.table(arrays, schema=speech_schema())))
