"""The encoder and decoder stacks: pre-norm blocks of attention and GEGLU feedforward.

In: embeddings `[b, n, dim]`, a mask of real positions, and for decoders encoded sources `[b, m, dim]`.
Out: `[b, n, dim]` after the final norm, and on request each layer's output.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_tts_pytorch.nn.attention import CrossAttention, RMSNorm, SelfAttention
from spear_tts_pytorch.nn.dropout import Dropout
from spear_tts_pytorch.nn.linear import Linear
from spear_tts_pytorch.nn.rotary import RotaryEmbedding


class GEGLU(nn.Module):
    """Gated GELU (arXiv 2002.05202), `[..., 2 * d]` to `[..., d]`: the second half gates the first."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * x


class FeedForward(nn.Module):
    """Pre-norm GEGLU feedforward of inner width `int(dim * mult * 2 / 3)`."""

    def __init__(self, dim: int, mult: float = 4, dropout: float = 0.0):
        super().__init__()
        inner = int(dim * mult * 2 / 3)
        self.norm = RMSNorm(dim)
        self.to_inner = Linear(dim, inner * 2)
        self.activation = GEGLU()
        self.dropout = Dropout(dropout)
        self.to_out = Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(self.dropout(self.activation(self.to_inner(self.norm(x)))))


class Block(nn.Module):
    """Self-attention, cross-attention (with `cross_attend`) and feedforward. Each adds its output to its input."""

    def __init__(
        self,
        dim: int,
        *,
        dim_head: int,
        heads: int,
        kv_heads: int | None,
        causal: bool,
        cross_attend: bool,
        attn_dropout: float,
        ff_mult: float,
        ff_dropout: float,
        flash: bool,
    ):
        super().__init__()
        self.attention = SelfAttention(
            dim, dim_head=dim_head, heads=heads, kv_heads=kv_heads, causal=causal, dropout=attn_dropout, flash=flash
        )
        self.cross_attention: CrossAttention | None = None
        if cross_attend:
            self.cross_attention = CrossAttention(
                dim, dim_head=dim_head, heads=heads, dropout=attn_dropout, flash=flash
            )
        self.feed_forward = FeedForward(dim, ff_mult, ff_dropout)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        x = x + self.attention(x, rotation, mask)
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, context, context_mask)
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """A stack of blocks with rotary positions and a final norm.

    It is an encoder as it is, and a decoder with `causal=True` and `cross_attend=True`.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        dim_head: int = 64,
        heads: int = 8,
        kv_heads: int | None = None,
        causal: bool = False,
        cross_attend: bool = False,
        attn_dropout: float = 0.0,
        ff_mult: float = 4,
        ff_dropout: float = 0.0,
        attn_flash: bool = False,
    ):
        super().__init__()
        self.causal = causal
        self.rotary = RotaryEmbedding(dim_head)
        self.layers = nn.ModuleList(
            Block(
                dim,
                dim_head=dim_head,
                heads=heads,
                kv_heads=kv_heads,
                causal=causal,
                cross_attend=cross_attend,
                attn_dropout=attn_dropout,
                ff_mult=ff_mult,
                ff_dropout=ff_dropout,
                flash=attn_flash,
            )
            for _ in range(depth)
        )
        self.final_norm = RMSNorm(dim)
        self._initialise(depth, cross_attend)

    @property
    def blocks(self) -> list[Block]:
        """The layers, from the bottom up; `layers` is the same without their type."""
        return cast("list[Block]", list(self.layers))

    def _initialise(self, depth: int, cross_attend: bool) -> None:
        """Draws weights from truncated normals of deviation 1/sqrt(inputs).

        Layers that add to the residual stream get it divided by the square root of the number of additions.
        """
        additions = depth * (3 if cross_attend else 2)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                std = parameter.shape[1] ** -0.5
                std = std * additions**-0.5 if "to_out" in name else std
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        return_hiddens: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Runs the stack.

        Args:
            x: `[b, n, dim]`.
            mask: `[b, n]`, True at real positions. A causal stack ignores it: pad on the right, where no real position
                reads.
            context: encoded sources `[b, m, dim]` for cross-attention.
            context_mask: `[b, 1, n or 1, 1 + m]`, boolean or additive; the first key is the null key.
            return_hiddens: whether to return each layer's output too, before the final norm.

        Returns:
            `[b, n, dim]`; with `return_hiddens` also a list of one `[b, n, dim]` per layer.
        """
        allowed = None if mask is None or self.causal else mask[:, None, None, :]
        rotation = self.rotary(torch.arange(x.shape[1], device=x.device))
        hiddens: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, rotation, allowed, context, context_mask)
            hiddens.append(x)
        x = self.final_norm(x)
        return (x, hiddens) if return_hiddens else x


class EarlyExit(nn.Module):
    """Logits `[b, n, v]` from the hidden states `[b, n, dim]` of a lower decoder layer."""

    def __init__(self, dim: int, num_ids: int):
        super().__init__()
        self.feed_forward = FeedForward(dim)
        self.norm = RMSNorm(dim)
        self.to_logits = Linear(dim, num_ids, bias=False)
        nn.init.normal_(self.to_logits.weight, std=0.25 * dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_logits(self.norm(x + self.feed_forward(x)))
