"""Scaled dot product attention (arXiv 1706.03762): PyTorch's fused kernels, and the formula to test them against.

In: queries `[b, h, i, d]`, keys and values `[b, h, j, d]`, and optionally a mask that broadcasts to `[b, h, i, j]`. A
boolean mask is True where a query may read a key; a float mask is added to the scores. Out: `[b, h, i, d]`.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from spear_tts_pytorch.nn.untyped import attention_kernels

# flash=False excludes the GPU kernels whose results vary from run to run. On a CPU, `flash` changes nothing.
WITHOUT_FLASH = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
SHORT = 512 * 512  # queries x keys; up to this size, matrix products train faster in bfloat16 on a CPU


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    flash: bool = False,
) -> Tensor:
    """Attention `[b, h, i, d]` by the fastest kernel available. With `causal`, i must equal j, and `mask` be None."""
    if q.is_cpu and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and q.shape[2] * k.shape[2] <= SHORT:
        return attend_by_products(q, k, v, mask=mask, causal=causal, dropout=dropout)
    policy = attention_kernels(WITHOUT_FLASH) if q.is_cuda and not flash else nullcontext()
    with policy:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)


def attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """`attend` as two matrix products and a softmax, all in the dtype of `q`.

    It serves training in bfloat16 on a CPU, whose fused kernel is slower for short sequences.
    """
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    bias = mask
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, float("-inf"))
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))  # [b, h, i, j]
    weights = (scores if bias is None else scores + bias).softmax(dim=-1, dtype=q.dtype)
    return torch.matmul(F.dropout(weights, dropout) if dropout > 0 else weights, v)


def plain_attention_weights(q: Tensor, k: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """The attention weights `[b, h, i, j]`, which the fused kernels do not return (arXiv 1706.03762, equation 1)."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)


def plain_attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """`attend` without dropout, by the formula: slow, and the reference that tests compare the kernels with."""
    return torch.einsum("bhij,bhjd->bhid", plain_attention_weights(q, k, mask=mask, causal=causal), v)
