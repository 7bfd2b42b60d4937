"""Attention layers: grouped heads, the null key, weights for plots."""

import pytest
import torch
from einops import repeat

from spear_tts_pytorch.nn.attention import CrossAttention, RMSNorm, SelfAttention
from spear_tts_pytorch.nn.rotary import RotaryEmbedding


def test_query_head_reads_key_value_head_modulo():
    torch.manual_seed(0)
    grouped = SelfAttention(16, dim_head=4, heads=4, kv_heads=2, causal=True)
    full = SelfAttention(16, dim_head=4, heads=4, causal=True)
    full.load_state_dict({**grouped.state_dict(), "to_kv.weight": repeat_heads(grouped.to_kv.weight)})
    x, rotation = torch.randn(2, 5, 16), RotaryEmbedding(4)(torch.arange(5))
    torch.testing.assert_close(grouped(x, rotation), full(x, rotation))


def repeat_heads(weight):
    keys, values = weight.detach().chunk(2)
    return torch.cat([repeat(t, "(h d) i -> (g h d) i", h=2, g=2) for t in (keys, values)])


@pytest.mark.parametrize("kv_heads", [0, 3])
def test_heads_that_cannot_share_are_refused(kv_heads):
    with pytest.raises(ValueError, match=rf"heads \(4\) must be a multiple of target_kv_heads \({kv_heads}\)"):
        SelfAttention(16, dim_head=4, heads=4, kv_heads=kv_heads)


def test_rms_norm_is_the_formula():
    norm, x = RMSNorm(6), torch.randn(2, 3, 6)
    norm.gamma.data.uniform_(0.5, 2.0)
    torch.testing.assert_close(norm(x), x / x.square().mean(dim=-1, keepdim=True).sqrt() * norm.gamma)
    assert norm(torch.zeros(1, 6)).isfinite().all()


def test_only_the_null_key_is_read_where_the_condition_is_dropped():
    torch.manual_seed(0)
    attention = CrossAttention(16, dim_head=4, heads=2)
    x, mask = (
        torch.randn(2, 5, 16),
        torch.tensor([[True, False, False, False], [True, True, False, True]])[:, None, None],
    )
    context = torch.randn(2, 3, 16)
    dropped, kept = attention(x, context, mask)
    null = attention.to_out(attention.null_kv[1, :, 0].flatten())
    torch.testing.assert_close(dropped, null.expand(5, -1))
    other = context.clone()
    other[0], other[1, 1] = 5.0, 5.0  # masked sources
    torch.testing.assert_close(attention(x, other, mask)[1], kept)
    assert not torch.allclose(kept, null.expand(5, -1), atol=1e-3)


def test_weights_for_plots_are_those_of_the_layer():
    torch.manual_seed(0)
    attention = CrossAttention(16, dim_head=4, heads=2)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    weights = attention.weights(x, context)
    assert weights.shape == (2, 2, 5, 4)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 5))
    _, values = attention.keys_values(context)
    torch.testing.assert_close(attention.to_out((weights @ values).transpose(1, 2).flatten(2)), attention(x, context))
