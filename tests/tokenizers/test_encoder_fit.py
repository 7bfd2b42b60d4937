"""Features that are drawn evenly into a file, and their statistics."""

import numpy as np
import pytest
import torch

from spear_tts_pytorch.tokenizers import encoder_fit


@pytest.mark.parametrize("most, step", [(1000, 1), (999, 2), (500, 2), (499, 4), (20, 64), (1, 1024)])
def test_rows_are_drawn_evenly(tmp_path, monkeypatch, most, step):
    monkeypatch.setattr(encoder_fit, "BLOCK", 16)
    rows, sizes = np.arange(2000, dtype=np.float32).reshape(1000, 2), [1, 7, 300, 0, 92, 600]
    drawn = encoder_fit._Drawn(tmp_path / "features", 2, most)
    for speaker, part in enumerate(np.split(rows, np.cumsum(sizes)[:-1])):
        drawn.add(part, speaker)
    found, owners = (np.concatenate(parts) for parts in zip(*drawn.blocks(), strict=True))
    drawn.file.close()
    assert np.array_equal(found, rows[::step]) and len(found) == drawn.kept <= most
    assert np.array_equal(owners, np.repeat(np.arange(len(sizes)), sizes)[::step])
    assert (tmp_path / "features").stat().st_size == found.nbytes


def test_statistics_are_those_of_all_rows():
    rows = torch.randn(1000, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.0]) + 100
    sums = encoder_fit._Sums()
    for part in rows.float().split(77):
        sums.add(part)
    mean, scale = sums.stats()
    torch.testing.assert_close(mean, rows.mean(dim=0).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(scale[:2], rows.std(dim=0, correction=0).float()[:2], atol=1e-3, rtol=0)
    assert scale[2] == 1  # what does not vary is not blown up
