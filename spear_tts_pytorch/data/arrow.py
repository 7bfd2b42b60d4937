"""pyarrow, imported when it is first used, and names for its types, for which it ships no stubs.

In: tables. Out: the bytes of Parquet files. The shards of pairs and of tokenized speech are written and read with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

Schema: TypeAlias = Any
"""`pyarrow.Schema`: names and types of columns."""
Table: TypeAlias = Any
"""`pyarrow.Table`: columns of one length, each perhaps in several pieces."""
Column: TypeAlias = Any
"""`pyarrow.ChunkedArray`, a column of a table, or `pyarrow.Array`, one piece of it."""
RecordBatch: TypeAlias = Any
"""`pyarrow.RecordBatch`: columns of one length, each in one piece."""
Footer: TypeAlias = Any
"""`pyarrow.parquet.FileMetaData`: the numbers at the end of a Parquet file."""


def arrow() -> Any:
    """The module `pyarrow`."""
    import pyarrow

    return pyarrow


def compute() -> Any:
    """The module `pyarrow.compute`."""
    import pyarrow.compute

    return pyarrow.compute


def parquet() -> Any:
    """The module `pyarrow.parquet`."""
    import pyarrow.parquet

    return pyarrow.parquet


def parquet_bytes(table: Table, compression: str = "snappy") -> Any:
    """A table as the contents of a Parquet file: a buffer of bytes."""
    sink = arrow().BufferOutputStream()
    parquet().write_table(table, sink, compression=compression)
    return sink.getvalue()


def source_of(path: Path) -> Any:
    """What Arrow reads a file from: its path, or the bytes of a file whose path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return arrow().BufferReader(path.read_bytes())
    return str(path)


def footer_of(path: Path) -> Footer:
    """The end of a Parquet file.

    Raises:
        ValueError: it is no file, or is far larger decoded than ids and texts make it.
        ArrowException, OSError: it is damaged, or cannot be read.
    """
    if not path.is_file():
        raise ValueError("it is no file")
    footer = parquet().read_metadata(source_of(path))
    _check_sizes(footer, path.stat().st_size)
    return footer


def _check_sizes(footer: Footer, size: int) -> None:
    """Raises ValueError if a Parquet file of `size` bytes is far larger decoded than ids and texts make it."""
    most = 2**24 + 64 * size
    for group in (footer.row_group(index) for index in range(footer.num_row_groups)):
        values = max((group.column(index).num_values for index in range(footer.num_columns)), default=0)
        most -= values
        if most < 0 or group.total_byte_size > 2**28 + 64 * size:
            raise ValueError(f"it holds far more values than {size} bytes of ids and texts do")
