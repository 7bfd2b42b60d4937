"""How many ids items are, and how messages name them."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from spear_tts_pytorch.data.items import dataset_lengths, id_of_item


def test_lengths_of_datasets():
    pairs = [(torch.zeros(3, dtype=torch.long), "abcd"), (torch.randn(700), torch.ones(2, dtype=torch.long))]
    assert dataset_lengths(pairs, samples_per_token=320).tolist() == [[3, 4], [3, 2]]
    assert dataset_lengths(Subset(pairs, [1]), 320).tolist() == [[3, 2]]
    assert dataset_lengths(ConcatDataset([pairs, Subset(pairs, [0])]), 320).tolist() == [[3, 4], [3, 2], [3, 4]]
    assert dataset_lengths([torch.zeros(5, dtype=torch.long)]).tolist() == [[5]]


def test_lengths_of_lists_and_arrays():
    assert dataset_lengths([[1, 2, 3], [4], (5, 6)]).tolist() == [[3], [1], [2]]
    assert dataset_lengths([([1, 2, 3],), [[4]]]).tolist() == [[3], [1]]
    assert dataset_lengths([([1, 2, 3], [4]), (np.arange(2), "abcd")]).tolist() == [[3, 1], [2, 4]]
    waves = [np.zeros(700, np.float32), torch.zeros(700), [0.5] * 700, list(np.zeros(700, np.float32))]
    assert dataset_lengths(waves, 320).tolist() == [[3]] * 4
    assert dataset_lengths([(wave, "ab") for wave in waves], 320).tolist() == [[3, 2]] * 4
    assert dataset_lengths([np.arange(700)], 320).tolist() == [[700]]


class Named(Dataset):
    def __init__(self, *items):
        self.items, self.ids = items, [f"clip{index}" for index in range(len(items))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_names_and_lengths_go_through_parts_and_joined_datasets():
    first, second = Named(torch.ones(3), torch.ones(4)), Named(torch.ones(5), torch.ones(6), None)
    joined = ConcatDataset([first, Subset(second, [2, 0])])
    assert [id_of_item(joined, index) for index in range(4)] == ["clip0", "clip1", "clip2", "clip0"]
    with pytest.raises(ValueError, match=r"item 4 of the dataset \('clip2'\) has no length"):
        dataset_lengths(joined)
    assert dataset_lengths(joined, skip=True).tolist() == [[3], [4], [1], [5]]
    assert id_of_item([1, 2], 0) is None


def test_items_that_have_no_length_are_named():
    wrong = {
        "None: leave the item out": ([1, 2], None),
        "a number, not a row": ([1, 2], 3),
        "has 1 parts, others have 2": ([1, 2],),
        "has no length": ([1, 2], {"text": "a"}),
    }
    for words, item in wrong.items():
        dataset = [([1], "a"), item, ([2], "b")]
        with pytest.raises(ValueError, match=f"item 1 of the dataset .*{words}"):
            dataset_lengths(dataset)
        assert dataset_lengths(dataset, skip=True)[[0, 2]].tolist() == [[1, 1], [1, 1]]
