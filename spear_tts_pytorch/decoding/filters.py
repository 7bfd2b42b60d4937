"""Filters of the ids that may be drawn: functions of logits `[b, v]`, and on request of the ids so far.

A filter is called as `filter(logits, **filter_fn_kwargs)` before each draw and returns logits of the same shape, with -inf at
the ids that must not be drawn. With an argument called `ids` it gets the ids so far as well, `filter(logits, ids=ids)`:
int64 `[b, n]`, those of the prompt and then those generated, padded on the right with the padding of their modality.

    def late(logits, ids):  # id 7 comes after ten others at the earliest
        early = (ids != -1).sum(dim=1, keepdim=True) < 10
        return logits.masked_fill(early & (torch.arange(logits.shape[1]) == 7), -torch.inf)

What is returned for rows that have ended does not count. The filters here keep the best id.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from spear_tts_pytorch.utils.values import real_number, shown, whole_number

NEGATIVE_INFINITY = float("-inf")

LogitsFilter = Callable[..., Tensor]
"""`filter(logits [b, v], **filter_fn_kwargs) -> logits [b, v]`, perhaps with an argument `ids`, int64 `[b, n]`."""


def sees_ids(keep: LogitsFilter | None, keywords: Mapping[str, Any] | None) -> bool:
    """Whether a filter has an argument `ids`, and the user's keywords do not fill it."""
    if keep is None or "ids" in (keywords or {}):
        return False
    try:
        ids = inspect.signature(keep).parameters.get("ids")
    except (TypeError, ValueError):  # some functions of C have no signature
        return False
    return ids is not None and ids.kind in (ids.POSITIONAL_OR_KEYWORD, ids.KEYWORD_ONLY)


def check_filter(keep: object, keywords: object) -> None:
    """Checks the options `filter_logits_fn` and `filter_fn_kwargs`.

    Raises:
        TypeError: the filter is no function, or does not take these keywords.
        ValueError: keywords without a filter, or out of the range of a filter of this file.
    """
    if keep is not None and not callable(keep):
        raise TypeError(f"filter_logits_fn must be a function or None, got {shown(keep)}")
    given: object = {} if keywords is None else keywords
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in cast("Mapping[Any, Any]", given)):
        raise TypeError(f"filter_fn_kwargs must be a dictionary of keywords or None, got {shown(keywords)}")
    named = cast("Mapping[str, Any]", given)
    if keep is None:
        if named:
            raise ValueError(f"filter_fn_kwargs {shown(keywords)} are for a filter, but filter_logits_fn is None")
        return
    try:
        signature = inspect.signature(keep)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, **named, **({"ids": None} if sees_ids(cast(LogitsFilter, keep), named) else {}))
    except TypeError as error:
        raise TypeError(
            f"filter_logits_fn must take logits and filter_fn_kwargs {shown(named)}, but {shown(keep)} does not ({error})"
        ) from error
    if named and keep in (top_k, top_p, min_p):
        try:
            keep(torch.zeros(1, 1), **named)
        except (TypeError, ValueError) as error:
            raise type(error)(f"filter_fn_kwargs do not fit filter_logits_fn: {error}") from error


def top_k(logits: Tensor, thres: float = 0.1, k: int | None = None) -> Tensor:
    """Keeps the best ids of each row.

    Args:
        logits: `[b, v]`.
        thres: share of the vocabulary that stays: `ceil(thres * v)` ids.
        k: how many ids stay instead; more than `v` keeps all.

    Raises:
        TypeError, ValueError: `thres` outside (0, 1] or `k` below 1.
    """
    size = logits.shape[-1]
    if k is None:
        k = math.ceil(real_number("thres", thres, above=0, most=1, also=", the share of ids to keep") * size)
    else:
        k = whole_number("k", k, 1, also=" id")
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
        TypeError, ValueError: `thres` outside (0, 1].
    """
    thres = real_number("thres", thres, above=0, most=1, also=", the probability to keep")
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
        TypeError, ValueError: `thres` outside [0, 1].
    """
    thres = real_number("thres", thres, 0, 1, also=", a share of the best id's probability")
    if thres == 0:
        return logits
    best = logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill(logits < best + math.log(thres), NEGATIVE_INFINITY)
