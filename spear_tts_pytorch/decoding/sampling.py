"""Sampling and greedy decoding: one id for each row and step.

In: logits `[r, v]`, options, and the noise of each row. Out: ids, drawn from `softmax(filter(logits) / temperature)`. A row's
ids depend on its key and on its own logits, not on other rows or on how sources are put into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.decoding.filters import min_p, top_k, top_p
from spear_tts_pytorch.decoding.loop import SHARE_TO_FILL, Hypothesis, Limits, check_every, worth_leaving
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.decoding.restriction import Prompts, Restriction
from spear_tts_pytorch.utils.noise import gumbel_at, row_keys
from spear_tts_pytorch.utils.values import shown

__all__ = ["Sampling", "draw", "keys_of", "min_p", "seed_of", "top_k", "top_p"]

FLUSH_EVERY = 64  # steps after which new ids are written to the history and checked
LARGEST_SEED = 2**63 - 1
NOISE_AHEAD, LEAST_AHEAD = 16_384, 4  # values of noise, and steps, that are made at once


def seed_of(generator: torch.Generator | None) -> int:
    """A seed drawn from a generator, or from torch's global one; raises TypeError for anything else."""
    given: object = generator
    if given is not None and not isinstance(given, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {shown(given)}")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def keys_of(numbers: Sequence[int], seed: int | Sequence[int], device: torch.device) -> Tensor:
    """Keys of the noise of sources with these numbers, int64 `[n]`: made of one seed and the number, or of its own seed."""
    if isinstance(seed, int):
        return row_keys(torch.tensor(numbers, dtype=torch.long, device=device), seed & LARGEST_SEED)
    seeds = [seed[number] & LARGEST_SEED for number in numbers]
    return row_keys(torch.tensor(seeds, dtype=torch.long, device=device))


def draw(logits: Tensor, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """The id of each row with the highest `logits / temperature + noise`, `[b]`, and this value, `[b]`.

    With Gumbel noise `[b, v]` this draws from `softmax(logits / temperature)`; without noise it takes the best id. The
    value is not finite if all logits of a row are -inf, or one is NaN. `Restriction.check` tests this later: each test
    makes an accelerator wait.
    """
    if temperature > 0 and noise is not None:
        logits = torch.add(noise, logits, alpha=1 / temperature)
    values, ids = logits.max(dim=-1)
    return ids, values


class Sampling:
    """Sampling as a strategy of `loop.decode`, greedy at temperature 0. One row for each source.

    Args:
        numbers: the sources' numbers.
        options: `temperature`, `max_length` and those of `Restriction` count.
        limits: of the target vocabulary.
        seed: one for all sources, or a sequence with a seed for each source number.
        device: of the logits.
        prompts: the ids that each source's row begins with, by its number.
    """

    rows: int = 1

    def __init__(
        self,
        numbers: Sequence[int],
        *,
        options: DecodingOptions,
        limits: Limits,
        seed: int | Sequence[int],
        device: torch.device,
        prompts: Prompts = None,
    ):
        self.temperature, self.max_length, self.eos_id = options.temperature, options.max_length, limits.eos_id
        self.restrict, self.every = Restriction(options, limits, device), check_every(device)
        self.history = self.restrict.history(numbers, prompts)
        self.numbers = list(numbers)
        self.columns = 0  # steps since the oldest source in the batch began
        # column of each source's first id, on the host and on the device
        self.begun = [0] * len(self.numbers)
        self.first = torch.zeros(len(self.numbers), dtype=torch.long, device=device)
        rows = len(self.numbers)
        self.keys = keys_of(self.numbers, seed, device)  # [s]
        self.ids = torch.zeros(
            rows, FLUSH_EVERY, dtype=torch.long, device=device
        )  # [s, room], all columns that are written
        self.log_probs = torch.zeros(rows, FLUSH_EVERY, dtype=torch.float32, device=device)  # [s, room]
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []  # ids, log-probabilities and values [s], not yet written
        self.newest = torch.empty(rows, 0, dtype=torch.long, device=device)  # [s, 1] after the first step
        self.over: Tensor = torch.zeros(rows, dtype=torch.bool, device=device)  # [s], reached end-of-sequence
        self.over_before = self.over  # [s], one step ago
        self.noise = torch.empty(rows, 0, 1, dtype=torch.float32, device=device)  # [s, steps, v], made ahead
        self.noise_used = 0  # steps of it

    def advance(self, logits: Tensor) -> None:
        noise = self._next_noise(logits.shape[1]) if self.temperature > 0 else None
        log_probs = logits.log_softmax(dim=-1)  # before the filter, which may write into its input
        drawn, values = draw(self.restrict(logits, self.history), self.temperature, noise)
        values = values.masked_fill(self.over, 0)  # a row that has ended may have no choice
        self.newest = drawn[:, None]
        if self.history is not None:
            self.history.append(self.newest, (~self.over).long())
        self.pending.append((drawn, log_probs.gather(1, self.newest)[:, 0], values))
        self.columns += 1
        if self.columns == 1 or len(self.pending) >= FLUSH_EVERY:
            self._flush()
        self.over_before = self.over
        if self.eos_id is not None:
            self.over = self.over | (drawn == self.eos_id)

    def _next_noise(self, size: int) -> Tensor:
        """Noise `[s, v]` of each source's next id: a function of its key and of how many ids it has."""
        if self.noise_used == self.noise.shape[1]:
            left = self.max_length - self.columns + max(self.begun)  # of the youngest source
            steps = max(1, min(max(LEAST_AHEAD, NOISE_AHEAD // (len(self.numbers) * size)), left))
            self.noise = gumbel_at(self.keys, _ahead(self.columns - self.first, steps), size)
            self.noise_used = 0
        self.noise_used += 1
        return self.noise[:, self.noise_used - 1]

    def last_ids(self) -> Tensor:
        return self.newest

    def gained(self) -> dict[int, Tensor]:
        over_before = cast("list[bool]", self.over_before.tolist())
        rows = zip(self.numbers, self.newest, over_before, strict=True)
        return {number: ids for number, ids, over in rows if not over}

    def ended(self, waiting: bool) -> list[int]:
        full = self.columns - min(self.begun) >= self.max_length
        if not full and (self.eos_id is None or self.columns % self.every):
            return []
        full_before = self.columns - self.max_length  # sources that began at this column or before it are full
        rows = zip(cast("list[bool]", self.over.tolist()), self.begun, strict=True)
        slots = [slot for slot, (over, begun) in enumerate(rows) if over or begun <= full_before]
        live = len(self.numbers)
        enough = SHARE_TO_FILL * len(slots) >= live if waiting else worth_leaving(len(slots), live)
        return slots if full or (slots and (enough or len(slots) == live)) else []

    def hypotheses(self, slots: list[int]) -> list[list[Hypothesis]]:
        self._flush()
        place = torch.tensor(slots, device=self.ids.device)
        begun = torch.tensor([self.begun[slot] for slot in slots], device=self.ids.device)
        ids, columns = self.ids[place, : self.columns], torch.arange(self.columns, device=self.ids.device)
        lengths = (self.columns - begun).clamp_max(self.max_length)
        ends = torch.zeros_like(ids, dtype=torch.bool)
        if self.eos_id is not None:
            ends = (ids == self.eos_id) & (columns >= begun[:, None]) & (columns < (begun + lengths)[:, None])
        over = ends.any(dim=1)
        lengths = torch.where(over, ends.int().argmax(dim=1) - begun + 1, lengths)
        own = (columns >= begun[:, None]) & (columns < (begun + lengths)[:, None])
        scores = self.log_probs[place, : self.columns].masked_fill(~own, 0).sum(dim=1) / lengths
        truncated = cast("list[bool]", (~over).tolist() if self.eos_id is not None else [False] * len(slots))
        parts = cast("list[list[int]]", torch.stack((begun, begun + lengths), dim=1).tolist())
        rows = zip(ids, parts, cast("list[float]", scores.tolist()), truncated, strict=True)
        return [[Hypothesis(row[first:last], score, cut)] for row, (first, last), score, cut in rows]

    def replace(self, slots: list[int], other: Sampling) -> None:
        self._flush()
        other._flush()
        last = self.columns - 1
        for slot, number in zip(slots, other.numbers, strict=True):
            self.numbers[slot], self.begun[slot] = number, last
        self.ids[slots, last], self.log_probs[slots, last] = other.ids[:, 0], other.log_probs[:, 0]
        self.first[slots] = last
        self.over[slots], self.newest[slots], self.keys[slots] = other.over, other.newest, other.keys
        self.over_before = self.over.clone()
        if self.history is not None and other.history is not None:
            self.history.replace(slots, other.history)
        _, steps, size = self.noise[:, self.noise_used :].shape
        if steps:
            self.noise[slots, self.noise_used :] = gumbel_at(
                other.keys, _ahead(torch.ones_like(other.keys), steps), size
            )
        self._forget(min(self.begun))

    def _forget(self, columns: int) -> None:
        """Drops the first columns, whose sources have left the batch, once they are more than half."""
        if 2 * columns > self.columns:
            self.ids, self.log_probs = self.ids[:, columns:].clone(), self.log_probs[:, columns:].clone()
            self.columns, self.begun = self.columns - columns, [begun - columns for begun in self.begun]
            self.first = self.first - columns

    def keep(self, slots: list[int]) -> None:
        self._flush()
        self.numbers, self.begun = ([held[slot] for slot in slots] for held in (self.numbers, self.begun))
        place = torch.tensor(slots, device=self.ids.device)
        self.ids, self.log_probs, self.keys = self.ids[place], self.log_probs[place], self.keys[place]
        self.over, self.newest, self.noise = self.over[place], self.newest[place], self.noise[place]
        self.over_before, self.first = self.over_before[place], self.first[place]
        if self.history is not None:
            self.history.select(place)
            self.history.trim()

    def _flush(self) -> None:
        """Writes pending ids to the history, and checks that each draw had something to choose from."""
        if not self.pending:
            return
        ids, log_probs, values = (torch.stack(column, dim=1) for column in zip(*self.pending, strict=True))
        self.restrict.check(values)
        start, room = self.columns - len(self.pending), self.ids.shape[1]
        if self.columns > room:
            more = (0, max(room, FLUSH_EVERY))
            self.ids, self.log_probs = F.pad(self.ids, more), F.pad(self.log_probs, more)
        self.ids[:, start : self.columns], self.log_probs[:, start : self.columns] = ids, log_probs
        self.pending.clear()


def _ahead(ages: Tensor, steps: int) -> Tensor:
    """The next `steps` places of rows that have `ages` `[s]` ids: `[s, steps]`."""
    return ages[:, None] + torch.arange(steps, device=ages.device)
