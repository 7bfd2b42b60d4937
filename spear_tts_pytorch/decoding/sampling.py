"""Choosing the next id: filters and draws, pure functions of logits `[b, v]`.

A filter returns logits of the same shape in which what must not be drawn is -inf; the best id always stays. `sample`
draws one id per row, `[b]`. Nothing here knows what came before a row's logits or what the ids mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")
LEAST_TEMPERATURE = 1e-6


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
    before = probabilities.cumsum(dim=-1) - probabilities  # probability of what is better than each id
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


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless `temperature` is finite, and 0 or not so small that logits overflow."""
    number = isinstance(temperature, (int, float)) and math.isfinite(temperature)
    if not number or temperature < 0 or 0 < temperature < LEAST_TEMPERATURE:
        raise ValueError(
            f"temperature must be a number >= 0 (0 = greedy, else at least {LEAST_TEMPERATURE:g}), got {temperature!r}"
        )


def gumbel_noise(rows: int, size: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise, float32 `[rows, size]`, drawn on the generator's device and moved to `device`."""
    source = device if generator is None else generator.device
    noise = torch.empty(rows, size, device=source).exponential_(generator=generator)
    return noise.log_().neg_().to(device)


def draw(logits: Tensor, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The id of each row with the highest `logits / temperature + noise`, `[b]`, and that value `[b]`.

    With Gumbel noise this draws from `softmax(logits / temperature)`. The value is not finite where every logit was
    -inf or one was NaN: the caller looks at it when it suits (`check_drawn`), which spares a synchronisation per step.
    """
    if temperature > 0 and noise is not None:
        logits = torch.add(noise, logits, alpha=1 / temperature)
    values, ids = logits.max(dim=-1)
    return ids, values


def check_drawn(values: Tensor) -> None:
    """Raises ValueError if a draw found nothing to choose from; `values` as `draw` returns them."""
    if not bool(torch.isfinite(values).all()):
        if bool(torch.isnan(values).any()):
            raise ValueError("logits hold NaN: the weights or the conditioning of the model are not finite")
        raise ValueError(
            "filter_logits_fn leaves no id to choose from (all logits of a row are -inf): loosen the filter"
            " or forbid fewer ids"
        )


def sample(logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Draws one id per row of `logits` `[b, v]` from `softmax(logits / temperature)`; temperature 0 takes the best.

    Returns:
        int64 `[b]`.

    Raises:
        ValueError: negative temperature, logits with NaN, or a row in which everything is -inf.
    """
    check_temperature(temperature)
    logits = logits.float()
    noise = gumbel_noise(*logits.shape, logits.device, generator) if temperature > 0 else None
    ids, values = draw(logits, temperature, noise)
    check_drawn(values)
    return ids
