"""The decoder for a few positions at a time, against the stack that it was made from."""

import pytest
import torch

from spear_tts_pytorch.nn.fused.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.nn.transformer import EarlyExit, Transformer


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


def test_an_encoder_is_refused():
    with pytest.raises(ValueError, match="no cross-attention: make it with cross_attend=True"):
        FusedDecoder(Transformer(dim=16, depth=1, dim_head=4, heads=4, causal=True))


@pytest.mark.parametrize("head", ["logits", "exit"])
def test_a_head_that_is_missing_is_named(head):
    decoder = FusedDecoder(Transformer(dim=16, depth=1, dim_head=4, heads=4, causal=True, cross_attend=True))
    with pytest.raises(ValueError, match=f"no head '{head}': pass table or exit_head"):
        decoder(torch.randn(1, 1, 16), KVCache(1, torch.randn(1, 3, 16), None), None, head=head)


@torch.no_grad()
def test_heads_give_logits_of_the_table_and_of_the_early_exit():
    torch.manual_seed(0)
    stack = Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True).eval()
    table, early = torch.randn(11, 16), EarlyExit(16, 11)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    out, hiddens = stack(x, context=context, return_hiddens=True)
    decoder, cache = FusedDecoder(stack, table, early), KVCache(2, context, None)
    lower, drafts = decoder(x, cache, None, last=1, head="exit")
    hidden, logits = decoder(lower, cache, None, first=1, head="logits")
    for got, wanted in ((lower, hiddens[0]), (hidden, hiddens[1]), (logits, out @ table.t())):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(drafts, early(hiddens[0]), atol=0.05, rtol=0.05)  # rounded to 8 bits


@torch.no_grad()
def test_an_adopted_decoder_decodes_with_the_new_weights():
    stacks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        stacks.append(Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True).eval())
    x, context, table = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.randn(11, 16)
    first, second = (FusedDecoder(stack, table + seed) for seed, stack in enumerate(stacks))
    wanted = second(x, KVCache(2, context, None), None, head="logits")
    assert not torch.allclose(first(x, KVCache(2, context, None), None, head="logits")[1], wanted[1], atol=0.1)
    first.adopt(second)
    assert torch.equal(first(x, KVCache(2, context, None), None, head="logits")[1], wanted[1])
