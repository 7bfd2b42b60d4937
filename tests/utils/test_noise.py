"""Noise of rows: uniform, independent, and the same whatever batch a row is in."""

import torch

from spear_tts_pytorch.objectives import deletion_mask
from spear_tts_pytorch.utils.noise import row_keys, row_uniform


def test_numbers_belong_to_rows():
    keys = row_keys(torch.arange(10), 42, 3)
    numbers = row_uniform(keys, 50)
    assert torch.equal(row_uniform(keys[4:7], 20), numbers[4:7, :20])
    assert torch.equal(row_uniform(keys.flip(0), 50), numbers.flip(0))
    valid = torch.arange(50) < torch.arange(5, 55, 5)[:, None]
    deleted = deletion_mask(valid, 0.6, keys)
    for row, length in enumerate(range(5, 55, 5)):
        alone = deletion_mask(torch.ones(1, length, dtype=torch.bool), 0.6, keys[row : row + 1])
        assert torch.equal(alone[0], deleted[row, :length])


def test_numbers_are_uniform_and_differ_by_row_place_context_and_purpose():
    """Each bound is five standard deviations or more away: a false alarm in a million."""
    contexts = [(0, 0), (0, 1), (1, 0), (42, 7)]
    numbers = torch.stack(
        [row_uniform(row_keys(torch.arange(200), *context), 500, p) for context in contexts for p in (0, 1)]
    )
    assert numbers.min() >= 0 and numbers.max() < 1
    shares = torch.histc(numbers, 10, 0, 1) / numbers.numel()
    assert (shares - 0.1).abs().max() < 5 * (0.09 / numbers.numel()) ** 0.5
    for dim in range(3):  # of neighbours in any direction
        first, second = (
            part.flatten()
            for part in (numbers.narrow(dim, 0, numbers.shape[dim] - 1), numbers.narrow(dim, 1, numbers.shape[dim] - 1))
        )
        assert torch.corrcoef(torch.stack((first, second)))[0, 1].abs() < 5 / len(first) ** 0.5
    assert len(numbers.double().sum(dim=-1).unique()) == numbers[..., 0].numel()
