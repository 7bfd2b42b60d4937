"""Positions on the speech timeline."""

import torch

from spear_tts_pytorch.model.embedding import add_sinusoids, diagonal_prior, timeline
from spear_tts_pytorch.nn.rotary import sinusoids


def test_timeline_follows_each_rows_own_start():
    device = torch.device("cpu")
    assert timeline([4, 4], 2, 2.5, device).tolist() == [[10.0, 12.5]]
    assert timeline([0, 2], 2, 1.0, device).tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_prior_is_highest_where_positions_agree_and_never_below_its_floor():
    target, source = torch.tensor([[0.0, 30.0]]), torch.arange(0, 300, 3.0)[None]
    prior = diagonal_prior(target, source)
    assert prior.shape == (1, 2, 100) and prior.argmax(dim=-1).tolist() == [[0, 10]]
    assert prior.max() == 0 and prior.min() == -8
    by_hand = -((30 - 24) ** 2) / (2 * (5 + 0.1 * 30) ** 2)
    assert abs(prior[0, 1, 8].item() - by_hand) < 1e-6


def test_text_and_speech_at_the_same_time_get_the_same_sinusoids():
    zeros = torch.zeros(1, 3, 16)
    text = add_sinusoids(zeros, timeline([0], 3, 2.0, zeros.device))
    speech = add_sinusoids(torch.zeros(1, 5, 16), timeline([0], 5, 1.0, zeros.device))
    torch.testing.assert_close(text, speech[:, ::2])
    assert not torch.allclose(text[0, 1], text[0, 2])
    torch.testing.assert_close(sinusoids(torch.tensor([0.0]), 4), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
