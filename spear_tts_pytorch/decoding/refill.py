"""Continuous batching: where a source has ended, the next one takes its place, so that the batch stays full.

In: `step(ids [r, n], cache) -> logits [r, n', v]`, as in `loop.py`, and `admit(n)`, which gives caches of up to n more
sources and the logits of their first ids. Out: the number and the hypotheses of each source, as they end. What a source
gets does not depend on which others are in the batch. Knows nothing of models, modalities or prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.beam import NOTHING_LEFT, Hypothesis, Search, beam_log_probs, is_identity
from spear_tts_pytorch.decoding.loop import Step, check_every, worth_leaving
from spear_tts_pytorch.decoding.sampling import check_drawn, draw, gumbel_noise

NOISE_BLOCK = 16_384  # values of noise drawn at once for a row
ROOM = 64  # ids of a row for which room is made at first
SHARE_TO_FILL = 8  # one slot of so many must have ended before the waiting are let in: reading their first ids costs


class Cache(Protocol):
    """Decoding state of `s` sources with equally many rows each."""

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`), in place."""

    def replace(self, sources: list[int], other: Any) -> None:
        """The sources of `other`, with as many rows each, take the places `sources`, in order."""


class Admitted(NamedTuple):
    """Sources that begin: their numbers, a cache with a row for each, and the logits `[n, v]` of their first ids."""

    numbers: list[int]
    cache: Cache
    logits: Tensor


class Strategy(Protocol):
    """The state of the sources in the batch, each in a slot with equally many rows."""

    numbers: list[int]  # which source is in each slot
    rows: int  # in each slot

    def advance(self, logits: Tensor) -> Tensor | None:
        """One more id for each row from logits `[r, v]`; the former row of each, int64 `[new r]`, None for the same."""

    def last_ids(self) -> Tensor:
        """The newest id of each row, `[r, 1]`."""

    def ended(self, waiting: bool) -> list[int]:
        """Slots to clear now; with others `waiting` for them or not. A few that have ended may stay: clearing costs."""

    def hypotheses(self, slot: int) -> list[Hypothesis]:
        """What was found for the source in a slot, best first."""

    def replace(self, slots: list[int], other: Any) -> None:
        """The sources of another state, one id old, take these slots."""

    def keep(self, slots: list[int]) -> None:
        """Goes on with these slots only."""


@torch.no_grad()
def decode_many(
    step: Step, admit: Callable[[int], Admitted | None], begin: Callable[[list[int]], Strategy], slots: int
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Decodes all sources that `admit` gives, `slots` of them at a time.

    Args:
        admit: n more sources; fewer only if these are the last, None after them.
        begin: the state of sources with these numbers before their first id.

    Yields:
        The number of a source and its hypotheses, best first.

    Raises:
        ValueError: NaN logits, or nothing left to choose from.
    """

    def admitted(n: int) -> tuple[Strategy, Cache] | None:
        new = admit(n)
        if new is None:
            return None
        state = begin(new.numbers)
        _follow(state.advance(new.logits.float()), new.cache)
        return state, new.cache

    def refill(ended: list[int]) -> list[int]:
        """Lets waiting sources take the slots; those for which there are none left."""
        new = admitted(len(ended))
        if new is None:
            return ended
        number = len(new[0].numbers)
        cache.replace(ended[:number], new[1])
        state.replace(ended[:number], new[0])
        return ended[number:]

    first = admitted(slots)
    if first is None:
        return
    (state, cache), waiting = first, True
    while True:
        ended = state.ended(waiting)
        for slot in ended:
            yield state.numbers[slot], state.hypotheses(slot)
        left = refill(ended) if ended and waiting else ended
        if left:
            waiting = False
            stay = [slot for slot in range(len(state.numbers)) if slot not in left]
            if not stay:
                return
            cache.select(torch.tensor([slot * state.rows + row for slot in stay for row in range(state.rows)]))
            state.keep(stay)
        if not ended:  # else of the new ones some may have ended with their first id
            _follow(state.advance(step(state.last_ids(), cache)[:, -1].float()), cache)


def _follow(taken: Tensor | None, cache: Cache) -> None:
    if taken is not None:
        cache.select(taken)


class Sampling:
    """Sampling, or with temperature 0 greedy decoding, as a strategy of `decode_many`. A row in each slot.

    Args:
        numbers: of the sources.
        generator: of the noise of a source, by its number: nothing else decides what is drawn for it.
        restrict: logits `[r, v]` to those that are drawn from.
        max_length: most ids per row, end-of-sequence included.
    """

    rows = 1

    def __init__(
        self,
        numbers: list[int],
        *,
        generator: Callable[[int], torch.Generator],
        restrict: Callable[[Tensor], Tensor],
        temperature: float,
        eos_id: int | None,
        max_length: int,
        device: torch.device,
    ):
        self.numbers, self.generators = list(numbers), [generator(number) for number in numbers]
        self.restrict, self.temperature, self.eos_id, self.max_length = restrict, temperature, eos_id, max_length
        self.lengths = [0] * len(numbers)  # ids of each row, here and on the device
        self.places = torch.zeros(len(numbers), dtype=torch.long, device=device)
        self.ids = torch.zeros(len(numbers), ROOM, dtype=torch.long, device=device)  # [s, room]
        self.log_probs = torch.zeros(len(numbers), ROOM, device=device)  # [s, room]
        self.over = torch.zeros(len(numbers), dtype=torch.bool, device=device)  # [s], drew end-of-sequence
        self.noise: Tensor | None = None  # [s, block, v], of which each row uses one [v] after the other
        self.unchecked: list[Tensor] = []

    def advance(self, logits: Tensor) -> None:
        slots = torch.arange(len(self.numbers), device=logits.device)
        drawn, values = draw(self.restrict(logits), self.temperature, self._drawn_noise(slots, logits.shape[1]))
        self.unchecked.append(values)
        if max(self.lengths) == self.ids.shape[1]:
            self.ids, self.log_probs = (
                torch.cat((held, torch.zeros_like(held)), 1) for held in (self.ids, self.log_probs)
            )
        self.ids[slots, self.places] = drawn
        self.log_probs[slots, self.places] = logits.log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
        self.newest = drawn[:, None]
        self.lengths, self.places = [length + 1 for length in self.lengths], self.places + 1
        if self.eos_id is not None:
            self.over = self.over | (drawn == self.eos_id)

    def _drawn_noise(self, slots: Tensor, size: int) -> Tensor | None:
        if self.temperature == 0:
            return None
        block = max(1, NOISE_BLOCK // size)
        if self.noise is None:
            self.noise = torch.empty(len(slots), block, size, device=slots.device)
        for slot, length in enumerate(self.lengths):
            if length % block == 0:
                self.noise[slot] = gumbel_noise(block, size, slots.device, self.generators[slot])
        return self.noise[slots, self.places % block]

    def last_ids(self) -> Tensor:
        return self.newest

    def ended(self, waiting: bool) -> list[int]:
        late = max(self.lengths) >= self.max_length
        if len(self.unchecked) < check_every(self.ids.device) and not late:
            return []
        check_drawn(torch.cat(self.unchecked))
        self.unchecked = []
        over = [
            flag or length >= self.max_length for flag, length in zip(self.over.tolist(), self.lengths, strict=True)
        ]
        slots = [slot for slot, flag in enumerate(over) if flag]
        enough = SHARE_TO_FILL * len(slots) >= len(over) if waiting else worth_leaving(len(slots), len(over))
        return slots if late or (slots and (enough or len(slots) == len(over))) else []

    def hypotheses(self, slot: int) -> list[Hypothesis]:
        ids = self.ids[slot, : min(self.lengths[slot], self.max_length)]
        ends = [] if self.eos_id is None else (ids == self.eos_id).nonzero()[:1, 0].tolist()
        ids = ids[: ends[0] + 1] if ends else ids
        score = float(self.log_probs[slot, : len(ids)].mean())
        return [Hypothesis(ids.clone(), score, truncated=self.eos_id is not None and not ends)]

    def replace(self, slots: list[int], other: Sampling) -> None:
        for slot, number, generator, length in zip(slots, other.numbers, other.generators, other.lengths, strict=True):
            self.numbers[slot], self.generators[slot], self.lengths[slot] = number, generator, length
        room = other.ids.shape[1]
        self.ids[slots, :room], self.log_probs[slots, :room] = other.ids, other.log_probs
        self.over[slots], self.newest[slots], self.places[slots] = other.over, other.newest, other.places
        if self.noise is not None:
            self.noise[slots] = other.noise
        self.unchecked += other.unchecked

    def keep(self, slots: list[int]) -> None:
        for name in ("numbers", "generators", "lengths"):
            setattr(self, name, [getattr(self, name)[slot] for slot in slots])
        for name in ("ids", "log_probs", "over", "newest", "places"):
            setattr(self, name, getattr(self, name)[slots])
        self.noise = None if self.noise is None else self.noise[slots]


class BeamSearch:
    """Beam search as a strategy of `decode_many`; the arguments are those of `beam_search`."""

    def __init__(
        self,
        numbers: list[int],
        *,
        beam_size: int,
        n_best: int,
        eos_id: int | None,
        max_length: int,
        length_penalty: float,
        temperature: float,
        forbid: Tensor | None,
        device: torch.device,
    ):
        self.search = Search(numbers, beam_size, n_best, eos_id, max_length, length_penalty, device)
        self.rows, self.temperature, self.forbid = beam_size, temperature, forbid

    @property
    def numbers(self) -> list[int]:
        return self.search.sources

    def advance(self, logits: Tensor) -> Tensor | None:
        if logits.shape[1] < self.rows:
            raise ValueError(
                f"beam_size {self.rows} must be at most the {logits.shape[1]} ids there are to choose from"
            )
        taken = self.search.advance(beam_log_probs(logits, self.temperature, self.forbid)).flatten()
        return None if is_identity(taken, len(logits)) else taken

    def last_ids(self) -> Tensor:
        return self.search.last_ids()

    def ended(self, waiting: bool) -> list[int]:
        return (~self.search.open).nonzero()[:, 0].tolist()

    def hypotheses(self, slot: int) -> list[Hypothesis]:
        found = self.search.kept.pop(self.numbers[slot])
        if not found:
            raise ValueError(NOTHING_LEFT)
        return found

    def replace(self, slots: list[int], other: BeamSearch) -> None:
        self.search.replace(slots, other.search)

    def keep(self, slots: list[int]) -> None:
        self.search.keep(torch.tensor(slots, device=self.search.open.device))
