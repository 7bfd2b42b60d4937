"""Padding and end-of-sequence, on batches small enough to read, and on generated rows against plain lists."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spear_tts_pytorch import tokens


def test_append_eos_stands_behind_the_last_real_id_and_only_once():
    ids = torch.tensor([[3, 4, -1, -1], [5, 6, 7, 8], [1, 9, -1, -1], [-1, -1, -1, -1]])
    expected = [[3, 4, 9, -1, -1], [5, 6, 7, 8, 9], [1, 9, -1, -1, -1], [9, -1, -1, -1, -1]]
    assert tokens.append_eos(ids, eos_id=9, pad_id=-1).tolist() == expected


def test_an_id_equal_to_the_other_modalitys_padding_is_real():
    assert tokens.append_eos(torch.tensor([[5, 0, 0]]), eos_id=9, pad_id=-1).tolist() == [[5, 0, 0, 9]]


def test_mask_after_eos_and_strip():
    ids = torch.tensor([[3, 9, 4, 9], [1, 2, 3, 4]])
    assert tokens.mask_after_eos(ids, 9, -1).tolist() == [[3, 9, -1, -1], [1, 2, 3, 4]]
    assert tokens.strip(torch.tensor([3, 4, 9, 5]), pad_id=-1, eos_id=9).tolist() == [3, 4]
    assert tokens.strip(torch.tensor([3, -1, -1]), pad_id=-1, eos_id=9).tolist() == [3]


def test_pad_sequences_and_lengths():
    batch = tokens.pad_sequences([torch.tensor([1, 2]), torch.tensor([], dtype=torch.long)], pad_id=-1)
    assert batch.tolist() == [[1, 2], [-1, -1]]
    assert tokens.lengths_of(batch, -1).tolist() == [2, 0]
    assert tokens.mask_from_lengths(torch.tensor([2, 0]), 2).tolist() == [[True, True], [False, False]]
    with pytest.raises(ValueError, match="at least one row"):
        tokens.pad_sequences([], 0)


def test_remove_repeats_keeps_durations():
    ids, durations = tokens.remove_repeats(torch.tensor([4, 4, 4, 1, 4, 4]))
    assert ids.tolist() == [4, 1, 4] and durations.tolist() == [3, 1, 2]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_every_integer_dtype_is_accepted(dtype):
    assert tokens.check_ids(torch.tensor([[1, 2]], dtype=dtype), name="x", num_ids=5, pad_id=0).dtype == torch.long


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (torch.tensor([[0, 5]]), ValueError, "holds the id 5.*0 to 4"),
        (torch.tensor([[0, -2]]), ValueError, "holds the id -2"),
        (torch.tensor([[0.5]]), TypeError, "integer tensor"),
        (torch.tensor([1, 2]), ValueError, r"\[batch, length\]"),
        (torch.empty(0, 3, dtype=torch.long), ValueError, "at least one row"),
        ([1, 2], TypeError, "got list"),
    ],
)
def test_bad_ids_are_named(ids, error, words):
    with pytest.raises(error, match=words):
        tokens.check_ids(ids, name="x", num_ids=5, pad_id=-1)


EOS, PAD = 4, -1
ROWS = st.lists(st.lists(st.sampled_from([PAD, 0, 1, 2, 3, EOS]), max_size=7), min_size=1, max_size=4)


def rectangle(rows):
    """Rows filled up with padding to the length of the longest."""
    n = max(map(len, rows))
    return [row + [PAD] * (n - len(row)) for row in rows]


def tensor(rows):
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)


@given(ROWS)
def test_append_eos_is_what_a_list_would_do(rows):
    wanted = []
    for row in rectangle(rows):
        content = row[: max((i + 1 for i, token in enumerate(row) if token != PAD), default=0)]
        content = content if content[-1:] == [EOS] else [*content, EOS]
        wanted.append(content + [PAD] * (len(row) + 1 - len(content)))
    assert tokens.append_eos(tensor(rectangle(rows)), EOS, PAD).tolist() == wanted


@given(ROWS)
def test_mask_after_eos_is_what_a_list_would_do(rows):
    wanted = []
    for row in rectangle(rows):
        end = row.index(EOS) + 1 if EOS in row else len(row)
        wanted.append(row[:end] + [PAD] * (len(row) - end))
    assert tokens.mask_after_eos(tensor(rectangle(rows)), EOS, PAD).tolist() == wanted


@given(ROWS, st.sampled_from([EOS, None]))
def test_strip_is_what_a_list_would_do(rows, eos):
    for row in rows:
        wanted = [token for token in itertools.takewhile(lambda token: token != eos, row) if token != PAD]
        assert tokens.strip(torch.tensor(row, dtype=torch.int32), PAD, eos).tolist() == wanted


@given(ROWS)
def test_pad_sequences_lengths_and_masks_are_what_lists_would_be(rows):
    rows = [[token for token in row if token != PAD] for row in rows]
    batch = tokens.pad_sequences([torch.tensor(row, dtype=torch.int16) for row in rows], PAD)
    n = max(1, max(map(len, rows)))
    assert batch.dtype == torch.long and batch.tolist() == [row + [PAD] * (n - len(row)) for row in rows]
    lengths = tokens.lengths_of(batch, PAD)
    assert lengths.tolist() == list(map(len, rows))
    assert torch.equal(tokens.mask_from_lengths(lengths, n), tokens.valid_mask(batch, PAD))
    assert [tokens.strip(row, PAD, None).tolist() for row in batch] == rows


@given(st.lists(st.integers(0, 3), max_size=12))
def test_remove_repeats_is_a_run_length_code(row):
    ids, durations = tokens.remove_repeats(torch.tensor(row, dtype=torch.long))
    runs = [(key, len(list(group))) for key, group in itertools.groupby(row)]
    assert list(zip(ids.tolist(), durations.tolist(), strict=True)) == runs


@given(ROWS, st.booleans(), st.booleans())
def test_check_ids_accepts_exactly_the_rows_that_are_allowed(rows, empty_rows, right_padded):
    ids = rectangle(rows)
    hole = any(a == PAD != b for row in ids for a, b in itertools.pairwise(row))
    outside = any(token == EOS for row in ids for token in row)
    empty = any(all(token == PAD for token in row) for row in ids)
    allowed = not outside and not (hole and right_padded) and not (empty and not empty_rows)
    options = dict(name="x", num_ids=EOS, pad_id=PAD, empty_rows=empty_rows, right_padded=right_padded)
    if allowed:
        assert tokens.check_ids(tensor(ids), **options).tolist() == ids
    else:
        with pytest.raises(ValueError, match="x (holds the id 4|has padding|has a row)"):
            tokens.check_ids(tensor(ids), **options)
