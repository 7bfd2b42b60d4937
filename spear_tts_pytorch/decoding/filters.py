"""Filters of the ids that may be drawn: pure functions of logits `[b, v]`.

A filter returns logits of the same shape, with -inf at the ids that must not be drawn. The best id always stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")

LogitsFilter = Callable[..., Tensor]
"""`filter(logits [b, v], **filter_fn_kwargs) -> logits [b, v]`."""


def top_k(logits: Tensor, thres: float = 0.1, k: int | None = None) -> Tensor:
    """Keeps the best ids of each row.

    Args:
        logits: `[b, v]`.
        thres: share of the vocabulary that stays: `ceil(thres * v)` ids.
        k: how many ids stay instead; more than `v` keeps all.

    Raises:
        ValueError: `thres` outside (0, 1] or `k` below 1.
    """
    size = logits.shape[-1]
    if k is None:
        if not 0 < thres <= 1:
            raise ValueError(f"thres must be in (0, 1], the share of the vocabulary that top_k keeps, got {thres}")
        k = math.ceil(thres * size)
    elif k < 1:
        raise ValueError(f"k must be at least 1, got {k}: top_k keeps the k best ids")
    if k >= size:
        return logits
    values, indices = logits.topk(k, dim=-1)
    return torch.full_like(logits, NEGATIVE_INFINITY).scatter_(-1, indices, values)


def top_p(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keeps the smallest set of best ids whose probability together is at least `thres` (arXiv 1904.09751).

    Args:
        logits: `[b, v]`.
        thres: probability to keep; the best id stays whatever its probability, 1 keeps all.

    Raises:
        ValueError: `thres` outside (0, 1].
    """
    if not 0 < thres <= 1:
        raise ValueError(f"thres must be in (0, 1], the probability that top_p keeps, got {thres}")
    if thres == 1:  # rounding of the running sum must not remove anything
        return logits
    ordered, indices = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # probability of the ids that are better than each
    ordered = ordered.masked_fill(before >= thres, NEGATIVE_INFINITY)
    # rounding must not remove the best id: before[0] is p - p = 0 < thres
    return torch.empty_like(logits).scatter_(-1, indices, ordered)


def min_p(logits: Tensor, thres: float = 0.1) -> Tensor:
    """Keeps the ids at least `thres` times as probable as the best one (arXiv 2407.01082).

    Args:
        logits: `[b, v]`.
        thres: 0 keeps all, 1 only the best.

    Raises:
        ValueError: `thres` outside [0, 1].
    """
    if not 0 <= thres <= 1:
        raise ValueError(f"thres must be in [0, 1], a share of the best id's probability, got {thres}")
    if thres == 0:
        return logits
    best = logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill(logits < best + math.log(thres), NEGATIVE_INFINITY)
