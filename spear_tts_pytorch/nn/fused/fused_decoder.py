"""A decoder stack as decoding runs it: a few new positions for each row, everything else from the cache.

In: embeddings `[r, n, dim]` of new ids, a `KVCache`. Out: hidden states `[r, n, dim]`, and logits where a head is asked
for. The numbers are those of `Transformer`, which runs whole sequences; here projections are fused, norms leaner, and
weights laid out for a few rows (`packed.py`). A `FusedDecoder` is a snapshot of the weights. It runs as it stands, or
compiled: then one graph serves all steps, whatever the lengths. Does not know what the ids mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spear_tts_pytorch.nn.attend import attend
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.nn.fused.packed import Packed, Precision
from spear_tts_pytorch.nn.transformer import Block, EarlyExit, Transformer

SQRT_HALF = 0.5**0.5
MOST_GRAPHS = 64
MOST_COMPILED = 16  # new positions of a row up to which a compiled graph is used; more are a prompt, read once
# Without these, the compiler computes the input of a product (a norm, a gelu) anew for every output.
OPTIONS = {"realize_opcount_threshold": 1, "realize_reads_threshold": 1}
OWN = re.compile(r"""(L\[['"])?self\b""")  # guards on a decoder's own parts, which never change

Head = Literal["logits", "exit"]


class FusedDecoder:
    """The layers of a causal stack with cross-attention, and the heads on them.

    Args:
        stack: whose weights to use.
        table: embeddings `[v, dim]` that give logits, or None.
        exit_head: the early exit, or None. On CPUs its weights are rounded to 8 bits: drafts are checked anyway.
        rows, steps: how many rows and steps to expect; what pays depends on them, results do not.
        precision: of the weights of the layers' products.
        compiled: whether steps of a few positions run compiled (`torch.compile`).
    """

    def __init__(
        self,
        stack: Transformer,
        table: Tensor | None = None,
        exit_head: EarlyExit | None = None,
        *,
        rows: int = 1,
        steps: int = 1,
        precision: Precision = "fp32",
        compiled: bool = False,
    ):
        def pack(weight: Tensor, bias: Tensor | None = None, precision: Precision = precision) -> Packed:
            return Packed(weight.detach(), bias, rows=rows, steps=steps, precision=precision)

        self.layers = [FusedLayer(block, pack) for block in stack.layers]
        self.gain = _gain(stack.final_norm.gamma)
        self.to_logits = None if table is None else pack(table, precision="fp32")  # small, and near ties count
        self.exit = None
        if exit_head is not None:
            cpu = exit_head.to_logits.weight.is_cpu
            self.exit = FusedExit(exit_head, partial(pack, precision="int8") if cpu else pack)
        self.crosses = [block.cross_attention.keys_values for block in stack.layers]
        own = stack.layers[0].attention
        self.kv_heads, self.dim_head = own.kv_heads, own.to_q.weight.shape[0] // own.heads
        self.rotary = stack.rotary
        none = torch.arange(0, device=self.gain.device)
        self.positions = none, none  # the first ones, and their cosines and sines [positions, 1, d/2, 2]
        self.compiled = _compiled(self) if compiled else None

    def __call__(
        self,
        x: Tensor,
        cache: KVCache,
        cross_mask: Tensor | None,
        first: int = 0,
        last: int | None = None,
        head: Head | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Runs the layers `first` to `last` (excluded) on new positions `x` `[r, n, dim]`, then a head.

        Args:
            cross_mask: which sources each position reads, null first: `[s, 1, n or 1, 1 + m]`, or None for all.

        Returns:
            Hidden states `[r, n, dim]`, and the head's logits `[r, n, v]` or None.
        """
        r, n, _ = x.shape
        last = len(self.layers) if last is None else last
        lengths = cache.layer_lengths[min(first, len(self.layers) - 1)]
        end, even = max(lengths) + n, min(lengths) == max(lengths)
        if cache.cross is None:
            keys, values = zip(*(keys_values(cache.context) for keys_values in self.crosses), strict=True)
            cache.cross = torch.stack(keys), torch.stack(values)
        cache.reserve(self.kv_heads, end, self.dim_head, x.dtype)
        compiled = self.compiled is not None and 1 < end and n <= MOST_COMPILED
        places, turns = self._places(lengths, n)
        mask = _mask(lengths, places)
        if not compiled:
            turns, places = torch.view_as_complex(turns), None if even else places
        span = torch.empty(end, dtype=torch.bool)  # a length that graphs do not take for a constant
        tensors = x, turns, mask, cross_mask, places, span, cache.keys, cache.values, *cache.cross
        if compiled:
            _freed(tensors)
        hidden, logits = (self.compiled if compiled else self._run)(*tensors, first, last, head)
        if first < last:
            cache.extend(n, first, last)
        return hidden, logits

    def _run(
        self,
        x: Tensor,
        turns: Tensor,
        mask: Tensor | None,
        cross_mask: Tensor | None,
        places: Tensor | None,
        span: Tensor,
        keys: Tensor,
        values: Tensor,
        cross_keys: Tensor,
        cross_values: Tensor,
        first: int,
        last: int,
        head: Head | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Everything that depends on tensors alone; writes into `keys` and `values` `[depth * r, h, capacity, d]`, of
        which as many positions count as `span` has elements."""
        (r, n, dim), end = x.shape, span.shape[0]
        x = x.reshape(r * n, dim)
        for index in range(first, last):
            own = _Own(keys, values, index * r, end, places, turns, mask)
            x = self.layers[index](x, n, own, cross_keys[index], cross_values[index], cross_mask)
        logits = None
        if head == "logits":
            logits = self.to_logits(_normed(x, self.gain)).view(r, n, -1)
        elif head == "exit":
            logits = self.exit(x).view(r, n, -1)
        return x.view(r, n, dim), logits

    def adopt(self, other: FusedDecoder) -> None:
        """Becomes what another one of the same shapes, type and device is, but for the compiled graphs, which stay."""
        mine, theirs = ([*self.layers, *([self.exit] if self.exit else []), self] for self in (self, other))
        for own, new in zip(mine, theirs, strict=True):
            for name, value in vars(new).items():
                if isinstance(value, Packed):
                    value.handle, handle = getattr(own, name).handle, value.handle
                    vars(getattr(own, name)).update(vars(value))
                    value.handle = handle
                elif name in ("gain", "gains", "crosses", "rotary", "positions"):
                    setattr(own, name, value)

    def _places(self, lengths: list[int], n: int) -> tuple[Tensor, Tensor]:
        """Positions of the new ids, `[r, n]`, or `[1, n]` where all rows agree, and their rotations `[.., 1, d/2, 2]`."""
        end = max(lengths) + n
        if end > len(self.positions[0]):
            places = torch.arange(2 * end, device=self.gain.device)
            self.positions = places, torch.stack(self.rotary(places), dim=-1)[:, None]
        places, turns = self.positions
        if min(lengths) == max(lengths):
            return places[lengths[0] : end][None], turns[lengths[0] : end][None]
        places = torch.tensor(lengths, device=self.gain.device)[:, None] + places[:n]
        return places, turns[places]


class _Own(NamedTuple):
    """What self-attention needs besides its input.

    Keys and values `[depth * r, h, capacity, d]`, where a layer's begin in them, how many positions count, those of the
    new ids `[r or 1, n]` (None: the last n of all rows), their rotations, and the mask.
    """

    keys: Tensor
    values: Tensor
    begin: int
    end: int
    places: Tensor | None
    turns: Tensor
    mask: Tensor | None


class FusedLayer:
    """One block: self-attention, cross-attention, feedforward, each added to its input."""

    def __init__(self, block: Block, pack: Callable[..., Packed]):
        own, cross, forward = block.attention, block.cross_attention, block.feed_forward
        self.heads, self.kv_heads, self.flash = own.heads, own.kv_heads, own.flash
        self.groups = own.heads // own.kv_heads
        self.gains = [_gain(module.norm.gamma) for module in (own, cross, forward)]
        self.to_qkv = pack(torch.cat((own.to_q.weight, own.to_kv.weight)))
        self.to_out = pack(own.to_out.weight)
        self.to_cross_q = pack(cross.to_q.weight)
        self.to_cross_out = pack(cross.to_out.weight)
        self.to_inner = pack(forward.to_inner.weight, forward.to_inner.bias)
        self.to_outer = pack(forward.to_out.weight, forward.to_out.bias)

    def __call__(
        self, x: Tensor, n: int, own: _Own, cross_keys: Tensor, cross_values: Tensor, cross_mask: Tensor | None
    ) -> Tensor:
        x = self.to_out(self._self_attention(_normed(x, self.gains[0]), n, own), x)
        q = self.to_cross_q(_normed(x, self.gains[1]))
        x = self.to_cross_out(self._cross_attention(q, cross_keys, cross_values, cross_mask), x)
        inner, gate = self.to_inner(_normed(x, self.gains[2])).chunk(2, dim=-1)
        return self.to_outer(_gated(inner, gate), x)

    def _self_attention(self, x: Tensor, n: int, own: _Own) -> Tensor:
        """`[r * n, dim]` to `[r * n, h * d]`. Query head i reads key/value head i mod kv_heads."""
        r, both = x.shape[0] // n, self.heads + self.kv_heads
        heads = self.to_qkv(x).view(r, n, both + self.kv_heads, -1)
        turned = _turned(heads[:, :, :both], own.turns)
        layer = slice(own.begin, own.begin + r)
        if own.places is None:
            own.keys[layer, :, own.end - n : own.end] = turned[:, :, self.heads :].transpose(1, 2)
            own.values[layer, :, own.end - n : own.end] = heads[:, :, both:].transpose(1, 2)
        else:
            row = torch.arange(own.begin, own.begin + r, device=x.device)[:, None]
            own.keys[row, :, own.places] = turned[:, :, self.heads :].to(own.keys.dtype)  # autocast makes them differ
            own.values[row, :, own.places] = heads[:, :, both:].to(own.values.dtype)
        # query heads that share a key/value head become more queries of it, so that the cache is never copied
        q = turned[:, :, : self.heads].unflatten(2, (self.groups, self.kv_heads))  # [r, n, g, kv, d]
        q = q.flatten(1, 2).transpose(1, 2)  # [r, kv, n * g, d]
        mask = None if own.mask is None else own.mask.repeat_interleave(self.groups, dim=2)
        keys, values = (cached[layer, :, : own.end].to(q.dtype) for cached in (own.keys, own.values))
        out = attend(q, keys, values, mask=mask, flash=self.flash)
        return out.transpose(1, 2).reshape(r * n, -1)

    def _cross_attention(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`[r * n, h * d]` to the same. Rows of one source are queries of it, so its keys are never copied."""
        split = q.view(len(keys), -1, self.heads, keys.shape[-1]).transpose(1, 2)  # [s, h, rows * n, d]
        return attend(split, keys, values, mask=mask, flash=self.flash).transpose(1, 2).reshape(q.shape)


class FusedExit:
    """The early exit head: logits `[r * n, v]` from hidden states `[r * n, dim]`."""

    def __init__(self, head: EarlyExit, pack: Callable[..., Packed]):
        forward = head.feed_forward
        self.gains = [_gain(module.norm.gamma) for module in (forward, head)]
        self.to_inner = pack(forward.to_inner.weight, forward.to_inner.bias)
        self.to_outer = pack(forward.to_out.weight, forward.to_out.bias)
        self.to_logits = pack(head.to_logits.weight)

    def __call__(self, x: Tensor) -> Tensor:
        inner, gate = self.to_inner(_normed(x, self.gains[0])).chunk(2, dim=-1)
        return self.to_logits(_normed(self.to_outer(_gated(inner, gate), x), self.gains[1]))


def _gain(gamma: Tensor) -> Tensor:
    return gamma.detach() * gamma.shape[0] ** 0.5


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=1e-12)
    return torch.mul(x, gain).div_(norm)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    pairs = x.float().unflatten(-1, (-1, 2))
    if not turns.is_complex():  # compiled kernels have no complex numbers
        (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)
    return torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(-2).to(x.dtype)


def _gated(inner: Tensor, gate: Tensor) -> Tensor:
    """`inner * gelu(gate)`, exact. For so few values the library's gelu costs more than its parts."""
    return torch.addcmul(inner, inner, torch.erf(gate * SQRT_HALF)).mul_(gate).mul_(0.5)


def _mask(lengths: list[int], places: Tensor) -> Tensor | None:
    """Which cached and new keys each new position reads, `[1 or r, 1, n, j]`; None where that is all of them."""
    n = places.shape[1]
    if min(lengths) == max(lengths) and n == 1:
        return None
    return (torch.arange(max(lengths) + n, device=places.device) <= places[..., None])[:, None]


def _compiled(decoder: FusedDecoder) -> Callable:
    """The decoder's `_run`, compiled apart from that of other decoders, so that its own parts need no checks each step."""
    # graphs for one row and for more, with and without masks, for decoding, drafting and verifying
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, MOST_GRAPHS)
    run = FusedDecoder._run
    run = FunctionType(run.__code__.replace(), run.__globals__, run.__name__, run.__defaults__, run.__closure__)
    options: dict[str, Any] = dict(OPTIONS)
    if hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # since torch 2.8
        options["guard_filter_fn"] = lambda guards: [not (one.is_global or OWN.match(one.name)) for one in guards]
    return torch.compile(MethodType(run, decoder), options=options)


def _freed(tensors: tuple[Tensor | None, ...]) -> None:
    """Tells the compiler that rows, lengths and sources vary from call to call: one graph serves them all."""
    x, turns, mask, cross_mask, places, span, keys, values, cross_keys, cross_values = tensors
    varying = [(span, 0), (x, 0, 1), (turns, 0, 1), (places, 0, 1), (mask, 0, 2, 3), (cross_mask, 0, 2, 3)]
    varying += [(keys, 0, 2), (values, 0, 2), (cross_keys, 1, 3), (cross_values, 1, 3)]
    for tensor, *sizes in varying:
        for size in sizes if tensor is not None else ():
            if tensor.shape[size] > 1:
                torch._dynamo.maybe_mark_dynamic(tensor, size)
