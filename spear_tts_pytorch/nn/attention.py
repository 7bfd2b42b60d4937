"""Self-attention and cross-attention layers over whole sequences: norm, projections, grouped heads, rotary positions.

In: `[b, n, dim]`, and for cross-attention encoded sources `[b, m, dim]`. Out: `[b, n, dim]`, without the residual.
Query head i reads key/value head `i mod kv_heads`.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from spear_tts_pytorch.nn.attend import attend, plain_attention_weights
from spear_tts_pytorch.nn.linear import Linear
from spear_tts_pytorch.nn.rotary import rotate
from spear_tts_pytorch.nn.untyped import vector_norm

Rotation = tuple[Tensor, Tensor]  # cosines and sines, as RotaryEmbedding returns them


class RMSNorm(nn.Module):
    """Root mean square norm (arXiv 1910.07467) over the last dimension, with a learned gain."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        norm = vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
        return x * (self.gamma.shape[0] ** 0.5 / norm) * self.gamma


class SelfAttention(nn.Module):
    """Pre-norm self-attention with rotary positions.

    With `kv_heads` below `heads` it is grouped-query attention (arXiv 2305.13245): several query heads share one
    key/value head.

    Raises:
        ValueError: `heads` is not a multiple of `kv_heads`.
    """

    def __init__(
        self,
        dim: int,
        *,
        dim_head: int,
        heads: int,
        kv_heads: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        flash: bool = False,
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if kv_heads < 1 or heads % kv_heads != 0:
            raise ValueError(f"heads ({heads}) must be a multiple of target_kv_heads ({kv_heads})")
        self.heads, self.kv_heads = heads, kv_heads
        self.causal, self.dropout, self.flash = causal, dropout, flash
        self.norm = RMSNorm(dim)
        self.to_q = Linear(dim, heads * dim_head, bias=False)
        self.to_kv = Linear(dim, kv_heads * dim_head * 2, bias=False)
        self.to_out = Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor | None = None) -> Tensor:
        """Attention of `x` `[b, n, dim]` to itself, `[b, n, dim]`.

        Args:
            rotation: cosines and sines of the n positions.
            mask: broadcasts to `[b, h, n, n]`, boolean or additive. It replaces the causal mask, so it must be causal
                where this layer is.
        """
        x = self.norm(x)
        q = rearrange(self.to_q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.to_kv(x), "b n (kv h d) -> kv b h n d", kv=2, h=self.kv_heads)  # [b, kv_heads, n, d] each
        q, k = rotate(q, rotation), rotate(k, rotation)
        if self.kv_heads < self.heads:  # query head i reads key/value head i mod kv_heads
            k, v = (t.repeat(1, self.heads // self.kv_heads, 1, 1) for t in (k, v))  # [b, h, n, d] each
        causal = self.causal and mask is None
        out = attend(q, k, v, mask=mask, causal=causal, dropout=self.dropout * self.training, flash=self.flash)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class CrossAttention(nn.Module):
    """Pre-norm attention to encoded sources `[b, m, dim]`, with one learned null key and value per head.

    Where the condition is dropped for classifier-free guidance, every source position is masked and the null key remains.
    """

    def __init__(self, dim: int, *, dim_head: int, heads: int, dropout: float = 0.0, flash: bool = False):
        super().__init__()
        self.heads, self.dropout, self.flash = heads, dropout, flash
        self.norm = RMSNorm(dim)
        self.to_q = Linear(dim, heads * dim_head, bias=False)
        self.to_kv = Linear(dim, heads * dim_head * 2, bias=False)
        self.to_out = Linear(heads * dim_head, dim, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2, heads, 1, dim_head))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[s, h, 1 + m, d]` of encoded sources `[s, m, dim]`. The null key and value come first."""
        k, v = rearrange(self.to_kv(context), "s m (kv h d) -> kv s h m d", kv=2, h=self.heads)  # [s, h, m, d] each
        null_k, null_v = (repeat(t, "h 1 d -> s h 1 d", s=context.shape[0]).to(k.dtype) for t in self.null_kv)
        return torch.cat((null_k, k), dim=2), torch.cat((null_v, v), dim=2)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of `x` `[b, n, dim]` to `context` `[b, m, dim]`, `[b, n, dim]`.

        Args:
            mask: `[b, 1, n or 1, 1 + m]`, boolean or additive; the first key is the null key.
        """
        k, v = self.keys_values(context)
        out = attend(self._queries(x), k, v, mask=mask, dropout=self.dropout * self.training, flash=self.flash)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))

    def weights(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights `[b, h, n, 1 + m]`, for plots. The null key comes first; arguments as in `forward`."""
        k, _ = self.keys_values(context)
        return plain_attention_weights(self._queries(x), k, mask=mask)

    def _queries(self, x: Tensor) -> Tensor:
        return rearrange(self.to_q(self.norm(x)), "b n (h d) -> b h n d", h=self.heads)
