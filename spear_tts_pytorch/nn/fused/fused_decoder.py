"""A decoder stack for decoding: it computes a few new positions of each row and reads the others from a cache.

In: embeddings `[r, n, dim]` of new ids, and a `KVCache`. Out: hidden states `[r, n, dim]`, and logits if a head is named.

The numbers are those of `Transformer`, which runs whole sequences. Here projections are fused, norms take fewer
operations, and weights are laid out for a few rows (`packed.py`). A `FusedDecoder` is a snapshot of the weights. Its steps
run eagerly or compiled; compiled, one graph serves all lengths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spear_tts_pytorch.nn.attend import attend
from spear_tts_pytorch.nn.attention import CrossAttention
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.nn.fused.packed import Packed, Precision
from spear_tts_pytorch.nn.transformer import Block, EarlyExit, Transformer
from spear_tts_pytorch.nn.untyped import private, vector_norm

SQRT_HALF = 0.5**0.5
MOST_GRAPHS = 64  # one row and several, with and without masks, for decoding, drafting and verifying
MOST_COMPILED = (
    16  # new positions per row up to which the compiled graph is used; more are a prompt, which is read once
)
# Without these options, the compiler computes the input of a product (a norm, a gelu) again for every output.
COMPILER_OPTIONS = {"realize_opcount_threshold": 1, "realize_reads_threshold": 1}
OWN_PARTS = re.compile(r"""(L\[['"])?self\b""")  # names of a compiled graph's checks on the decoder itself

Memory = tuple[Tensor, Tensor, Tensor, Tensor]
"""Keys and values `[depth * r, h, capacity, d]`, cross keys and values `[depth, s, h, 1 + m, d]`."""
Head = Literal["logits", "exit"]


class FusedDecoder:
    """The layers of a causal stack with cross-attention, and the heads on top of them.

    Args:
        stack: the layers; their weights are copied or referred to as they are now.
        table: embeddings `[v, dim]` that give logits, or None.
        exit_head: the early exit, or None. On a CPU its weights are rounded to 8 bits: its drafts are verified later.
        rows, steps: expected number of rows and steps. They change the speed, never the results.
        precision: dtype in which the layers' weights are stored.
        compiled: whether steps of a few positions run through `torch.compile`.

    Raises:
        ValueError: the stack has no cross-attention.
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

        blocks = stack.blocks
        self.layers = [FusedLayer(block, pack) for block in blocks]
        self.gain = _gain(stack.final_norm.gamma)
        # always fp32: the table is small, and rounding would swap ids of nearly equal probability
        self.to_logits = None if table is None else pack(table, precision="fp32")
        self.exit: FusedExit | None = None
        if exit_head is not None:
            cpu = exit_head.to_logits.weight.is_cpu
            self.exit = FusedExit(exit_head, partial(pack, precision="int8") if cpu else pack)
        self.crosses = [_cross_attention(block).keys_values for block in blocks]
        own = blocks[0].attention
        self.kv_heads, self.dim_head = own.kv_heads, own.to_q.weight.shape[0] // own.heads
        self.rotary = stack.rotary
        none = torch.arange(0, device=self.gain.device)
        self.positions = none, none  # [positions], and their cosines and sines [positions, 1, d/2, 2]; grown on demand
        self.compiled = self._compile() if compiled else None

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
            cross_mask: `[s, 1, n or 1, 1 + m]`, boolean or additive; the first key is the null key. None reads all.

        Returns:
            Hidden states `[r, n, dim]`, and the head's logits `[r, n, v]` or None.

        Raises:
            ValueError: the decoder was made without this head.
        """
        n = x.shape[1]
        last = len(self.layers) if last is None else last
        lengths = cache.layer_lengths[min(first, len(self.layers) - 1)]
        end, even = max(lengths) + n, min(lengths) == max(lengths)
        cross = cache.cross
        if cross is None:
            keys, values = zip(*(keys_values(cache.context) for keys_values in self.crosses), strict=True)
            cross = cache.cross = torch.stack(keys), torch.stack(values)
        memory = *cache.reserve(self.kv_heads, end, self.dim_head, x.dtype), *cross
        compiled = self.compiled if 1 < end and n <= MOST_COMPILED else None
        places, turns = self._places(lengths, n)
        mask = _mask(lengths, places)
        if compiled is None:
            turns, places = torch.view_as_complex(turns), None if even else places
        span = torch.empty(end, dtype=torch.bool)  # its length is `end`, which a graph would take for a constant
        if compiled is not None:
            _mark_varying_sizes(x, turns, mask, cross_mask, places, span, memory)
        run = compiled or self._run
        hidden, logits = run(x, turns, mask, cross_mask, places, span, memory, first, last, head)
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
        memory: Memory,
        first: int,
        last: int,
        head: Head | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The part of a step that works on tensors only. It writes the new keys and values into `memory`.

        Args:
            turns: rotations of the new positions, `[r or 1, n, 1, d/2, 2]`, or complex `[r or 1, n, 1, d/2]`.
            mask: which past and new positions each new position reads, `[r or 1, 1, n, j]`; None for all.
            places: the new positions `[r or 1, n]`; None if they are the last n of every row.
            span: any tensor whose length is the number j of past and new positions.
        """
        (r, n, dim), end = x.shape, span.shape[0]
        keys, values, cross_keys, cross_values = memory
        x = x.reshape(r * n, dim)
        for index in range(first, last):
            own = _Own(keys, values, index * r, end, places, turns, mask)
            x = self.layers[index](x, n, own, cross_keys[index], cross_values[index], cross_mask)
        logits = None
        if head == "logits" and self.to_logits is not None:
            logits = self.to_logits(_normed(x, self.gain)).view(r, n, -1)
        elif head == "exit" and self.exit is not None:
            logits = self.exit(x).view(r, n, -1)
        elif head is not None:
            raise ValueError(f"this decoder has no head {head!r}: pass table or exit_head when you make it")
        return x.view(r, n, dim), logits

    def _compile(self) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """`_run`, compiled apart from that of other decoders, so that no step has to check the decoder's own parts."""
        config = private._dynamo.config
        config.cache_size_limit = max(config.cache_size_limit, MOST_GRAPHS)
        run = FusedDecoder._run
        run = FunctionType(run.__code__.replace(), run.__globals__, run.__name__, run.__defaults__, run.__closure__)
        options: dict[str, Any] = dict(COMPILER_OPTIONS)
        if hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # since torch 2.8
            options["guard_filter_fn"] = _needed_checks
        return torch.compile(MethodType(run, self), options=options)

    def adopt(self, other: FusedDecoder) -> None:
        """Takes the weights of another decoder of the same shapes, dtype and device, and keeps the compiled graphs."""
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
        """Positions of the new ids and their rotations, `[r, n]` and `[r, n, 1, d/2, 2]`; r is 1 if all rows agree."""
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
    """The inputs of self-attention besides hidden states."""

    keys: Tensor  # [depth * r, h, capacity, d]
    values: Tensor
    begin: int  # index in `keys` of the layer's first row
    end: int  # number j of past and new positions
    places: Tensor | None  # positions of the new ids, [r or 1, n]; None if they are the last n of every row
    turns: Tensor  # their rotations
    mask: Tensor | None  # [r or 1, 1, n, j]


class FusedLayer:
    """One block: self-attention, cross-attention and feedforward. Each adds its output to its input."""

    def __init__(self, block: Block, pack: Callable[..., Packed]):
        own, cross, forward = block.attention, _cross_attention(block), block.feed_forward
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
        """`[r * n, dim]` to the same. Cross keys and values are `[s, h, 1 + m, d]`."""
        x = self.to_out(self._self_attention(_normed(x, self.gains[0]), n, own), x)
        q = self.to_cross_q(_normed(x, self.gains[1]))
        x = self.to_cross_out(self._cross_attention(q, cross_keys, cross_values, cross_mask), x)
        inner, gate = self.to_inner(_normed(x, self.gains[2])).chunk(2, dim=-1)
        return self.to_outer(_gated(inner, gate), x)

    def _self_attention(self, x: Tensor, n: int, own: _Own) -> Tensor:
        """`[r * n, dim]` to `[r * n, h * d]`. Query head i reads key/value head i mod kv_heads."""
        r, both = x.shape[0] // n, self.heads + self.kv_heads
        heads = self.to_qkv(x).view(r, n, both + self.kv_heads, -1)  # queries, keys, values: [r, n, h + 2 * kv, d]
        turned = _turned(heads[:, :, :both], own.turns)
        layer = slice(own.begin, own.begin + r)
        if own.places is None:
            own.keys[layer, :, own.end - n : own.end] = turned[:, :, self.heads :].transpose(1, 2)
            own.values[layer, :, own.end - n : own.end] = heads[:, :, both:].transpose(1, 2)
        else:
            row = torch.arange(own.begin, own.begin + r, device=x.device)[:, None]
            own.keys[row, :, own.places] = turned[:, :, self.heads :].to(
                own.keys.dtype
            )  # autocast can make dtypes differ
            own.values[row, :, own.places] = heads[:, :, both:].to(own.values.dtype)
        # the g query heads of a key/value head become g queries of it, so the cache is never copied
        q = torch.unflatten(turned[:, :, : self.heads], 2, (self.groups, self.kv_heads))  # [r, n, g, kv, d]
        q = q.flatten(1, 2).transpose(1, 2)  # [r, kv, n * g, d]
        mask = None if own.mask is None else own.mask.repeat_interleave(self.groups, dim=2)
        keys, values = (cached[layer, :, : own.end].to(q.dtype) for cached in (own.keys, own.values))
        out = attend(q, keys, values, mask=mask, flash=self.flash)
        return out.transpose(1, 2).reshape(r * n, -1)

    def _cross_attention(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`[r * n, h * d]` to the same. All rows of a source become queries of it, so its keys are never copied."""
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


def _cross_attention(block: Block) -> CrossAttention:
    if block.cross_attention is None:
        raise ValueError("the stack has no cross-attention: make it with cross_attend=True")
    return block.cross_attention


def _gain(gamma: Tensor) -> Tensor:
    """The gain `[dim]` of a norm, times the square root of its width."""
    return gamma.detach() * gamma.shape[0] ** 0.5


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm of `[rows, dim]` with a `_gain`."""
    norm = vector_norm(x, dim=-1, keepdim=True).clamp_(min=1e-12)
    return torch.mul(x, gain).div_(norm)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotates each pair of `x` `[r, n, h, d]`. `turns` is complex, or in compiled code cosines and sines."""
    pairs = torch.unflatten(x.float(), -1, (-1, 2))  # [r, n, h, d/2, 2]
    if not turns.is_complex():  # torch.compile cannot generate code for complex numbers
        (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)
    return torch.view_as_real(torch.view_as_complex(pairs) * turns).flatten(-2).to(x.dtype)


def _gated(inner: Tensor, gate: Tensor) -> Tensor:
    """`inner * gelu(gate)`, exact. For so few values torch's gelu costs more than these operations."""
    return torch.addcmul(inner, inner, torch.erf(gate * SQRT_HALF)).mul_(gate).mul_(0.5)


def _mask(lengths: list[int], places: Tensor) -> Tensor | None:
    """Which past and new positions each of the `places` `[r or 1, n]` reads, `[r or 1, 1, n, j]`; None for all."""
    n = places.shape[1]
    if min(lengths) == max(lengths) and n == 1:
        return None
    return (torch.arange(max(lengths) + n, device=places.device) <= places[..., None])[:, None]


def _needed_checks(checks: Sequence[Any]) -> list[bool]:
    """Which checks of a compiled graph to keep: those on tensors and sizes. The decoder's own parts never change."""
    return [not (check.is_global or OWN_PARTS.match(check.name)) for check in checks]


def _mark_varying_sizes(
    x: Tensor,
    turns: Tensor,
    mask: Tensor | None,
    cross_mask: Tensor | None,
    places: Tensor | None,
    span: Tensor,
    memory: Memory,
) -> None:
    """Tells the compiler that rows, lengths and sources vary from call to call, so that one graph serves them all."""
    keys, values, cross_keys, cross_values = memory
    varying = [(span, 0), (x, 0, 1), (turns, 0, 1), (places, 0, 1), (mask, 0, 2, 3), (cross_mask, 0, 2, 3)]
    varying += [(keys, 0, 2), (values, 0, 2), (cross_keys, 1, 3), (cross_values, 1, 3)]
    for tensor, *sizes in varying:
        if tensor is None:
            continue
        for size in sizes:
            if tensor.shape[size] > 1:
                private._dynamo.maybe_mark_dynamic(tensor, size)
