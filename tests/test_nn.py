"""Transformer parts against plain arithmetic: attention, rotary positions, cache, causality."""

import pytest
import torch
from einops import repeat

from spear_tts_pytorch.nn.attend import attend, plain_attend
from spear_tts_pytorch.nn.attention import SelfAttention
from spear_tts_pytorch.nn.kv_cache import KVCache, LayerCache
from spear_tts_pytorch.nn.linear import Linear, linear_by_convolution, linear_of_few_rows, number_of_blocks
from spear_tts_pytorch.nn.rotary import RotaryEmbedding, rotate
from spear_tts_pytorch.nn.transformer import Transformer


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


def test_future_positions_get_zero_gradient():
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True)
    x, context = torch.randn(1, 7, 16, requires_grad=True), torch.randn(1, 3, 16)
    decoder(x, context=context)[0, 3].sum().backward()
    assert x.grad[0, 4:].abs().max() == 0
    assert x.grad[0, :4].abs().amax(dim=-1).min() > 0


def test_encoder_padding_changes_nothing():
    torch.manual_seed(0)
    encoder = Transformer(dim=16, depth=2, dim_head=4, heads=4)
    x = torch.randn(1, 5, 16)
    padded = torch.cat((x, torch.randn(1, 4, 16)), dim=1)
    mask = torch.arange(9)[None] < 5
    torch.testing.assert_close(encoder(padded, mask=mask)[:, :5], encoder(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(encoder(padded)[:, :5], encoder(x), atol=1e-2)  # the mask is what does it


def test_cache_keeps_rows_of_unequal_length():
    cache = LayerCache()
    first = torch.arange(2 * 3, dtype=torch.float).reshape(2, 1, 3, 1)
    cache.append(first, -first)
    holder = KVCache(1, torch.zeros(2, 1, 1), None)
    holder.layers[0] = cache
    holder.truncate([1, 3])
    keys, values = cache.append(torch.full((2, 1, 1, 1), 9.0), torch.full((2, 1, 1, 1), 8.0))
    assert cache.lengths == [2, 4]
    assert keys[0, 0, :2, 0].tolist() == [0, 9] and keys[1, 0, :, 0].tolist() == [3, 4, 5, 9]
    assert values[1, 0, :, 0].tolist() == [-3, -4, -5, 8]


def test_cache_grows_by_doubling_and_keeps_what_it_holds():
    cache, written = LayerCache(), torch.randn(1, 1, 200, 2)
    capacities = set()
    for i in range(200):
        keys, _ = cache.append(written[:, :, i : i + 1], written[:, :, i : i + 1])
        capacities.add(cache.keys.shape[2])
    assert torch.equal(keys, written) and capacities == {64, 128, 256}


@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 1, 1], [1], [1, 0], [0, 1, 1], [1, 1, 0, 0]])
def test_select_equals_a_fresh_run_of_those_rows(rows):
    """Row i after `select` goes on as former row `rows[i]` would, whatever the grouping of beams."""
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True).eval()
    x, context = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    mask = torch.tensor([[[[True, True, True, False]]], [[[True] * 4]]])
    cache = KVCache(2, context, mask[:, 0, 0])

    def run(new):
        return decoder(new, context=cache.context, context_mask=cache.context_mask[:, None, None], cache=cache)

    run(x[:, :3])
    cache.select(torch.tensor(rows))
    got = run(x[rows, 3:])
    wanted = decoder(x[rows], context=context[rows], context_mask=mask[rows])[:, 3:]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    order = torch.arange(len(rows)).flip(0)
    cache.select(order)
    rows = [rows[i] for i in order]
    more = torch.randn(len(rows), 1, 16)
    wanted = decoder(torch.cat((x[rows], more), dim=1), context=context[rows], context_mask=mask[rows])[:, 4:]
    torch.testing.assert_close(run(more), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 1, 5), (4, 5), (5,)])
def test_few_rows_block_by_block_are_the_plain_product(monkeypatch, threads, shape):
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    layer, x = Linear(5, 12), torch.randn(shape)
    wanted = layer(x)  # with gradients: the usual kernel
    torch.testing.assert_close(linear_of_few_rows(x, layer.weight, layer.bias), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
    assert [number_of_blocks(size, threads) for size in (12, 7)] == {1: [1, 1], 2: [2, 1], 3: [3, 1], 8: [6, 7]}[
        threads
    ]


def test_select_takes_each_rows_length_along():
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=1, dim_head=4, heads=4, causal=True, cross_attend=True).eval()
    x, context = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    cache = KVCache(1, context, None)
    decoder(x[:, :3], context=context, cache=cache)
    cache.truncate([1, 3])
    cache.select(torch.tensor([1, 0]))
    assert cache.lengths == [3, 1]
    got = decoder(torch.stack((x[1, 3:], x[0, 1:2])), context=cache.context, cache=cache)
    wanted = decoder(x, context=context)
    torch.testing.assert_close(got[:, 0], torch.stack((wanted[1, 3], wanted[0, 1])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 70, 16), (70, 16), (1, 1, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_width_one_is_the_product_and_has_its_gradients(threads, shape, bias):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = torch.nn.Linear(16, 24, bias=bias)
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2].requires_grad_()  # not contiguous
        results = []
        for function in (linear_by_convolution, torch.nn.functional.linear):
            out = function(x, layer.weight, layer.bias)
            results.append((out, torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])))
        torch.testing.assert_close(*results)
    finally:
        torch.set_num_threads(before)
