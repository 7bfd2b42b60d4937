"""A decoder stack as decoding runs it: a few new positions for each row, everything else from the cache.

In: embeddings `[r, n, dim]` of new ids, a `KVCache`. Out: `[r, n, dim]`. The numbers are those of `Transformer`, which
runs whole sequences; here projections are fused, norms leaner, and weights laid out for a few rows (`packed.py`).
A `FusedDecoder` is a snapshot of the weights, made for one call of `generate`. Does not know what the ids mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spear_tts_pytorch.nn.attend import attend
from spear_tts_pytorch.nn.kv_cache import KVCache, LayerCache
from spear_tts_pytorch.nn.packed import Packed
from spear_tts_pytorch.nn.transformer import Block, EarlyExit, Transformer

SQRT_HALF = 0.5**0.5


class FusedDecoder:
    """The layers of a causal stack with cross-attention.

    Args:
        stack: whose weights to use.
        rows, steps: how many rows and steps to expect; what pays depends on them, results do not.
    """

    def __init__(self, stack: Transformer, rows: int = 1, steps: int = 1):
        self.layers = [FusedLayer(block, rows, steps) for block in stack.layers]
        self.gain = _gain(stack.final_norm.gamma)
        self.rotary = stack.rotary
        self.turns = torch.empty(0, device=self.gain.device)  # [positions, d/2], complex

    def __call__(
        self, x: Tensor, cache: KVCache, cross_mask: Tensor | None, first: int = 0, last: int | None = None
    ) -> Tensor:
        """Runs the layers `first` to `last` (excluded) on new positions `x` `[r, n, dim]`.

        Args:
            cross_mask: which sources each position reads, null first: `[s, 1, n or 1, 1 + m]`, or None for all.
        """
        r, n, dim = x.shape
        last = len(self.layers) if last is None else last
        if first == last:
            return x
        lengths = cache.layers[first].lengths or [0] * r
        turns, mask = self._turns(lengths, n, x.device), self._mask(lengths, n, x.device)
        x = x.reshape(r * n, dim)
        for index in range(first, last):
            x = self.layers[index](x, n, turns, mask, cross_mask, cache.layers[index], cache.context)
        return x.view(r, n, dim)

    def normed(self, x: Tensor) -> Tensor:
        """The norm after the last layer."""
        return _normed(x, self.gain)

    def _turns(self, lengths: list[int], n: int, device: torch.device) -> Tensor:
        """Rotations of the new positions as complex numbers, `[n, 1, d/2]` or `[r, n, 1, d/2]`."""
        if max(lengths) + n > len(self.turns):
            cos, sin = self.rotary(torch.arange(2 * (max(lengths) + n), device=device))
            self.turns = torch.complex(cos, sin)
        if min(lengths) == max(lengths):
            return self.turns[lengths[0] : lengths[0] + n, None]
        return self.turns[_positions(lengths, n, device)][:, :, None]

    @staticmethod
    def _mask(lengths: list[int], n: int, device: torch.device) -> Tensor | None:
        """Which cached and new keys each new position reads, `[1 or r, 1, n, j]`; None where that is all of them."""
        if min(lengths) == max(lengths):
            if n == 1:
                return None
            positions = torch.arange(lengths[0], lengths[0] + n, device=device)[:, None]
            return (torch.arange(lengths[0] + n, device=device) <= positions)[None, None]
        keys = torch.arange(max(lengths) + n, device=device)
        return (keys <= _positions(lengths, n, device)[..., None])[:, None]


class FusedLayer:
    """One block: self-attention, cross-attention, feedforward, each added to its input."""

    def __init__(self, block: Block, rows: int, steps: int):
        expected = dict(rows=rows, steps=steps)
        own, cross, forward = block.attention, block.cross_attention, block.feed_forward
        self.heads, self.kv_heads, self.flash = own.heads, own.kv_heads, own.flash
        self.groups = own.heads // own.kv_heads
        self.gains = [_gain(module.norm.gamma) for module in (own, cross, forward)]
        self.to_qkv = Packed(torch.cat((own.to_q.weight, own.to_kv.weight)), **expected)
        self.to_out = Packed(own.to_out.weight, **expected)
        self.keys_values = cross.keys_values
        self.to_cross_q = Packed(cross.to_q.weight, **expected)
        self.to_cross_out = Packed(cross.to_out.weight, **expected)
        self.to_inner = Packed(forward.to_inner.weight, forward.to_inner.bias, **expected)
        self.to_outer = Packed(forward.to_out.weight, forward.to_out.bias, **expected)

    def __call__(
        self,
        x: Tensor,
        n: int,
        turns: Tensor,
        mask: Tensor | None,
        cross_mask: Tensor | None,
        cache: LayerCache,
        context: Tensor,
    ) -> Tensor:
        x = self.to_out(self._self_attention(_normed(x, self.gains[0]), n, turns, mask, cache), x)
        x = self.to_cross_out(self._cross_attention(_normed(x, self.gains[1]), n, cross_mask, cache, context), x)
        inner, gate = self.to_inner(_normed(x, self.gains[2])).chunk(2, dim=-1)
        return self.to_outer(_gated(inner, gate), x)

    def _self_attention(self, x: Tensor, n: int, turns: Tensor, mask: Tensor | None, cache: LayerCache) -> Tensor:
        """`[r * n, dim]` to `[r * n, h * d]`. Query head i reads key/value head i mod kv_heads."""
        both = self.heads + self.kv_heads
        heads = self.to_qkv(x).view(x.shape[0] // n, n, both + self.kv_heads, -1)
        turned = _turned(heads[:, :, :both], turns)
        keys, values = cache.append(turned[:, :, self.heads :].transpose(1, 2), heads[:, :, both:].transpose(1, 2))
        # query heads that share a key/value head become more queries of it, so that the cache is never copied
        q = turned[:, :, : self.heads].unflatten(2, (self.groups, self.kv_heads))  # [r, n, g, kv, d]
        q = q.flatten(1, 2).transpose(1, 2)  # [r, kv, n * g, d]
        if mask is not None:
            mask = mask.repeat_interleave(self.groups, dim=2)
        out = attend(q, keys, values, mask=mask, flash=self.flash)
        return out.transpose(1, 2).reshape(x.shape[0], -1)

    def _cross_attention(self, x: Tensor, n: int, mask: Tensor | None, cache: LayerCache, context: Tensor) -> Tensor:
        """`[r * n, dim]` to `[r * n, h * d]`. Rows of one source are queries of it, so its keys are never copied."""
        if cache.cross is None:
            cache.cross = self.keys_values(context)
        keys, values = cache.cross
        q = self.to_cross_q(x).view(len(keys), -1, self.heads, keys.shape[-1]).transpose(1, 2)  # [s, h, rows * n, d]
        return attend(q, keys, values, mask=mask, flash=self.flash).transpose(1, 2).reshape(x.shape[0], -1)


class FusedExit:
    """The early exit head: logits `[r * n, v]` from hidden states `[r * n, dim]`."""

    def __init__(self, head: EarlyExit, rows: int = 1, steps: int = 1):
        forward, expected = head.feed_forward, dict(rows=rows, steps=steps)
        self.gains = [_gain(module.norm.gamma) for module in (forward, head)]
        self.to_inner = Packed(forward.to_inner.weight, forward.to_inner.bias, **expected)
        self.to_outer = Packed(forward.to_out.weight, forward.to_out.bias, **expected)
        self.to_logits = Packed(head.to_logits.weight, **expected)

    def __call__(self, x: Tensor) -> Tensor:
        inner, gate = self.to_inner(_normed(x, self.gains[0])).chunk(2, dim=-1)
        return self.to_logits(_normed(self.to_outer(_gated(inner, gate), x), self.gains[1]))


def _gain(gamma: Tensor) -> Tensor:
    return gamma.detach() * gamma.shape[0] ** 0.5


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=1e-12)
    return torch.mul(x, gain).div_(norm)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _gated(inner: Tensor, gate: Tensor) -> Tensor:
    """`inner * gelu(gate)`, exact. For so few values the library's gelu costs more than its parts."""
    return torch.addcmul(inner, inner, torch.erf(gate * SQRT_HALF)).mul_(gate).mul_(0.5)


def _positions(lengths: list[int], n: int, device: torch.device) -> Tensor:
    return torch.tensor(lengths, device=device)[:, None] + torch.arange(n, device=device)
