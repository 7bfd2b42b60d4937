"""Fast dropout drops the right share, scales the rest, and passes gradients where it kept."""

import pytest
import torch

from spear_tts_pytorch.nn.dropout import Dropout, dropout_by_words


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_the_share_and_the_mean_are_right_at_each_place_of_a_word(p):
    torch.manual_seed(0)
    out = dropout_by_words(torch.ones(100_000, 4), p)
    shares = (out == 0).float().mean(dim=0)  # the four numbers that come from one draw
    torch.testing.assert_close(shares, torch.full((4,), p), atol=0.01, rtol=0)
    torch.testing.assert_close(out[out > 0], torch.full_like(out[out > 0], 1 / (1 - p)), atol=1e-3, rtol=1e-3)
    kept = (out > 0).float() - (out > 0).float().mean()
    assert (kept.T @ kept / len(kept)).fill_diagonal_(0).abs().max() < 0.01  # they do not depend on each other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (0, 4)])
def test_shapes_dtypes_and_gradients(shape, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype).requires_grad_()
    out = Dropout(0.5)(x)
    assert out.dtype == dtype and out.shape == shape
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)


def test_off_in_evaluation_and_repeatable_by_seed():
    layer, x = Dropout(0.3), torch.randn(50, 40)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)
    assert layer.eval()(x) is x
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.0)(x) is x
