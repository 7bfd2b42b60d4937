"""Columns of ids: more than 2**31 of them, and what is refused in them."""

import mmap

import numpy as np
import pyarrow as pa
import pytest

from spear_tts_pytorch.data.id_columns import IdRows, check_id_columns, ragged

ROWS, LAST = 9, 5


def endless():
    """A column of 2**31 + 2**28 ids: nine pieces that share one buffer, of which the system keeps one page in memory."""
    size = 2**28
    buffer = mmap.mmap(-1, 4 * size)  # zeros, which take no memory until they are written
    np.frombuffer(buffer, np.int32)[-LAST:] = range(1, LAST + 1)
    values = pa.Array.from_buffers(pa.int32(), size, [None, pa.py_buffer(buffer)])
    piece = pa.ListArray.from_arrays(pa.array([0, size - LAST, size], pa.int32()), values)
    return pa.chunked_array([piece] * ROWS)


def test_rows_beyond_two_to_the_31_ids():
    rows = IdRows(endless())
    assert rows.total == ROWS * 2**28 > 2**31 and len(rows) == 2 * ROWS
    assert rows.lengths.dtype == np.int64 and rows.lengths.tolist() == [2**28 - LAST, LAST] * ROWS
    for index in (1, 2 * ROWS - 1):
        assert rows[index].tolist() == [1, 2, 3, 4, 5] and rows[index].dtype == np.int64
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):  # what one piece cannot hold
        endless().combine_chunks()


def test_rows_are_those_of_the_column():
    pieces = [[[1, 2], []], [], [[3]]]
    column = pa.chunked_array([pa.array(piece, pa.list_(pa.int32())) for piece in pieces])
    assert [IdRows(column)[index].tolist() for index in range(3)] == [[1, 2], [], [3]]
    values, offsets = ragged(column)
    assert values.tolist() == [1, 2, 3] and offsets.tolist() == [0, 2, 2, 3]
    sliced = column.slice(1)
    assert len(IdRows(sliced)) == 2 and IdRows(sliced)[1].tolist() == [3]


def test_the_row_of_a_fault_counts_through_the_pieces():
    column = pa.chunked_array([pa.array([[1], [2]]), pa.array([[3], [4, -1]])])
    check_id_columns(pa.table({"ids": column}), ["ids"], lowest=-1)
    with pytest.raises(ValueError, match=r"row 3 \(from 0\) of the column 'ids' holds -1, .* from 0 to 2147483647"):
        check_id_columns(pa.table({"ids": column}), ["ids"], lowest=0)
