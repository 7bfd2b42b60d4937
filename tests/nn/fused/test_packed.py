"""Products with packed weights, against the plain product of the weight as it was rounded."""

import pytest
import torch

from spear_tts_pytorch.nn.fused.packed import Packed


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 9])
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (True, False), (False, True), (True, True)])
def test_packed_weights_give_the_plain_product(rows, bias, residual):
    torch.manual_seed(0)
    for size in (12, 7):  # with and without blocks
        layer = torch.nn.Linear(6, size, bias=bias)
        x, added = torch.randn(rows, 6), torch.randn(rows, size) if residual else None
        wanted = layer(x) + added if residual else layer(x)
        for steps in (1, 100):
            packed = Packed(layer.weight.detach(), layer.bias.detach() if bias else None, rows=rows, steps=steps)
            got = packed(x, added)
            torch.testing.assert_close(got, wanted.detach())
            assert got.is_contiguous()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("inner", [32, 45])
def test_products_are_those_of_the_rounded_weight(precision, rows, inner):
    """Also where rows are no multiple of what the kernel reads at a time, and where all of a row is 0."""
    torch.manual_seed(0)
    weight, bias, x, residual = torch.randn(13, inner), torch.randn(13), torch.randn(rows, inner), torch.randn(rows, 13)
    weight[3] = 0
    packed = Packed(weight, bias, precision=precision)
    rounded = weight.bfloat16().float()
    if precision == "int8":
        scale = (weight.abs().amax(dim=1, keepdim=True) / 127).bfloat16().float().clamp_min(1e-9)
        rounded = (weight / scale).round().clamp(-127, 127) * scale
        assert (rounded - weight).abs().max() < 0.02
    wanted = x.bfloat16().float() @ rounded.t()
    torch.testing.assert_close(packed(x) - bias, wanted, atol=0.03, rtol=0.01)  # what is summed up is bfloat16
    torch.testing.assert_close(packed(x, residual), packed(x) + residual)
    assert packed(x).dtype == torch.float32
    kept = packed.weight if packed.reordered is None else packed.reordered
    assert kept.dtype == (torch.int8 if precision == "int8" else torch.bfloat16)


def test_a_reordered_weight_is_not_held_twice():
    packed = Packed(torch.randn(16, 32), precision="bf16")
    assert (packed.reordered is None) != (packed.weight.numel() == 0)
