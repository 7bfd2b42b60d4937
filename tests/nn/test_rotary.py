"""Rotations of pairs, and sinusoids, against angles computed by hand."""

import math

import pytest
import torch

from spear_tts_pytorch.nn.rotary import RotaryEmbedding, rotate, sinusoids


def test_rotary_turns_pairs_and_scores_depend_on_distance_only():
    rotary = RotaryEmbedding(4)
    x = torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]])
    turned = rotate(x, rotary(torch.tensor([3])))[0, 0, 0]
    angles = torch.tensor([3.0, 3.0 / 100.0])
    torch.testing.assert_close(turned, torch.stack((angles.cos(), angles.sin()), dim=-1).flatten())
    q, k = torch.randn(2, 1, 1, 1, 4)
    near = rotate(q, rotary(torch.tensor([5]))) @ rotate(k, rotary(torch.tensor([2]))).mT
    far = rotate(q, rotary(torch.tensor([105]))) @ rotate(k, rotary(torch.tensor([102]))).mT
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_positions_of_each_row_are_those_of_the_row_alone():
    rotary, x = RotaryEmbedding(6), torch.randn(2, 3, 4, 6)
    positions = torch.tensor([[0, 1, 2, 3], [7, 9, 8, 40]])
    together = rotate(x, rotary(positions))
    for row in (0, 1):
        torch.testing.assert_close(together[row : row + 1], rotate(x[row : row + 1], rotary(positions[row])))


def test_a_rounded_model_keeps_exact_angles():
    positions = torch.tensor([999, 1000])
    cos, sin = RotaryEmbedding(4).bfloat16()(positions)
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos[:, 0], positions.double().cos().float(), atol=1e-6, rtol=0)


def test_strided_inputs_and_dtypes_are_kept():
    rotation = RotaryEmbedding(4)(torch.arange(3))
    x = torch.randn(1, 2, 4, 3).transpose(-1, -2)
    torch.testing.assert_close(rotate(x, rotation), rotate(x.contiguous(), rotation))
    assert rotate(x.bfloat16(), rotation).dtype == torch.bfloat16


@pytest.mark.parametrize("dim", [1, 4, 5])
def test_sinusoids_are_sines_then_cosines_of_falling_frequencies(dim):
    half = (dim + 1) // 2
    for position in (0.0, 1.0, 2.5):
        angles = [position * 10_000 ** (-i / half) for i in range(half)]
        wanted = ([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])[:dim]
        torch.testing.assert_close(sinusoids(torch.tensor([position]), dim)[0], torch.tensor(wanted))
