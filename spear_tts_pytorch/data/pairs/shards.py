"""The format of a folder of pairs: Parquet shards `pairs-{rank:05d}-{n:06d}.parquet` and a dataset.json.

In: paths, tables. Out: tables of the documented types, ids as flat arrays, the description in dataset.json.
The files beside this one write and read such folders.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spear_tts_pytorch.data.arrow import Column, Footer, Schema, Table, arrow, footer_of, parquet, source_of
from spear_tts_pytorch.data.id_columns import check_filled, check_id_columns, offsets_of, ragged
from spear_tts_pytorch.tokens import SPEECH_PAD_ID, TEXT_PAD_ID
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import field, read_object
from spear_tts_pytorch.utils.values import given_path
from spear_tts_pytorch.version import __version__

DATASET_NAME = "dataset.json"
FORMAT_VERSION = 1
SOURCE_GENERATED = "generated"
SOURCE_TRUNCATED = "generated-truncated"  # generated text that was cut at its maximal length
ID_COLUMNS = ("semantic_ids", "text_ids")
COLUMNS = ("id", *ID_COLUMNS, "text", "score", "source")
_SHARD = re.compile(r"pairs-(\d{5,})-(\d{6,})\.parquet")


def pair_schema() -> Schema:
    """Names and types of the columns of a shard."""
    pa = arrow()
    ids = pa.list_(pa.int32())
    types = (pa.string(), ids, ids, pa.string(), pa.float32(), pa.string())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


def pair_table(columns: Mapping[str, Sequence[Any]]) -> Table:
    """Columns by name as a table. A column of ids is a list of int32 arrays `[n]`, one for each pair."""
    pa = arrow()

    def array(name: str) -> Column:
        rows = columns[name]
        if name not in ID_COLUMNS:
            return pa.array(rows, pair_schema().field(name).type)
        offsets = offsets_of(rows)
        if offsets[-1] >= 2**31:
            raise ValueError(f"one table cannot hold {offsets[-1]} {name}: write fewer pairs at once")
        values = np.concatenate([np.empty(0, np.int32), *rows])
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, pa.int32()))

    return pa.table([array(name) for name in COLUMNS], schema=pair_schema())


def shard_name(rank: int, number: int) -> str:
    """The file name of a shard."""
    return f"pairs-{rank:05d}-{number:06d}.parquet"


def shard_numbers(path: Path) -> tuple[int, int]:
    """Rank and number of a shard, from its name.

    Raises:
        ValueError: the name is not that of a shard.
    """
    found = _SHARD.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not named like a shard, pairs-00000-000000.parquet")
    return int(found[1]), int(found[2])


def list_shards(folder: str | Path) -> list[Path]:
    """The shards of a folder, sorted by rank and number."""
    files = given_path("folder", folder).iterdir()
    return sorted((path for path in files if _SHARD.fullmatch(path.name)), key=shard_numbers)


def _unreadable(shard: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{shard} is not a readable shard of pairs ({' '.join(str(error).split())}): remove it and run the generator "
        "again, or read the other shards with on_error='skip'"
    )


def read_footer(shard: Path) -> Footer:
    """Reads the end of a shard: its numbers of rows and of values in each column.

    Raises:
        ValueError: the file is not a readable shard of pairs.
    """
    try:
        return footer_of(shard)
    except PermissionError:
        raise
    except (ValueError, arrow().ArrowException, OSError) as error:
        raise _unreadable(shard, error) from error


def read_shard(shard: Path, columns: Sequence[str] = COLUMNS) -> Table:
    """Reads columns of a shard and casts them to the types of `pair_schema`: other tools may write wider types.

    Raises:
        ValueError: the file is not a readable shard of pairs.
    """
    pa = arrow()
    try:
        footer_of(shard)
        table = (
            parquet().ParquetFile(source_of(shard), memory_map=True).read(columns=list(columns)).select(list(columns))
        )
        check_id_columns(table, [name for name in columns if name in ID_COLUMNS])
        check_filled(table, [name for name in columns if name == "id"])
        table = table.cast(pa.schema([pair_schema().field(name) for name in columns]))
        table.validate(full=True)  # texts may hold bytes that are not UTF-8
        return table
    except PermissionError:
        raise
    except (ValueError, pa.ArrowException, OSError, KeyError) as error:
        raise _unreadable(shard, error) from error


def read_column(shard: Path, name: str) -> Column:
    """Reads one column of a shard; for errors see `read_shard`."""
    return read_shard(shard, [name]).column(name)


def id_limits(num_semantic_token_ids: int | None, num_text_token_ids: int | None) -> dict[str, tuple[int, int | None]]:
    """For each column of ids the lowest id, and the highest plus one or None if it is unknown."""
    return {"semantic_ids": (0, num_semantic_token_ids), "text_ids": (1, num_text_token_ids)}


def check_ids(table: Table, limits: Mapping[str, tuple[int, int | None]], place: str = "") -> None:
    """Raises ValueError if ids are out of range or missing. The message names the pair and `place`, such as " in FILE"."""
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
    """Reads dataset.json; {} if there is none.

    Raises:
        ValueError: it is not JSON, or was written by a later version of the format.
    """
    path = given_path("folder", folder) / DATASET_NAME
    if not os.path.lexists(path):
        return {}
    what, remedy = "the description of a folder of pairs", "restore or remove it"
    metadata = read_object(path, what, remedy)
    try:
        version = field(metadata, "format_version", int)
        if version < 1:
            raise ValueError(f"format_version must be at least 1, got {version}")
        if version <= FORMAT_VERSION:
            _check_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{path} is not {what} ({error}): {remedy}") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has the format {version}, this version reads up to {FORMAT_VERSION}: upgrade the package"
        )
    return metadata


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    """Checks the fields of a dataset.json; raises ValueError."""
    none = type(None)
    for name in ("num_semantic_token_ids", "num_text_token_ids"):
        number = field(metadata, name, (int, none), None)
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name in ("model_hash", "semantic_tokenizer"):
        field(metadata, name, (str, none), None)
    for name, kinds in (("unique_consecutive", (bool, none)), ("library_version", str)):
        field(metadata, name, kinds, None)
    for name in ("pad_id", "options", "counts"):
        field(metadata, name, dict, None)


def write_metadata(folder: str | Path, metadata: Mapping[str, Any]) -> None:
    """Writes dataset.json."""
    write_whole(Path(folder) / DATASET_NAME, (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode())


def update_counts(folder: str | Path) -> dict[str, Any]:
    """Counts pairs and shards, writes both numbers to dataset.json and returns its contents."""
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
    semantic_tokenizer: str | None = None,
) -> dict[str, Any]:
    """Contents of a dataset.json; None stands for an unknown value."""
    return {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "num_semantic_token_ids": num_semantic_token_ids,
        "num_text_token_ids": num_text_token_ids,
        "pad_id": {"speech": SPEECH_PAD_ID, "text": TEXT_PAD_ID},
        "unique_consecutive": unique_consecutive,
        "model_hash": model_hash,
        "options": dict(options or {}),
        "semantic_tokenizer": semantic_tokenizer,
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any], but: Iterable[str] = ()) -> str | None:
    """The differences between two contents of dataset.json, in words; None if they agree.

    Counts and versions are not compared, nor the keys in `but`, nor semantic tokenizers of which one is unknown.
    """
    ignored = {"counts", "library_version", "format_version", "options", *but}
    if old.get("semantic_tokenizer") is None or new.get("semantic_tokenizer") is None:
        ignored.add("semantic_tokenizer")
    keys = [key for key in new if key not in ignored]
    found = [f"{key} is {old.get(key)!r} there and {new[key]!r} here" for key in keys if old.get(key) != new[key]]
    there: dict[str, Any] = old.get("options") or {}
    here: dict[str, Any] = new.get("options") or {}
    for key in sorted({*there, *here}) if "options" not in but else ():
        if there.get(key) != here.get(key):
            found.append(f"the option {key} is {there.get(key)!r} there and {here.get(key)!r} here")
    return "; ".join(found) or None
