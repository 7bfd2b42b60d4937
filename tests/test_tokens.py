"""Padding and end-of-sequence, on batches small enough to read."""

import pytest
import torch

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
