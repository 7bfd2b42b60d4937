"""Transformer parts against plain arithmetic: attention, rotary positions, cache, causality."""

import numpy as np
import pytest
import torch
from einops import repeat

from spear_tts_pytorch.nn import linear as linear_module
from spear_tts_pytorch.nn.attend import attend, plain_attend
from spear_tts_pytorch.nn.attention import SelfAttention
from spear_tts_pytorch.nn.fused.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.nn.fused.packed import Packed
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


def test_cache_grows_by_doubling_and_keeps_what_it_holds():
    torch.manual_seed(0)
    decoder = Transformer(dim=8, depth=2, dim_head=4, heads=2, causal=True, cross_attend=True).eval()
    cache, fused = KVCache(2, torch.randn(1, 3, 8), None), FusedDecoder(decoder)
    capacities, kept = set(), None
    for i in range(200):
        fused(torch.randn(1, 1, 8), cache, None)
        capacities.add(cache.keys.shape[2])
        if i == 50:
            kept = cache.keys[:, :, :51].clone()
    assert capacities == {64, 128, 256} and torch.equal(cache.keys[:, :, :51], kept)
    assert bool((cache.keys[:, :, :200] != 0).any(-1).all()) and not bool(cache.keys[:, :, 200:].any())


def test_reordering_rows_copies_what_differs_only_and_misses_nothing():
    """Whatever parents, appends and truncations: the rows hold what they would if all of each were copied."""
    random = np.random.default_rng(0)
    for _ in range(20):
        cache, plain = KVCache(1, torch.zeros(2, 1, 1), None), torch.zeros(2, 0)
        lengths = [0, 0]
        for step in range(30):
            cache.reserve(1, max(lengths) + 1, 1, torch.float32)
            new = torch.randn(len(plain), 1)
            plain = torch.cat((plain, torch.zeros(len(plain), 1)), dim=1) if plain.shape[1] == max(lengths) else plain
            for row, length in enumerate(lengths):
                cache.keys[row, 0, length] = plain[row, length] = new[row]
            cache.values.copy_(-cache.keys)
            cache.extend(1, 0, 1)
            lengths = [length + 1 for length in lengths]
            if step % 7 == 6:  # rows of one source are cut alike
                cut = {source: int(random.integers(1, 1 + max(lengths))) for source in (0, 1)}
                lengths = [min(x, cut[row * 2 // len(lengths)]) for row, x in enumerate(lengths)]
                cache.truncate(lengths)
            beams = 1 if step < 2 else 3
            held = len(plain) // 2
            rows = np.concatenate([source * held + random.integers(0, held, beams) for source in (0, 1)])
            cache.select(torch.from_numpy(rows))
            plain, lengths = plain[rows], [lengths[row] for row in rows]
            assert cache.lengths == lengths
            for row, length in enumerate(lengths):
                assert torch.equal(cache.keys[row, 0, :length, 0], plain[row, :length])
                assert torch.equal(cache.values[row, 0, :length, 0], -plain[row, :length])


def test_what_two_rows_share_is_not_copied():
    cache = KVCache(2, torch.zeros(1, 1, 1), None)
    cache.reserve(1, 11, 1, torch.float32)
    cache.extend(10, 0, 2)
    cache.select(torch.tensor([0, 0, 0]))
    cache.extend(1, 0, 2)
    for cached in (cache.keys, cache.values):
        cached[:, 0, 10, 0] = torch.arange(6.0)
        cached[1, :, :10], cached[4, :, :10] = 99.0, 77.0  # row 1 of both layers
    cache.select(torch.tensor([0, 2, 2]))
    for cached in (cache.keys, cache.values):
        assert cached[:, 0, 10, 0].tolist() == [0, 2, 2, 3, 5, 5]
        assert cached[1, 0, :10, 0].tolist() == [99] * 10 and cached[4, 0, :10, 0].tolist() == [77] * 10


@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 1, 1], [1], [1, 0], [0, 1, 1], [1, 1, 0, 0]])
def test_select_equals_a_fresh_run_of_those_rows(rows):
    """Row i after `select` goes on as former row `rows[i]` would, whatever the grouping of beams."""
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True).eval()
    x, context = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    mask = torch.tensor([[[[True, True, True, False]]], [[[True] * 4]]])
    cache = KVCache(2, context, mask[:, 0, 0])

    fused = FusedDecoder(decoder)

    def run(new):
        return decoder.final_norm(fused(new, cache, cache.context_mask[:, None, None])[0])

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


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_fused_decoder_is_the_stack(kv_heads, first):
    """Whatever is split off: layers below `first` first, then those above; a few positions at a time; unequal rows."""
    torch.manual_seed(0)
    options = dict(dim_head=4, heads=4, kv_heads=kv_heads, causal=True, cross_attend=True)
    decoder = Transformer(dim=16, depth=2, **options).eval()
    for parameter in decoder.parameters():  # biases and gains that are not 0 and 1
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    x, context = torch.randn(3, 9, 16), torch.randn(3, 5, 16)
    mask = torch.arange(6) < torch.tensor([6, 3, 4])[:, None]
    wanted = decoder(x, context=context, context_mask=mask[:, None, None])
    cache, fused = KVCache(2, context, None), FusedDecoder(decoder, rows=8, steps=100)

    def run(new):
        lower, _ = fused(new, cache, mask[:, None, None], last=first)
        return decoder.final_norm(fused(lower, cache, mask[:, None, None], first=first)[0])

    got = torch.cat([run(x[:, a:b]) for a, b in ((0, 4), (4, 5), (5, 9))], dim=1)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    cache.truncate([3, 7, 5])
    again = run(torch.stack((x[0, 3:5], x[1, 7:9], x[2, 5:7])))
    torch.testing.assert_close(
        again, torch.stack((wanted[0, 3:5], wanted[1, 7:9], wanted[2, 5:7])), atol=1e-5, rtol=1e-4
    )


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
    fused = FusedDecoder(decoder)
    fused(x[:, :3], cache, None)
    cache.truncate([1, 3])
    cache.select(torch.tensor([1, 0]))
    assert cache.lengths == [3, 1]
    got = decoder.final_norm(fused(torch.stack((x[1, 3:], x[0, 1:2])), cache, None)[0])
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


@pytest.mark.parametrize(("threads", "autocast", "taken"), [(2, False, True), (1, False, False), (2, True, False)])
def test_large_products_go_to_the_convolution_where_it_is_quicker(monkeypatch, threads, autocast, taken):
    calls = []
    monkeypatch.setattr(linear_module, "X86", True)
    monkeypatch.setattr(
        linear_module, "linear_by_convolution", lambda *args: calls.append(1) or linear_by_convolution(*args)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, x = Linear(256, 640), torch.randn(2, 150, 256, requires_grad=True)
        assert x.numel() * 640 >= linear_module.MANY_PRODUCTS
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer(x)
            wanted = torch.nn.functional.linear(x, layer.weight, layer.bias)
        gradients = [
            torch.autograd.grad(y.float().square().mean(), [x, layer.weight, layer.bias]) for y in (out, wanted)
        ]
        torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)
        assert bool(calls) == (taken and torch.backends.mkldnn.is_available())
    finally:
        torch.set_num_threads(before)
