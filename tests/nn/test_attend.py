"""Attention by kernels and by products, against the formula."""

import pytest
import torch

from spear_tts_pytorch.nn.attend import attend, attend_by_products, plain_attend


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("masking", ["none", "causal", "padding", "bias"])
def test_fused_attention_is_the_formula(flash, masking):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8)
    mask = {"padding": torch.rand(2, 1, 1, 6) > 0.3, "bias": torch.randn(2, 1, 6, 6)}.get(masking)
    if masking == "padding":
        mask[..., 0] = True
    options = dict(mask=mask, causal=masking == "causal")
    torch.testing.assert_close(attend(q, k, v, flash=flash, **options), plain_attend(q, k, v, **options))


def test_attention_by_products_is_the_formula():
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    torch.testing.assert_close(attend_by_products(q, k, v, causal=True), plain_attend(q, k, v, causal=True))
    mask = torch.tensor([[True, True, False, True, False]]).expand(2, 1, 1, 5)
    torch.testing.assert_close(attend_by_products(q, k, v, mask=mask), plain_attend(q, k, v, mask=mask))
    bias = torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(attend_by_products(q, k, v, mask=bias), plain_attend(q, k, v, mask=bias))
    ones = torch.ones(2, 3, 5, 8)
    torch.manual_seed(0)
    dropped = torch.stack([attend_by_products(q, k, ones, dropout=0.5) for _ in range(400)])
    assert dropped.std() > 0.1 and abs(dropped.mean() - 1) < 0.05
