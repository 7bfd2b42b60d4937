"""Sampling, one id per row and step, until every row has ended.

In: `step(ids [r, n], cache) -> logits [r, n', v]`, of which the last position counts, and `cache.select(rows)`.
The first call passes ids of the shape [r, 0]; later ones the ids just drawn, [r, 1]. Out: a `DecodeResult`.
Rows that ended leave the batch. Knows nothing of models, modalities, sources or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.sampling import NEGATIVE_INFINITY, check_drawn, check_temperature, draw, gumbel_noise
from spear_tts_pytorch.tokens import mask_after_eos

FLUSH_EVERY = 64  # steps after which what was drawn is written to the result and checked


class Cache(Protocol):
    """Decoding state of `r` rows."""

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`), in place."""


Step = Callable[[Tensor, Any], Tensor]
"""`step(ids [r, n], cache) -> logits [r, n', v]`."""


@dataclass(frozen=True)
class DecodeResult:
    """What was drawn.

    Attributes:
        ids: int64 `[r, n]`, the end-of-sequence id kept where it came, padding after it; n >= 1.
        scores: float32 `[r]`, mean log-probability per id, end-of-sequence included, under the unfiltered distribution
            at temperature 1.
        truncated: bool `[r]`, True where `max_length` came before end-of-sequence; False if there is none to wait for.
    """

    ids: Tensor
    scores: Tensor
    truncated: Tensor


def check_lengths(rows: int, max_length: int) -> None:
    """Raises ValueError unless there is a row, and an id, to decode."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}: there is nothing to decode")
    if not isinstance(max_length, int) or max_length < 1:
        raise ValueError(f"max_length must be at least 1 id, a whole number, got {max_length!r}")


def forbidden(forbid_ids: Sequence[int], device: torch.device) -> Tensor | None:
    """The ids as a tensor for `index_fill`, or None if there are none."""
    return torch.tensor(list(forbid_ids), dtype=torch.long, device=device) if len(forbid_ids) else None


class _Record:
    """Ids and log-probabilities of all rows, written in blocks of the rows that were alive."""

    def __init__(self, rows: int, pad_id: int, device: torch.device):
        self.ids = torch.full((rows, FLUSH_EVERY), pad_id, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(rows, FLUSH_EVERY, device=device)
        self.pad_id = pad_id
        self.length = 0
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, ids: Tensor, log_probs: Tensor, values: Tensor) -> None:
        self.pending.append((ids, log_probs, values))

    def flush(self, live: Tensor) -> None:
        """Writes what is pending to the rows `live`.

        Raises:
            ValueError: a draw had nothing to choose from.
        """
        if not self.pending:
            return
        ids, log_probs, values = (torch.stack(column, dim=1) for column in zip(*self.pending, strict=True))
        check_drawn(values)
        end = self.length + len(self.pending)
        if end > self.ids.shape[1]:
            room = self.ids.new_full((self.ids.shape[0], max(end, 2 * self.ids.shape[1])), self.pad_id)
            room[:, : self.length] = self.ids[:, : self.length]
            grown = self.log_probs.new_zeros(room.shape)
            grown[:, : self.length] = self.log_probs[:, : self.length]
            self.ids, self.log_probs = room, grown
        self.ids[live, self.length : end] = ids
        self.log_probs[live, self.length : end] = log_probs
        self.length = end
        self.pending.clear()

    def result(self, eos_id: int | None) -> DecodeResult:
        ids, log_probs = self.ids[:, : self.length], self.log_probs[:, : self.length]
        if eos_id is None:
            return DecodeResult(ids.clone(), log_probs.mean(dim=1), torch.zeros_like(ids[:, 0], dtype=torch.bool))
        is_eos = ids == eos_id
        ended = is_eos.any(dim=1)
        lengths = torch.where(ended, is_eos.int().argmax(dim=1) + 1, self.length)
        counted = torch.arange(self.length, device=ids.device) < lengths[:, None]
        scores = log_probs.masked_fill(~counted, 0).sum(dim=1) / lengths
        longest = int(lengths.max())
        return DecodeResult(mask_after_eos(ids, eos_id, self.pad_id)[:, :longest].clone(), scores, ~ended)


@torch.no_grad()
def sample_ids(
    step: Step,
    cache: Cache,
    rows: int,
    *,
    on_token: Callable[[Tensor], object] | None = None,
    **options: Any,
) -> DecodeResult:
    """Draws ids row by row and step by step, by `sampling_steps`, whose `options` it takes.

    Args:
        on_token: called after each step with the ids `[rows]` just drawn, padding where a row had ended.
    """
    steps = sampling_steps(step, cache, rows, **options)
    while True:
        try:
            drawing = next(steps)
        except StopIteration as stop:
            return stop.value
        if on_token is not None:
            on_token(drawing.newest())


@torch.no_grad()
def sampling_steps(
    step: Step,
    cache: Cache,
    rows: int,
    *,
    eos_id: int | None,
    pad_id: int,
    max_length: int,
    temperature: float = 1.0,
    filter_logits_fn: Callable[..., Tensor] | None = None,
    filter_fn_kwargs: Mapping[str, Any] | None = None,
    forbid_ids: Sequence[int] = (),
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Generator[Drawing, None, DecodeResult]:
    """Draws one id per row and step; yields the state after each step, and returns the result.

    The noise of a step is drawn for all `rows`, ended or not: what a row gets depends on the generator, its place in
    the batch and the step, and not on when other rows end.

    Args:
        step, cache: see the module's docstring; the cache holds `rows` rows and is used up.
        eos_id: ends a row; None draws `max_length` ids for every row.
        pad_id: fills up rows that ended.
        max_length: most ids per row, end-of-sequence included.
        temperature: divides the filtered logits; 0 takes the best id.
        filter_logits_fn: `filter(logits [r, v], **filter_fn_kwargs) -> logits [r, v]` (decoding/sampling.py).
        forbid_ids: never drawn.
        device: of the logits and the result.

    Raises:
        ValueError: `rows` or `max_length` below 1, negative temperature, a filter that leaves nothing, NaN logits.
    """
    check_lengths(rows, max_length)
    check_temperature(temperature)
    device = torch.device(device)
    every = check_every(device)
    restrict = restriction(forbidden(forbid_ids, device), filter_logits_fn, dict(filter_fn_kwargs or {}))
    drawing = Drawing(rows, eos_id, pad_id, temperature, generator, device)
    for index in range(1, max_length + 1):
        logits = step(drawing.ids, cache)[:, -1].float()
        drawing.advance(logits.log_softmax(dim=-1), restrict(logits))
        yield drawing
        if eos_id is not None and index % every == 0 and index < max_length and drawing.dismiss(cache):
            break
    return drawing.result()


class Drawing:
    """The rows that have not ended, what they drew last, and the record of all."""

    def __init__(
        self,
        rows: int,
        eos_id: int | None,
        pad_id: int,
        temperature: float,
        generator: torch.Generator | None,
        device: torch.device,
    ):
        self.rows, self.eos_id, self.pad_id = rows, eos_id, pad_id
        self.temperature, self.generator = temperature, generator
        self.record = _Record(rows, pad_id, device)
        self.live = torch.arange(rows, device=device)  # [r], which of the rows are still in the batch
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)  # [r], of these
        self.ended_before = self.ended
        self.ids = torch.empty(rows, 0, dtype=torch.long, device=device)  # [r, 1] from the first draw on

    def advance(self, log_probs: Tensor, logits: Tensor) -> None:
        """Draws one id per row from `logits` `[r, v]`; `log_probs` `[r, v]` are what scores are made of."""
        noise = None
        if self.temperature > 0:
            noise = gumbel_noise(self.rows, logits.shape[1], logits.device, self.generator)
            noise = noise[self.live] if len(self.live) < self.rows else noise
        drawn, values = draw(logits, self.temperature, noise)
        self.ids = drawn[:, None]
        first = self.record.length == 0 and not self.record.pending
        self.record.add(drawn, log_probs.gather(1, self.ids)[:, 0], values)
        if first or len(self.record.pending) >= FLUSH_EVERY:
            self.record.flush(self.live)
        self.ended_before = self.ended
        if self.eos_id is not None:
            self.ended = self.ended | (drawn == self.eos_id)

    def newest(self) -> Tensor:
        """The ids just drawn, `[rows]`, padding where a row had ended before."""
        drawn = self.ids[:, 0].masked_fill(self.ended_before, self.pad_id)
        return drawn.new_full((self.rows,), self.pad_id).index_put((self.live,), drawn)

    def newest_rows(self) -> list[Tensor]:
        """What each of `rows` has gained, int64 `[1]`, or `[0]` where a row had ended before."""
        gained = [self.ids.new_empty(0)] * self.rows
        for row, drawn, ended in zip(self.live.tolist(), self.ids, self.ended_before.tolist(), strict=True):
            gained[row] = drawn[:0] if ended else drawn
        return gained

    def have_ended(self) -> list[bool]:
        """Which of `rows` have drawn end-of-sequence."""
        ended = torch.ones(self.rows, dtype=torch.bool, device=self.live.device)
        return ended.index_put((self.live,), self.ended).tolist()

    def dismiss(self, cache: Cache) -> bool:
        """Lets rows that ended leave the batch and the cache, if enough did; whether all have ended."""
        gone, live = int(self.ended.sum()), len(self.live)
        if gone < live and worth_leaving(gone, live):
            self.record.flush(self.live)
            keep = (~self.ended).nonzero()[:, 0]
            cache.select(keep)
            self.live, self.ids, self.ended = self.live[keep], self.ids[keep], self.ended[keep]
        return gone == live

    def result(self) -> DecodeResult:
        self.record.flush(self.live)
        return self.record.result(self.eos_id)


def restriction(
    banned: Tensor | None, filter_logits_fn: Callable[..., Tensor] | None, options: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """What makes of the model's logits `[r, v]` those that are drawn from."""

    def restrict(logits: Tensor) -> Tensor:
        if banned is not None:
            logits = logits.index_fill(1, banned, NEGATIVE_INFINITY)
        return logits if filter_logits_fn is None else filter_logits_fn(logits, **options)

    return restrict


def check_every(device: torch.device) -> int:
    """Steps between looks at who has ended. Reading a flag from an accelerator stalls it; steps too many are cut."""
    return 1 if device.type == "cpu" else 8


def worth_leaving(gone: int, live: int) -> bool:
    """Copying what the others hold pays when a quarter of the rows go, or only one stays."""
    return gone > 0 and (4 * gone >= live or live - gone == 1)
