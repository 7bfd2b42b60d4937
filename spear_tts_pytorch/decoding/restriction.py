"""From a model's logits `[r, v]` those that ids are drawn from, the same in all strategies.

In: logits, and where an option looks at them the ids so far (`History`). Out: logits, -inf at the ids that must not be drawn.
The meanings are those of HuggingFace's `transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.filters import NEGATIVE_INFINITY
from spear_tts_pytorch.decoding.history import History
from spear_tts_pytorch.decoding.loop import NAN_LOGITS, Limits
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.utils.values import shown

Prompts = Mapping[int, Tensor] | Sequence[Tensor] | None
"""Target ids `[n]` that each source's rows begin with, by the source's number."""


def penalize(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Divides the logits above 0 of ids so far by the penalty and multiplies those below 0 (arXiv 1909.05858).

    Args:
        logits: `[r, v]`.
        ids: `[r, n]`; others than `0..v-1` are padding.
        penalty: above 1 makes repetition rarer, below 1 more frequent.
    """
    return torch.where(
        _among(ids, logits.shape[1]), torch.where(logits < 0, logits * penalty, logits / penalty), logits
    )


def repeats(ids: Tensor, lengths: Tensor, n: int, size: int) -> Tensor:
    """The ids that would complete an n-gram which their row has already, bool `[r, size]`.

    Args:
        ids: `[r, m]`, padded on the right.
        lengths: ids of each row, `[r]`.
        n: at least 1.
    """
    if n > ids.shape[1]:
        return torch.zeros(len(ids), size, dtype=torch.bool, device=ids.device)
    grams = ids.unfold(1, n, 1)  # [r, m - n + 1, n]
    places = torch.arange(grams.shape[1], device=ids.device)
    last = lengths[:, None] - (n - 1) + torch.arange(n - 1, device=ids.device)  # of a row's last n - 1 ids, [r, n - 1]
    same = (grams[..., :-1] == ids.gather(1, last.clamp_min(0))[:, None]).all(dim=-1) & (places + n <= lengths[:, None])
    return _among(grams[..., -1].masked_fill(~same, -1), size)


def _among(ids: Tensor, size: int) -> Tensor:
    """Which of `0..size-1` are among ids `[r, n]`, bool `[r, size]`."""
    places = torch.where((ids >= 0) & (ids < size), ids, size)
    found = torch.zeros(len(ids), size + 1, dtype=torch.bool, device=ids.device)
    return found.scatter_(1, places, True)[:, :size]


class Restriction:
    """Penalizes ids so far, leaves out ids that must not be drawn, then applies the filter.

    Args:
        options: the penalty, the ids that are left out, and the filter.
        limits: of the target vocabulary.
        device: of the logits.
    """

    def __init__(self, options: DecodingOptions, limits: Limits, device: torch.device):
        self.penalty, self.ngram = options.repetition_penalty, options.no_repeat_ngram_size
        self.min_length = 0 if limits.eos_id is None else options.min_length
        self.eos_id, self.pad_id, self.device = limits.eos_id, limits.pad_id, device
        self.banned = limits.banned(device)
        self.keep, self.keywords = options.applied_filter, dict(options.filter_fn_kwargs or {})
        self.filter_sees_ids = options.filter_sees_ids
        used = ("no_repeat_ngram_size", self.ngram), ("min_length", self.min_length), ("filter_logits_fn", self.keep)
        self.names = " and ".join(name for name, value in used if value) or "forbid_ids"

    @property
    def sees_ids(self) -> bool:
        """Whether calls need the ids so far."""
        return self.penalty != 1 or self.ngram > 0 or self.min_length > 0 or self.filter_sees_ids

    @property
    def changes(self) -> bool:
        """Whether anything but the forbidden ids changes."""
        return self.sees_ids or self.keep is not None

    def history(self, numbers: Sequence[int], prompts: Prompts) -> History | None:
        """The history of sources that begin, by their numbers; None if calls need none."""
        if not self.sees_ids:
            return None
        nothing = torch.empty(0, dtype=torch.long)
        return History([nothing if prompts is None else prompts[number] for number in numbers], self.device)

    def __call__(self, logits: Tensor, history: History | None = None) -> Tensor:
        """Logits `[r, v]` to those that ids are drawn from."""
        if self.banned is not None:
            logits = logits.index_fill(1, self.banned, NEGATIVE_INFINITY)
        if history is None:
            return logits if self.keep is None else self._filtered(logits, {})
        ids = history.padded(-1)
        if self.penalty != 1:
            logits = penalize(logits, ids, self.penalty)
        if self.ngram:
            again = repeats(ids, history.lengths, self.ngram, logits.shape[1])
            logits = logits.masked_fill(again, NEGATIVE_INFINITY)
        if self.min_length:
            is_eos = torch.arange(logits.shape[1], device=self.device) == self.eos_id
            early = history.generated < self.min_length
            logits = logits.masked_fill(early[:, None] & is_eos, NEGATIVE_INFINITY)
        if self.keep is None:
            return logits
        return self._filtered(logits, {"ids": history.padded(self.pad_id)} if self.filter_sees_ids else {})

    def _filtered(self, logits: Tensor, ids: dict[str, Any]) -> Tensor:
        assert self.keep is not None
        shape = logits.shape  # the filter may write into its input
        try:
            found: object = self.keep(logits, **ids, **self.keywords)
        except (TypeError, ValueError, RuntimeError) as error:
            if type(error) not in (TypeError, ValueError, RuntimeError):
                raise  # the filter's own kind of error
            raise type(error)(f"filter_logits_fn {shown(self.keep)} raised: {error}") from error
        if not isinstance(found, Tensor) or found.shape != shape:
            got = f"the shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"filter_logits_fn must return logits of the shape {list(shape)} that it is given, got {got}"
            )
        return found

    def check(self, values: Tensor) -> None:
        """Raises ValueError if a draw had nothing to choose from; `values` are the highest logits of rows."""
        if not bool(torch.isfinite(values).all()):
            hopeless = bool((values == NEGATIVE_INFINITY).any()) and not bool(torch.isnan(values).any())
            raise ValueError(self.nothing_left if hopeless else self.not_finite)

    @property
    def nothing_left(self) -> str:
        """The error for a row that has no id to choose from."""
        return (
            f"no id is left to choose from (all logits of a row are -inf): {self.names} must forbid fewer ids, so that "
            "each row can go on"
        )

    @property
    def not_finite(self) -> str:
        """The error for logits that are NaN or infinite."""
        return NAN_LOGITS if self.keep is None else f"{NAN_LOGITS}, or filter_logits_fn makes such logits"
