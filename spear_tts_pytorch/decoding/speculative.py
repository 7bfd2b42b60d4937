"""Speculative sampling: cheap drafts, checked together by the full model (arXiv 2211.17192, 2302.01318).

In: a `DraftingStep`, whose drafts come from the lower layers of the model that checks them, and an empty cache. Out: a
`SpeculativeResult`. At lenience 1 ids have exactly the distribution that `sample_ids` draws from, whatever the drafts
are worth. Rows advance by unequal numbers of ids; rows that ended leave the batch. Knows nothing of models or sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.decoding.loop import Cache, DecodeResult, check_lengths, forbidden, restriction, worth_leaving
from spear_tts_pytorch.decoding.sampling import check_drawn, check_temperature, draw, gumbel_noise

FIRST_GUESS, GUESS_WEIGHT = 0.7, 4.0  # acceptance taken for granted before anything is seen, and for how many drafts
MEMORY = 0.9  # what an observation counts for after each further cycle


class DraftingCache(Cache, Protocol):
    """Decoding state of `r` rows: the start token and all ids of a row but the newest; empty at first, or a prompt."""

    lengths: list[int]

    def truncate(self, lengths: list[int]) -> None:
        """Forgets every row's positions from `lengths[row]` on, the start token's counted."""


class DraftingStep(Protocol):
    """A model in two parts: lower layers with an exit of their own, and the layers above."""

    def draft(self, ids: Tensor, cache: Any, head: bool = True) -> Tensor | None:
        """The exit's logits `[r, n', v]` after ids `[r, n]`; on an empty cache the start token goes first.

        Without `head` the ids are only read, and what is returned does not count.
        """

    def verify(self, cache: Any) -> Tensor:
        """The model's logits `[r, m, v]` at the `m` positions drafted since the last call."""


@dataclass(frozen=True)
class SpeculativeResult(DecodeResult):
    """What was drawn, and what the drafts were worth.

    Attributes:
        accepted: share of the drafts that became ids of the result; 0 if none was made.
        drafted: ids drafted, in all rows that had not ended.
        cycles: calls of the full model; plain sampling makes one per id.
    """

    accepted: float
    drafted: int
    cycles: int


@torch.no_grad()
def speculate(
    step: DraftingStep,
    cache: DraftingCache,
    rows: int,
    *,
    on_tokens: Callable[[list[Tensor]], object] | None = None,
    **options: Any,
) -> SpeculativeResult:
    """Draws ids several at a time, by `speculative_steps`, whose `options` it takes.

    Args:
        on_tokens: called after each cycle with the ids each of the `rows` rows has gained, int64 `[n]`, n may be 0.
    """
    steps = speculative_steps(step, cache, rows, **options)
    while True:
        try:
            run = next(steps)
        except StopIteration as stop:
            return stop.value
        if on_tokens is not None:
            on_tokens(run.newest_rows())


@torch.no_grad()
def speculative_steps(
    step: DraftingStep,
    cache: DraftingCache,
    rows: int,
    *,
    eos_id: int | None,
    pad_id: int,
    max_length: int,
    gamma: int = 5,
    lenience: float = 1.0,
    temperature: float = 1.0,
    filter_logits_fn: Callable[..., Tensor] | None = None,
    filter_fn_kwargs: Mapping[str, Any] | None = None,
    forbid_ids: Sequence[int] = (),
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    draft_cost: float = 1 / 6,
) -> Generator[Speculation, None, SpeculativeResult]:
    """Draws ids as `sampling_steps` does, several per call of the full model where drafts are good.

    Each cycle drafts up to `gamma` ids, the same number for all rows. That number follows from earlier cycles alone, so
    it leaves the distribution as it is. Waits for the device once a cycle; yields the state after each.

    Args:
        step, cache: see the module's docstring; the cache holds `rows` rows and is used up. For a moment a row may hold
            up to `gamma` positions more than `max_length`.
        gamma: most drafts per cycle and row.
        lenience: a draft x stays with probability `min(1, lenience * p(x) / q(x))`, p the model's distribution and q
            the drafts'. 1 is exact; above 1 more drafts stay and ids drift towards q. No effect at temperature 0.
        draft_cost: what one more draft adds to a cycle's cost, as a share of a full step. Only affects speed.
        eos_id, pad_id, max_length, temperature, filter_logits_fn, filter_fn_kwargs, forbid_ids, generator, device: as
            in `sampling_steps`; filter, temperature and forbidden ids act on drafts and model alike.

    Raises:
        ValueError: as `sampling_steps`; `gamma` below 1, `lenience` below 1 or not finite, negative `draft_cost`.
    """
    check_lengths(rows, max_length)
    check_temperature(temperature)
    check_speculation(gamma, lenience, draft_cost)
    device = torch.device(device)
    restrict = restriction(forbidden(forbid_ids, device), filter_logits_fn, dict(filter_fn_kwargs or {}))
    options = temperature, lenience, eos_id, max_length, generator, device
    run = Speculation(step, cache, rows, _Pace(gamma, draft_cost), restrict, *options)
    while run.live_rows:
        run.cycle()
        yield run
    return run.result(pad_id)


def check_speculation(gamma: int, lenience: float, draft_cost: float = 0.0) -> None:
    """Raises ValueError unless the options of speculation make sense."""
    if not isinstance(gamma, int) or gamma < 1:
        raise ValueError(f"spec_decode_gamma must be a whole number, at least 1 draft per cycle, got {gamma!r}")
    if not 1 <= lenience < math.inf:
        raise ValueError(
            f"spec_decode_lenience must be a number >= 1 (1 = exact, more accepts more drafts), got {lenience}"
        )
    if not 0 <= draft_cost < math.inf:
        raise ValueError(f"draft_cost must be a number >= 0, a share of a full step, got {draft_cost}")


def judge(drafts: Tensor, p: Tensor, q: Tensor, uniform: Tensor, lenience: float = 1.0) -> tuple[Tensor, Tensor]:
    """Which drafts stay, and what the id behind them is drawn from.

    In: `drafts` int64 `[r, k]`, drawn from `q` `[r, >= k, v]`; the model's probabilities `p` `[r, k + 1, v]`; `uniform`
    `[r, k]` in [0, 1). Out: the number that stay of each row `[r]`, and the weights of the next id `[r, v]`, of any sum.
    """
    k = drafts.shape[1]
    of_p, of_q = (x[:, :k].gather(2, drafts[..., None])[..., 0] for x in (p, q))
    count = (uniform * of_q < lenience * of_p).long().cumprod(dim=1).sum(dim=1)
    row = torch.arange(len(drafts), device=drafts.device)
    model = p[row, count]
    rest = (model - F.pad(q[:, :k], (0, 0, 0, 1))[row, count]).clamp_min(0)  # behind the last draft all of p is left
    # p = q leaves nothing, and then a draft is refused only by rounding
    return count, torch.where(rest.sum(dim=1, keepdim=True) > 0, rest, model)


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    """What ids are drawn from, given restricted logits `[..., v]`; at temperature 0 all of it is on the best id."""
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.max(dim=-1, keepdim=True).indices, 1.0)
    return (logits / temperature).softmax(dim=-1)


class _Pace:
    """How many drafts pay, from the acceptance observed so far; recent cycles count more."""

    def __init__(self, gamma: int, draft_cost: float):
        self.gamma, self.draft_cost = gamma, draft_cost
        self.hits, self.trials = FIRST_GUESS * GUESS_WEIGHT, GUESS_WEIGHT

    def observe(self, hits: float, trials: float) -> None:
        self.hits, self.trials = MEMORY * self.hits + hits, MEMORY * self.trials + trials

    def drafts(self, most: int) -> int:
        """The number, at most `most`, with the best gain: `1 + a + .. + a ** k` ids at the cost `1 + k * draft_cost`.

        0 where drafts are no good; acceptance is observed all the same.
        """
        rate, numbers = self.hits / self.trials, range(min(self.gamma, most) + 1)
        return max(numbers, key=lambda k: sum(rate**i for i in range(k + 1)) / (1 + k * self.draft_cost))


@dataclass
class Speculation:
    """The rows still in the batch, the ids of all rows, and the cycle that adds to them."""

    step: DraftingStep
    cache: DraftingCache
    rows: int
    pace: _Pace
    restrict: Callable[[Tensor], Tensor]
    temperature: float
    lenience: float
    eos_id: int | None
    max_length: int
    generator: torch.Generator | None
    device: torch.device

    def __post_init__(self) -> None:
        rows, device = self.rows, self.device
        self.ids = torch.zeros(rows, 64, dtype=torch.long, device=device)  # behind a row's length stands what is void
        self.log_probs = torch.zeros(rows, 64, device=device)
        self.counts = [0] * rows  # the lengths, on the host
        self.begun = list(self.cache.lengths)  # positions of a prompt, but for its last id; 0 without
        self.live_rows, self.gone = list(range(rows)), [False] * rows  # rows in the batch, and which of them have ended
        self.live = torch.arange(rows, device=device)  # the same on the device
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.last = torch.empty(rows, 0, dtype=torch.long, device=device)  # the newest id of each, [r, 1] later
        self.drafted = self.accepted = self.cycles = 0

    def _gumbel(self, size: int) -> Tensor | None:
        """Noise `[r, size]`, drawn for ended rows too: what a row gets does not depend on when others leave the batch."""
        return gumbel_noise(self.rows, size, self.device, self.generator)[self.live] if self.temperature > 0 else None

    def _uniform(self, size: int) -> Tensor:
        if self.temperature == 0:  # probabilities are 0 and 1: any number above 0 and below 1 decides alike
            return torch.full((len(self.live), size), 0.5, device=self.device)
        source = self.device if self.generator is None else self.generator.device
        return torch.rand(self.rows, size, device=source, generator=self.generator).to(self.device)[self.live]

    def _draft(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """`k` drafts per row, `[r, k]`, the probabilities of each `[r, n, v]` and the best logits `[r, n]`; n is 1 or k.

        The cache gains `k + 1` positions: the last id of each row and its drafts.
        """
        ids, drafts, q, best = self.last, [self.last[:, :0]], [], []
        for index in range(k + 1):
            if index == max(k, 1):
                self.step.draft(ids, self.cache, head=False)
                break
            # without drafts, the first position tells what they would be worth
            logits = self.restrict(self.step.draft(ids, self.cache)[:, -1].float())
            q.append(_probabilities(logits, self.temperature))
            best.append(logits.amax(dim=-1))
            if index < k:
                ids = draw(logits, self.temperature, self._gumbel(logits.shape[1]))[0][:, None]
                drafts.append(ids)
        return torch.cat(drafts, dim=1), torch.stack(q, dim=1), torch.stack(best, dim=1)

    def _gain(self, tokens: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """How many of `tokens` `[r, k + 1]` each row gains, `[r]`, and whether it has ended, given the drafts kept."""
        gained, room = kept + 1, (self.max_length - self.lengths).masked_fill(self.ended, 0)
        if self.eos_id is None:
            return torch.minimum(gained, room), gained >= room
        is_eos = tokens == self.eos_id
        to_eos = torch.where(is_eos.any(dim=1), is_eos.int().argmax(dim=1) + 1, self.max_length + 1)
        return torch.minimum(torch.minimum(gained, to_eos), room), (gained >= room) | (gained >= to_eos)

    def cycle(self) -> None:
        """Adds 1 to `k + 1` ids to each row that has not ended."""
        shortest = min(self.counts[row] for row, gone in zip(self.live_rows, self.gone, strict=True) if not gone)
        k = self.pace.drafts(self.max_length - shortest - 1)  # what a longer row gets too many is cut
        drafts, q, best = self._draft(k)
        logits = self.step.verify(self.cache)[:, -(k + 1) :].float()
        log_probs = logits.log_softmax(dim=-1)  # before the filter, which may write into its input
        allowed = self.restrict(logits.flatten(0, 1)).reshape(logits.shape)
        p = _probabilities(allowed, self.temperature)
        kept, weights = judge(drafts, p, q, self._uniform(k), self.lenience)
        final, _ = draw(weights.log(), 1.0, self._gumbel(weights.shape[1]))
        tokens = F.pad(drafts, (0, 1)).scatter_(1, kept[:, None], final[:, None])
        gained, self.ended = self._gain(tokens, kept)
        n = q.shape[1]
        counted = torch.arange(k + 1, device=tokens.device) < gained[:, None]
        best = torch.minimum(allowed.amax(dim=-1), F.pad(best, (0, k + 1 - n), value=math.inf))
        unusable = (counted & ~torch.isfinite(best)).any(dim=1)
        hits = torch.minimum(q, self.lenience * p[:, :n]).sum(dim=-1).masked_fill(~counted[:, :n], 0).sum(dim=1)
        report = [gained, self.ended, torch.minimum(kept, gained), hits, unusable]
        *report, unusable = torch.stack([column.float() for column in report]).tolist()
        if any(unusable):
            check_drawn(best[counted])
        self._write(tokens, log_probs.gather(2, tokens[..., None])[..., 0])
        self.lengths = self.lengths + gained
        self.last = tokens.gather(1, (gained - 1).clamp_min(0)[:, None])  # of rows that ended, any id will do
        self._settle(k, tokens, report)

    def _write(self, ids: Tensor, log_probs: Tensor) -> None:
        """Writes `[r, n]` behind what the rows have."""
        n, size = ids.shape[1], self.ids.shape[1]
        if max(self.counts) + n > size:
            self.ids, self.log_probs = F.pad(self.ids, (0, size + n)), F.pad(self.log_probs, (0, size + n))
        place = self.live[:, None], self.lengths[:, None] + torch.arange(n, device=ids.device)
        self.ids[place], self.log_probs[place] = ids, log_probs

    def _settle(self, k: int, tokens: Tensor, report: list[list[float]]) -> None:
        """What a cycle changes on the host and in the cache; lets rows that ended leave the batch, if enough did."""
        gained, ended, kept, hits = report
        numbers, self.gone = [int(number) for number in gained], [end > 0 for end in ended]
        self.news = self.live_rows, numbers, tokens
        for row, number in zip(self.live_rows, numbers, strict=True):
            self.counts[row] += number
        self.cycles += 1
        self.drafted += k * sum(number > 0 for number in numbers)
        self.accepted += int(sum(kept))
        self.pace.observe(sum(hits), sum(min(number, max(k, 1)) for number in numbers))
        if all(self.gone):
            self.live_rows = []
            return
        self.cache.truncate([self.begun[row] + self.counts[row] for row in self.live_rows])
        if worth_leaving(sum(self.gone), len(self.gone)):
            stay = [i for i, end in enumerate(self.gone) if not end]
            self.live_rows, self.gone = [self.live_rows[i] for i in stay], [False] * len(stay)
            keep = torch.tensor(stay, device=self.live.device)
            self.cache.select(keep)
            rows = self.live, self.ended, self.lengths, self.last
            self.live, self.ended, self.lengths, self.last = (values[keep] for values in rows)

    def newest_rows(self) -> list[Tensor]:
        """What the last cycle added to each row of all, int64 `[n]`."""
        rows, numbers, tokens = self.news
        new = [tokens.new_empty(0)] * self.rows
        for row, number, ids in zip(rows, numbers, tokens, strict=True):
            new[row] = ids[:number]
        return new

    def have_ended(self) -> list[bool]:
        """Which of all rows have ended."""
        if not self.live_rows:
            return [True] * self.rows
        going = {row for row, gone in zip(self.live_rows, self.gone, strict=True) if not gone}
        return [row not in going for row in range(self.rows)]

    def result(self, pad_id: int) -> SpeculativeResult:
        counts, longest = torch.tensor(self.counts, device=self.ids.device), max(self.counts)
        void = torch.arange(longest, device=counts.device) >= counts[:, None]
        ids, truncated = self.ids[:, :longest], torch.zeros_like(counts, dtype=torch.bool)
        if self.eos_id is not None:
            truncated = ~(ids == self.eos_id).any(dim=1)  # a row without it has no void part
        scores = self.log_probs[:, :longest].masked_fill(void, 0).sum(dim=1) / counts
        share = self.accepted / max(self.drafted, 1)
        return SpeculativeResult(ids.masked_fill(void, pad_id), scores, truncated, share, self.drafted, self.cycles)
