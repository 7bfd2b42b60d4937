"""The encoder and decoder stacks: pre-norm blocks of attention and GEGLU feedforward.

In: embeddings `[b, n, dim]`. Out: `[b, n, dim]` after the final norm, and the hidden states on request.
Masks and positions come from the caller as plain tensors; nothing here knows ids, padding or modalities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_tts_pytorch.nn.attention import CrossAttention, RMSNorm, SelfAttention
from spear_tts_pytorch.nn.linear import Linear
from spear_tts_pytorch.nn.rotary import RotaryEmbedding


class GEGLU(nn.Module):
    """Gated GELU (arXiv 2002.05202): the second half gates the first."""

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
        self.dropout = nn.Dropout(dropout)
        self.to_out = Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(self.dropout(self.activation(self.to_inner(self.norm(x)))))


class Block(nn.Module):
    """Self-attention, cross-attention if `cross_attend`, feedforward; each added to its input."""

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
        shared = dict(dim_head=dim_head, heads=heads, dropout=attn_dropout, flash=flash)
        self.attention = SelfAttention(dim, kv_heads=kv_heads, causal=causal, **shared)
        self.cross_attention = CrossAttention(dim, **shared) if cross_attend else None
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
    """A stack of blocks with rotary positions and a final norm: encoder, or decoder with `causal` and `cross_attend`."""

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

    def _initialise(self, depth: int, cross_attend: bool) -> None:
        """Truncated normals of 1/sqrt(inputs); what is added to the residual stream is scaled by 1/sqrt(additions)."""
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
            mask: `[b, n]`, True at real positions. A causal stack needs none when padding is on the right: what
                follows a real position never reaches it.
            context, context_mask: for cross-attention, `[b, m, dim]`, and `[b, 1, n or 1, 1 + m]` boolean or additive.
            return_hiddens: also returns each layer's output, before the final norm.
        """
        allowed = None if mask is None or self.causal else mask[:, None, None, :]
        rotation = self.rotary(torch.arange(x.shape[1], device=x.device))
        hiddens = []
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
