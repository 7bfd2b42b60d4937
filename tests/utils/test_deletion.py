"""Deletion: how many ids go, which ones, in what order the others stay, and that batch mates do not matter."""

import pytest
import torch

from spear_tts_pytorch.objectives import Corruption
from spear_tts_pytorch.tokens import pad_sequences, valid_mask
from spear_tts_pytorch.utils.deletion import deletion_mask, drop_ids, take
from spear_tts_pytorch.utils.noise import row_keys


def speech(*lengths, seed=1):
    ids = torch.randint(0, 20, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], -1)


def take_by_rows(ids, mask, pad_id):
    """What `take` says it does, one row after the other."""
    return pad_sequences([row[keep] for row, keep in zip(ids, mask, strict=True)], pad_id)


@pytest.mark.parametrize("probability", [0.1, 0.6, 0.99])
def test_deletion_counts_real_ids_of_each_row_and_leaves_one(probability):
    valid = valid_mask(speech(10, 4, 1), -1)
    for seed in range(20):
        torch.manual_seed(seed)
        deleted = deletion_mask(valid, probability)
        assert not (deleted & ~valid).any()
        wanted = [min(-int(-n * probability // 1), n - 1) for n in (10, 4, 1)]
        assert deleted.sum(dim=-1).tolist() == wanted


def test_every_id_is_deleted_equally_often():
    torch.manual_seed(0)
    valid = torch.ones(4000, 5, dtype=torch.bool)
    share = deletion_mask(valid, 0.6).float().mean(dim=0)
    # standard error 0.0077: off by 0.04 once in five million
    assert (share - 0.6).abs().max() < 0.04


def test_take_keeps_the_order():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]])
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert take(ids, mask, -1).tolist() == [[1, 3, 4], [6, -1, -1]]


def test_take_is_what_rows_give_one_by_one():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        rows, length = (int(torch.randint(1, 9, (), generator=generator)) for _ in range(2))
        ids = torch.randint(0, 20, (rows, length), generator=generator)
        mask = torch.rand(rows, length, generator=generator) < torch.rand((), generator=generator)
        found, wanted = take(ids, mask, -1), take_by_rows(ids, mask, -1)
        assert found.dtype == torch.long and torch.equal(found, wanted)


@pytest.mark.parametrize("options", [{}, {"reconstruct_seq": True}, {"reconstruct_seq": True, "mask_id": 3}], ids=str)
def test_a_row_is_corrupted_alike_in_any_batch(options):
    lengths = (10, 4, 1, 7)
    ids, keys, corrupt = speech(*lengths), row_keys(torch.arange(4), 5), Corruption(-1, **options)
    source, target = corrupt(ids, keys)
    for row, length in enumerate(lengths):
        alone = corrupt(ids[row : row + 1, :length], keys[row : row + 1])
        for batch, one in zip((source, target), alone, strict=True):
            assert batch[row][batch[row] != -1].tolist() == one[0][one[0] != -1].tolist()
    deleted = deletion_mask(valid_mask(ids, -1), 0.6, keys)
    assert torch.equal(target, ids if options else take_by_rows(ids, deleted, -1))
    if "mask_id" in options:
        assert torch.equal(source, torch.where(deleted, 3, ids))
    else:
        assert torch.equal(source, take_by_rows(ids, valid_mask(ids, -1) & ~deleted, -1))
        assert source.shape[1] == 4  # no wider than the longest row that is left


def test_dropped_ids_leave_at_least_the_first():
    ids, keys = speech(10, 4, 1), row_keys(torch.arange(3), 5)
    kept = drop_ids(ids, 0.5, -1, keys)
    assert 1 < kept.shape[1] < 10 and kept[2].tolist()[0] == ids[2, 0]
    nearly_all = drop_ids(ids, 1 - 1e-9, -1, keys)
    assert torch.equal(nearly_all, ids[:, :1])
    assert torch.equal(drop_ids(ids, 0.0, -1, keys), ids)


@pytest.mark.parametrize(
    "options, words", [({"deletion_prob": 1.0}, "deletion_prob must be"), ({"mask_id": 3}, "needs")]
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Corruption(-1, **options)
