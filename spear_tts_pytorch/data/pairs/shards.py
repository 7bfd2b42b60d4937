"""What a folder of pairs consists of: Parquet shards `pairs-{rank:05d}-{n:06d}.parquet` and a dataset.json.

In: paths, tables. Out: columns, tables of the documented types, ids as flat arrays, descriptions.
Knows nothing of models, audio, datasets or how pairs come about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

DATASET_NAME = "dataset.json"
FORMAT_VERSION = 1
SPEECH_PAD_ID, TEXT_PAD_ID = -1, 0
SOURCE_GENERATED = "generated"
SOURCE_TRUNCATED = "generated-truncated"  # generated text that reached its maximal length before it had ended
ID_COLUMNS = ("semantic_ids", "text_ids")
COLUMNS = ("id", *ID_COLUMNS, "text", "score", "source")
_SHARD = re.compile(r"pairs-(\d{5,})-(\d{6,})\.parquet")

Ragged = tuple[np.ndarray, np.ndarray]
"""Rows of different lengths as values and offsets: row i is `values[offsets[i] : offsets[i + 1]]`."""


def pair_schema() -> pa.Schema:
    """Columns of a shard."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    types = (pa.string(), ids, ids, pa.string(), pa.float32(), pa.string())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


def pair_table(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Columns in the order of `COLUMNS` as a table; ids are int32 arrays `[n]`, one for each pair."""
    import pyarrow as pa

    def array(name: str) -> pa.Array:
        rows = columns[name]
        if name not in ID_COLUMNS:
            return pa.array(rows, pair_schema().field(name).type)
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        if offsets[-1] >= 2**31:
            raise ValueError(f"{name} are too many for one table, {offsets[-1]}: write fewer pairs at once")
        values = np.concatenate([np.empty(0, np.int32), *rows])
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, pa.int32()))

    return pa.table([array(name) for name in COLUMNS], schema=pair_schema())


def shard_name(rank: int, number: int) -> str:
    return f"pairs-{rank:05d}-{number:06d}.parquet"


def shard_numbers(path: Path) -> tuple[int, int]:
    """Rank and number of a shard."""
    return tuple(map(int, _SHARD.fullmatch(path.name).groups()))


def list_shards(folder: str | Path) -> list[Path]:
    """The complete shards of a folder, by rank and number."""
    return sorted((path for path in Path(folder).iterdir() if _SHARD.fullmatch(path.name)), key=shard_numbers)


def _unreadable(shard: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{shard} is not a readable shard of pairs ({' '.join(str(error).split())}): remove it and let the generator "
        "make it anew, or read the others by on_error='skip'"
    )


def read_footer(shard: Path) -> pq.FileMetaData:
    """What a shard says of itself at its end: rows, values of each column.

    Raises:
        ValueError: the file is not a readable shard of pairs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(shard)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(shard, error) from error


def read_shard(shard: Path, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """Columns of a shard, with the types of `pair_schema`, also where other tools wrote wider ones.

    Raises:
        ValueError: the file is not a readable shard of pairs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(shard, memory_map=True).read(columns=list(columns)).select(list(columns))
        return table.cast(pa.schema([pair_schema().field(name) for name in columns]))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _unreadable(shard, error) from error


def read_column(shard: Path, name: str) -> pa.ChunkedArray:
    """One column of a shard; for errors see `read_shard`."""
    return read_shard(shard, [name]).column(name)


def _numpy(array: pa.Array) -> np.ndarray:
    if array.null_count:
        return array.to_numpy(zero_copy_only=False)
    return np.from_dlpack(array)  # to_numpy would import pandas where it is installed


def ragged(column: pa.ChunkedArray | pa.ListArray) -> Ragged:
    """A column of ids as values and offsets, int64 `[rows + 1]`; without copying the values if it is one piece."""
    chunks = getattr(column, "chunks", [column])
    values = [_numpy(chunk.flatten()) for chunk in chunks]
    lengths = [np.diff(_numpy(chunk.offsets)) for chunk in chunks]
    offsets = np.concatenate([[0], *lengths]).astype(np.int64).cumsum()
    return values[0] if len(values) == 1 else np.concatenate([np.empty(0, np.int32), *values]), offsets


def id_limits(num_semantic_token_ids: int | None, num_text_token_ids: int | None) -> dict[str, tuple[int, int | None]]:
    """The lowest id of each column of ids, and one more than the highest, None where it is not known."""
    return {"semantic_ids": (0, num_semantic_token_ids), "text_ids": (1, num_text_token_ids)}


def check_ids(table: pa.Table, limits: Mapping[str, tuple[int, int | None]], place: str = "") -> None:
    """Raises ValueError, naming `place` and the pair, if ids are out of range or missing."""
    for name, (low, high) in limits.items():
        values, offsets = ragged(table.column(name))
        if not values.size or (values.dtype.kind in "iu" and low <= values.min() and values.max() < (high or 2**31)):
            continue
        wrong = ~((values >= low) & (values < (high or 2**31)))
        first = int(wrong.argmax())
        row = int(np.searchsorted(offsets, first, side="right")) - 1
        top = " or more" if high is None else f" to {high - 1}"
        raise ValueError(
            f"{name} of the pair {table.column('id')[row].as_py()!r}{place} holds {values[first]}, ids are {low}{top}: "
            "leave out padding and end-of-sequence, and give semantic ids first, text ids second"
        )


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """The contents of dataset.json, {} where there is none.

    Raises:
        ValueError: it is not JSON, or was written by a later version of the format.
    """
    path = Path(folder) / DATASET_NAME
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version = metadata["format_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a folder of pairs ({error!r}): restore or remove it") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has the format {version}, this version reads up to {FORMAT_VERSION}: upgrade the package"
        )
    return metadata


def write_metadata(folder: str | Path, metadata: Mapping[str, Any]) -> None:
    """Writes dataset.json."""
    write_whole(Path(folder) / DATASET_NAME, (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode())


def update_counts(folder: str | Path) -> dict[str, Any]:
    """Counts pairs and shards anew from the shards' footers, writes them to dataset.json and returns its contents."""
    metadata, shards = read_metadata(folder), list_shards(folder)
    metadata["counts"] = {"pairs": sum(read_footer(path).num_rows for path in shards), "shards": len(shards)}
    write_metadata(folder, metadata)
    return metadata


def describe(
    num_semantic_token_ids: int | None = None,
    num_text_token_ids: int | None = None,
    unique_consecutive: bool | None = None,
    model_hash: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Contents of a dataset.json; None is for what is not known."""
    return {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "num_semantic_token_ids": num_semantic_token_ids,
        "num_text_token_ids": num_text_token_ids,
        "pad_id": {"speech": SPEECH_PAD_ID, "text": TEXT_PAD_ID},
        "unique_consecutive": unique_consecutive,
        "model_hash": model_hash,
        "options": dict(options or {}),
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any], but: Iterable[str] = ()) -> str | None:
    """How two dataset.json describe different data, in words; None if they agree.

    Counts and versions do not matter, nor what `but` names.
    """
    ignored = {"counts", "library_version", "format_version", "options", *but}
    keys = [key for key in new if key not in ignored]
    found = [f"{key} is {old.get(key)!r} there and {new[key]!r} here" for key in keys if old.get(key) != new[key]]
    there, here = old.get("options") or {}, new.get("options") or {}
    for key in sorted({*there, *here}) if "options" not in but else ():
        if there.get(key) != here.get(key):
            found.append(f"the option {key} is {there.get(key)!r} there and {here.get(key)!r} here")
    return "; ".join(found) or None
