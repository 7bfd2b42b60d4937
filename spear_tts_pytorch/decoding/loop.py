"""The decoding loop: one step after the other for a batch of sources, until all have ended.

In: `step(ids [r, n], cache) -> logits [r, n', v]`, of which the last position counts; a `Strategy`, which chooses ids from
logits; and `admit(n)`, which gives the next n sources. Out: after each step a `Progress` with the sources that ended. Where a
source has ended, the next one takes its slot, so that the batch stays full (continuous batching).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from spear_tts_pytorch.tokens import Vocabulary, pad_sequences

NAN_LOGITS = "logits hold NaN: the model's weights or its inputs are not finite"
SHARE_TO_FILL = 8  # new sources enter once 1 of 8 slots has ended: each entry costs an extra decoder step

S = TypeVar("S", bound="Strategy")
Step = Callable[[Tensor, Any], Tensor]
"""`step(ids [r, n], cache) -> logits [r, n', v]`."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One candidate of one source.

    Attributes:
        ids: int64 `[m]`, end-of-sequence included if it was reached.
        score: sampling: mean log-probability of an id; beam search: log-probability divided by `m ** length_penalty`.
        truncated: `max_length` came before end-of-sequence; False where there is no end-of-sequence.
    """

    ids: Tensor
    score: float
    truncated: bool


@dataclass(frozen=True, eq=False)
class DecodeResult:
    """The decoded ids of a batch.

    Attributes:
        ids: int64 `[b, n]`, end-of-sequence where it came and padding after it; n >= 1.
        scores: float32 `[b]`. Sampling: mean log-probability of an id, end-of-sequence included, under the unfiltered
            distribution at temperature 1. Beam search: the score of the best hypothesis.
        truncated: bool `[b]`, True where `max_length` came before end-of-sequence.
        n_best: the hypotheses of each source, best first, none twice; of sampling the one that was drawn.
    """

    ids: Tensor
    scores: Tensor
    truncated: Tensor
    n_best: list[list[Hypothesis]] = field(repr=False)


@dataclass(frozen=True)
class Limits:
    """The ids that end and fill rows, and those that rows never contain.

    Attributes:
        eos_id: ends a row; None for rows that only `max_length` ends.
        pad_id: fills rows that ended.
        forbid_ids: ids that are never chosen.
    """

    eos_id: int | None
    pad_id: int
    forbid_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Limits:
        """The limits of a vocabulary: padding that is an id is never chosen."""
        eos_id = vocabulary.eos_id if vocabulary.autoset_eos else None
        return cls(eos_id, vocabulary.pad_id, (vocabulary.pad_id,) if vocabulary.pad_id >= 0 else ())

    def banned(self, device: torch.device) -> Tensor | None:
        """The ids never chosen, int64 `[n]`, or None if there are none."""
        return torch.tensor(self.forbid_ids, device=device) if self.forbid_ids else None


class Cache(Protocol):
    """Decoding state of `s` sources, equally many rows each."""

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`), in place."""

    def replace(self, sources: list[int], other: Any) -> None:
        """The sources of `other`, with as many rows each, take the places `sources`, in order."""


class Strategy(Protocol):
    """How ids are chosen: the state of the sources in the batch, each in a slot with equally many rows."""

    numbers: list[int]  # which source is in each slot

    @property
    def rows(self) -> int:
        """Rows of each slot."""
        ...

    def advance(self, logits: Tensor) -> Tensor | None:
        """Adds an id to each row, from logits `[r, v]`; the former row of each, int64 `[new r]`, or None for the same."""

    def last_ids(self) -> Tensor:
        """The newest id of each row, `[r, 1]`."""
        ...

    def ended(self, waiting: bool) -> list[int]:
        """Slots to clear now, with other sources `waiting` for them or not. Ended slots may stay a while: clearing costs."""
        ...

    def hypotheses(self, slots: list[int]) -> list[list[Hypothesis]]:
        """The hypotheses of the sources in these slots, best first each."""
        ...

    def replace(self: S, slots: list[int], other: S) -> None:
        """The sources of another state, one id old, take these slots."""

    def keep(self, slots: list[int]) -> None:
        """Goes on with these slots only."""

    def gained(self) -> dict[int, Tensor]:
        """The new ids of each source since the last step, int64 `[n]`, by its number; for batches without refilled slots."""
        ...


class Progress(NamedTuple):
    """The news of a step: the sources that ended, with their hypotheses, and on request the new ids of each source."""

    finished: Mapping[int, list[Hypothesis]]
    gained: Callable[[], dict[int, Tensor]]


class Admitted(NamedTuple):
    """Sources that begin: their numbers, a cache with a row for each, and the logits `[n, v]` of their first ids."""

    numbers: list[int]
    cache: Cache
    logits: Tensor


def admit_all(
    step: Step, cache: Cache, numbers: Sequence[int], device: torch.device
) -> Callable[[int], Admitted | None]:
    """The `admit` of a batch of sources with these numbers, which all begin at once."""
    waiting = [list(numbers)]

    def admit(n: int) -> Admitted | None:
        if not waiting:
            return None
        nothing = torch.empty(len(numbers), 0, dtype=torch.long, device=device)
        return Admitted(waiting.pop(), cache, step(nothing, cache)[:, -1])

    return admit


@torch.no_grad()
def decode(
    step: Step,
    admit: Callable[[int], Admitted | None],
    begin: Callable[[list[int]], Strategy],
    slots: int,
) -> Iterator[Progress]:
    """Decodes all sources that `admit` gives, `slots` of them at a time.

    Args:
        step: see the module's docstring.
        admit: gives n more sources; fewer only if they are the last ones, None after them.
        begin: makes the state of sources with these numbers, before their first id.
        slots: most sources in the batch.

    Raises:
        ValueError: NaN logits, or no id left to choose from.
    """
    first = _admitted(admit, begin, slots)
    if first is None:
        return
    (state, cache), waiting = first, True
    while True:
        ended = state.ended(waiting)
        finished = zip(ended, state.hypotheses(ended), strict=True) if ended else ()
        yield Progress({state.numbers[slot]: found for slot, found in finished}, state.gained)
        left = ended
        if ended and waiting:
            new = _admitted(admit, begin, len(ended))
            waiting = new is not None
            if new is not None:
                taken, left = ended[: len(new[0].numbers)], ended[len(new[0].numbers) :]
                cache.replace(taken, new[1])
                state.replace(taken, new[0])
        if left:
            gone = set(left)
            stay = [slot for slot in range(len(state.numbers)) if slot not in gone]
            if not stay:
                return
            cache.select(torch.tensor([slot * state.rows + row for slot in stay for row in range(state.rows)]))
            state.keep(stay)
        if not (ended and waiting):  # new sources may have ended with their first id: look again before the next step
            _advance(state, cache, step(state.last_ids(), cache)[:, -1])


def _admitted(
    admit: Callable[[int], Admitted | None], begin: Callable[[list[int]], Strategy], n: int
) -> tuple[Strategy, Cache] | None:
    """The state and the cache of up to n new sources after their first id."""
    new = admit(n)
    if new is None:
        return None
    state = begin(new.numbers)
    _advance(state, new.cache, new.logits)
    return state, new.cache


def _advance(state: Strategy, cache: Cache, logits: Tensor) -> None:
    taken = state.advance(logits.float())
    if taken is not None:
        cache.select(taken)


def drained(steps: Iterator[Progress], on_step: Callable[[], object] = lambda: None) -> dict[int, list[Hypothesis]]:
    """Runs a strategy to its end: the hypotheses of each source, best first, by its number."""
    found: dict[int, list[Hypothesis]] = {}
    for progress in steps:
        on_step()
        found.update(progress.finished)
    return found


def collected(found: Mapping[int, list[Hypothesis]], pad_id: int) -> DecodeResult:
    """The result of a batch from the hypotheses of its sources, in the order of their numbers."""
    n_best = [found[number] for number in sorted(found)]
    best = [hypotheses[0] for hypotheses in n_best]
    device = best[0].ids.device
    return DecodeResult(
        ids=pad_sequences([one.ids for one in best], pad_id),
        scores=torch.tensor([one.score for one in best], dtype=torch.float32, device=device),
        truncated=torch.tensor([one.truncated for one in best], device=device),
        n_best=n_best,
    )


def check_every(device: torch.device) -> int:
    """Steps between two checks for ended rows. Each check makes an accelerator wait. Ids after the end are cut."""
    return 1 if device.type == "cpu" else 8


def worth_leaving(gone: int, live: int) -> bool:
    """Whether ended rows should leave the batch: a quarter of the rows ended, or one row is left. Leaving costs a copy."""
    return gone > 0 and (4 * gone >= live or live - gone == 1)
