"""Speculative sampling: cheap drafts, checked together by the full model (arXiv 2211.17192, 2302.01318).

In: a `DraftingStep`, whose drafts come from the lower layers of the model that checks them, and a cache. Out: ids, several for
each call of the full model. At lenience 1 they have exactly the distribution of sampling, whatever the drafts are worth. Rows
advance by unequal numbers of ids; rows that ended leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.decoding.loop import Cache, DecodeResult, Hypothesis, Limits, Progress, collected, worth_leaving
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.decoding.restriction import Prompts, Restriction
from spear_tts_pytorch.decoding.sampling import draw, keys_of
from spear_tts_pytorch.utils.noise import gumbel_at, uniform_at

FIRST_GUESS, GUESS_WEIGHT = 0.7, 4.0  # assumed acceptance before any is seen, and for how many drafts it counts
MEMORY = 0.9  # weight that an observation keeps after each further cycle
ROOM = 64  # ids of a row for which room is made at first
DRAFT, ACCEPT = 1, 2  # purposes of noise: to draw the id at a place, and to judge its draft


class DraftingCache(Cache, Protocol):
    """Decoding state of `r` rows: the start token and all ids of a row but the newest; empty at first, or a prompt."""

    @property
    def lengths(self) -> list[int]:
        """Positions of each row."""
        ...

    def truncate(self, lengths: list[int]) -> None:
        """Forgets every row's positions from `lengths[row]` on, the start token's counted."""


class DraftingStep(Protocol):
    """A model in two parts: lower layers with an exit of their own, and the layers above."""

    def draft(self, ids: Tensor, cache: Any, head: bool = True) -> Tensor | None:
        """The exit's logits `[r, n', v]` after ids `[r, n]`; on an empty cache the start token goes first.

        Without `head` the ids are only read, and None may be returned.
        """

    def verify(self, cache: Any) -> Tensor:
        """The model's logits `[r, m, v]` at the `m` positions drafted since the last call."""
        ...


@dataclass(frozen=True, eq=False)
class SpeculativeResult(DecodeResult):
    """The result of a batch, and the worth of its drafts.

    Attributes:
        accepted: share of the drafts that became ids of the result; 0 if none was made.
        drafted: ids drafted, in all rows that had not ended.
        cycles: calls of the full model; plain sampling makes one per id.
    """

    accepted: float
    drafted: int
    cycles: int


def judge(drafts: Tensor, p: Tensor, q: Tensor, uniform: Tensor, lenience: float = 1.0) -> tuple[Tensor, Tensor]:
    """Decides which drafts stay, and the weights that the next id is drawn with.

    Args:
        drafts: int64 `[r, k]`, drawn from `q`.
        p: the model's probabilities, `[r, k + 1, v]`.
        q: the drafts' probabilities, `[r, >= k, v]`.
        uniform: `[r, k]` in [0, 1).
        lenience: a draft x stays with probability `min(1, lenience * p(x) / q(x))`. 1 is exact.

    Returns:
        How many drafts of each row stay, `[r]`, and the weights of the next id, `[r, v]`, of any sum.
    """
    k = drafts.shape[1]
    of_p, of_q = (x[:, :k].gather(2, drafts[..., None])[..., 0] for x in (p, q))
    count = (uniform * of_q < lenience * of_p).long().cumprod(dim=1).sum(dim=1)
    row = torch.arange(len(drafts), device=drafts.device)
    model = p[row, count]
    rest = (model - F.pad(q[:, :k], (0, 0, 0, 1))[row, count]).clamp_min(0)  # behind the last draft all of p is left
    # if p = q, nothing is left, and only rounding can refuse a draft
    return count, torch.where(rest.sum(dim=1, keepdim=True) > 0, rest, model)


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    """The distribution that ids are drawn from, from restricted logits `[..., v]`; at temperature 0 the best id has it all."""
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.max(dim=-1, keepdim=True).indices, 1.0)
    return (logits / temperature).softmax(dim=-1)


class _Pace:
    """Chooses how many drafts to make, from the acceptance observed so far; recent cycles count more."""

    def __init__(self, gamma: int, draft_cost: float):
        self.gamma, self.draft_cost = gamma, draft_cost
        self.hits, self.trials = FIRST_GUESS * GUESS_WEIGHT, GUESS_WEIGHT

    def observe(self, hits: float, trials: float) -> None:
        self.hits, self.trials = MEMORY * self.hits + hits, MEMORY * self.trials + trials

    def drafts(self, most: int) -> int:
        """The number, at most `most`, with the best gain: `1 + a + .. + a ** k` ids at the cost `1 + k * draft_cost`.

        0 where drafts are no good; acceptance is observed all the same.
        """
        rate, best, chosen = self.hits / self.trials, 1.0, 0
        ids, last = 1.0, 1.0  # ids to expect, and the probability of the last of them
        for k in range(1, min(self.gamma, most) + 1):
            last *= rate
            ids += last
            if ids / (1 + k * self.draft_cost) > best:
                best, chosen = ids / (1 + k * self.draft_cost), k
        return chosen


class Speculation:
    """A run of speculative sampling. Iterating it yields the `Progress` of each cycle, until all rows have ended.

    Each cycle drafts up to `options.spec_decode_gamma` ids, the same number for all rows. This number follows from earlier
    cycles alone, so it leaves the distribution as it is. A cycle waits for the device once.

    Args:
        step: the model in two parts.
        cache: holds a row for each source and is used up. For a moment a row may hold up to gamma positions more than
            `max_length`.
        numbers: the sources' numbers.
        options: temperature, `max_length`, gamma, lenience and those of `Restriction` count. The last act on drafts and
            model alike: both see the same ids before a place.
        limits: of the target vocabulary.
        seed: one for all sources, or a sequence with a seed for each source number.
        device: of the logits.
        draft_cost: cost of one more draft, as a share of a full step. It only affects speed.
        prompts: the ids that each source's row begins with, by its number.

    Raises:
        ValueError: at a cycle: NaN logits, or no id left to choose from.
    """

    def __init__(
        self,
        step: DraftingStep,
        cache: DraftingCache,
        numbers: Sequence[int],
        *,
        options: DecodingOptions,
        limits: Limits,
        seed: int | Sequence[int],
        device: torch.device,
        draft_cost: float = 1 / 6,
        prompts: Prompts = None,
    ):
        rows = len(numbers)
        self.step, self.cache, self.numbers, self.device = step, cache, list(numbers), device
        self.temperature, self.lenience = options.temperature, options.spec_decode_lenience
        self.max_length, self.eos_id, self.pad_id = options.max_length, limits.eos_id, limits.pad_id
        self.restrict = Restriction(options, limits, device)
        self.history = self.restrict.history(numbers, prompts)  # of the rows in the batch
        self.prompted = [0 if prompts is None else len(prompts[number]) for number in numbers]
        self.pace = _Pace(options.spec_decode_gamma, draft_cost)
        self.ids = torch.zeros(rows, ROOM, dtype=torch.long, device=device)  # of all rows; void after a row's length
        self.log_probs = torch.zeros(rows, ROOM, dtype=torch.float32, device=device)
        self.counts = [0] * rows  # lengths of all rows, on the host
        self.begun = list(cache.lengths)  # positions of a prompt, but for its last id; 0 without
        # rows in the batch: their places among all rows (on the host and on the device), and whether they have ended
        self.live_rows, self.gone = list(range(rows)), [False] * rows
        self.live = torch.arange(rows, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.keys = keys_of(numbers, seed, device)
        self.last = torch.empty(rows, 0, dtype=torch.long, device=device)  # newest ids, [r, 1] after the first cycle
        self.news: tuple[list[int], list[int], Tensor] = [], [], self.last  # rows, gained ids of each, drawn ids
        self.drafted = self.accepted = self.cycles = 0

    @torch.no_grad()
    def __iter__(self) -> Iterator[Progress]:
        while self.live_rows:
            self._cycle()
            finished = {} if self.live_rows else dict(zip(self.numbers, self._hypotheses(), strict=True))
            yield Progress(finished, self._gained)

    def _noise(self, k: int, size: int) -> tuple[Tensor, Tensor] | None:
        """Noise of the next k drafts `[r, k, v]`, and of the id drawn behind 0 to k drafts `[r, k + 1, v]`.

        It belongs to the row's key and to the place of the id. A place's noise is made anew if its draft was void because an
        earlier draft was refused: nothing that stayed depends on it.
        """
        if self.temperature == 0:
            return None
        places = self._places(k + 1)
        both = torch.cat((places * 2, places * 2 + 1), dim=1)
        drafts, final = gumbel_at(self.keys, both, size, DRAFT).chunk(2, dim=1)
        return drafts, final

    def _places(self, n: int) -> Tensor:
        """Places of the next n ids of each row, `[r, n]`."""
        return self.lengths[:, None] + torch.arange(n, device=self.device)

    def _uniform(self, k: int) -> Tensor:
        if self.temperature == 0:  # probabilities are 0 and 1: any number above 0 and below 1 decides alike
            return torch.full((len(self.live_rows), k), 0.5, dtype=torch.float32, device=self.device)
        return uniform_at(self.keys, self._places(k), ACCEPT)

    def _draft(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Drafts k ids per row.

        Returns:
            The drafts `[r, k]`, the probabilities of each `[r, n, v]` and the best logits `[r, n]` with n = max(k, 1), and the
            noise of the id behind the drafts, `[r, k + 1, v]`. The cache gains k + 1 positions: the last id of each row and
            its drafts.
        """
        ids, drafts = self.last, [self.last[:, :0]]
        q: list[Tensor] = []
        best: list[Tensor] = []
        noise: tuple[Tensor, Tensor] | None = None
        so_far = copy(self.history)
        for index in range(max(k, 1)):  # without drafts, the first position tells their worth
            logits = self.step.draft(ids, self.cache)
            assert logits is not None
            logits = self.restrict(logits[:, -1].float(), so_far)
            noise = self._noise(k, logits.shape[1]) if index == 0 else noise
            q.append(_probabilities(logits, self.temperature))
            best.append(logits.amax(dim=-1))
            if k > 0:
                ids = draw(logits, self.temperature, None if noise is None else noise[0][:, index])[0][:, None]
                drafts.append(ids)
                if so_far is not None:
                    so_far.append(ids)
        if k > 0:
            self.step.draft(ids, self.cache, head=False)
        final = None if noise is None else noise[1]
        return torch.cat(drafts, dim=1), torch.stack(q, dim=1), torch.stack(best, dim=1), final

    def _gain(self, tokens: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """How many of `tokens` `[r, k + 1]` each row gains, `[r]`, and whether it has ended, given the drafts kept."""
        gained, room = kept + 1, (self.max_length - self.lengths).masked_fill(self.ended, 0)
        if self.eos_id is None:
            return torch.minimum(gained, room), gained >= room
        is_eos = tokens == self.eos_id
        to_eos = torch.where(is_eos.any(dim=1), is_eos.int().argmax(dim=1) + 1, self.max_length + 1)
        return torch.minimum(torch.minimum(gained, to_eos), room), (gained >= room) | (gained >= to_eos)

    def _cycle(self) -> None:
        """Adds 1 to `k + 1` ids to each row that has not ended."""
        shortest = min(self.counts[row] for row, gone in zip(self.live_rows, self.gone, strict=True) if not gone)
        k = self.pace.drafts(self.max_length - shortest - 1)  # ids that a longer row gains beyond max_length are cut
        drafts, q, best, noise = self._draft(k)
        logits = self.step.verify(self.cache)[:, -(k + 1) :].float()
        log_probs = logits.log_softmax(dim=-1)  # before the filter, which may write into its input
        so_far = None if self.history is None else self.history.before_drafts(drafts)
        allowed = self.restrict(logits.flatten(0, 1), so_far).reshape(logits.shape)
        p = _probabilities(allowed, self.temperature)
        kept, weights = judge(drafts, p, q, self._uniform(k), self.lenience)
        row = torch.arange(len(kept), device=kept.device)
        final, _ = draw(weights.log(), 1.0, None if noise is None else noise[row, kept])
        tokens = F.pad(drafts, (0, 1)).scatter_(1, kept[:, None], final[:, None])
        gained, self.ended = self._gain(tokens, kept)
        n = q.shape[1]
        counted = torch.arange(k + 1, device=tokens.device) < gained[:, None]
        best = torch.minimum(allowed.amax(dim=-1), F.pad(best, (0, k + 1 - n), value=math.inf))
        unusable = (counted & ~torch.isfinite(best)).any(dim=1)
        hits = torch.minimum(q, self.lenience * p[:, :n]).sum(dim=-1).masked_fill(~counted[:, :n], 0).sum(dim=1)
        report = [gained, self.ended, torch.minimum(kept, gained), hits, unusable]
        *numbers, unusable = cast("list[list[float]]", torch.stack([column.float() for column in report]).tolist())
        if any(unusable):
            self.restrict.check(best[counted])
        if self.history is not None:
            self.history.append(tokens, gained)
        self._write(tokens, log_probs.gather(2, tokens[..., None])[..., 0])
        self.lengths = self.lengths + gained
        self.last = tokens.gather(1, (gained - 1).clamp_min(0)[:, None])  # of rows that ended, any id will do
        self._settle(k, tokens, numbers)

    def _write(self, ids: Tensor, log_probs: Tensor) -> None:
        """Writes ids and log-probabilities `[r, n]` behind those of the rows."""
        n, size = ids.shape[1], self.ids.shape[1]
        if max(self.counts) + n > size:
            self.ids, self.log_probs = F.pad(self.ids, (0, size + n)), F.pad(self.log_probs, (0, size + n))
        place = self.live[:, None], self.lengths[:, None] + torch.arange(n, device=ids.device)
        self.ids[place], self.log_probs[place] = ids, log_probs

    def _settle(self, k: int, tokens: Tensor, report: list[list[float]]) -> None:
        """Brings the host and the cache up to date after a cycle; removes ended rows from the batch if enough have ended."""
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
        if self.history is not None:
            longest = max(self.prompted[row] + self.counts[row] for row in self.live_rows)
            self.history.longest = min(self.history.longest, longest)
        self.cache.truncate([self.begun[row] + self.counts[row] for row in self.live_rows])
        if worth_leaving(sum(self.gone), len(self.gone)):
            stay = [i for i, end in enumerate(self.gone) if not end]
            self.live_rows, self.gone = [self.live_rows[i] for i in stay], [False] * len(stay)
            keep = torch.tensor(stay, device=self.live.device)
            self.cache.select(keep)
            self.live, self.ended, self.lengths = self.live[keep], self.ended[keep], self.lengths[keep]
            self.last, self.keys = self.last[keep], self.keys[keep]
            if self.history is not None:
                self.history.select(keep)

    def _gained(self) -> dict[int, Tensor]:
        rows, counts, ids = self.news
        return {
            self.numbers[row]: ids[i, :count] for i, (row, count) in enumerate(zip(rows, counts, strict=True)) if count
        }

    def _hypotheses(self) -> list[list[Hypothesis]]:
        """The ids of all rows, with their mean log-probabilities."""
        longest = max(self.counts)
        counts = torch.tensor(self.counts, device=self.device)
        ids = self.ids[:, :longest]
        real = torch.arange(longest, device=self.device) < counts[:, None]
        scores = self.log_probs[:, :longest].masked_fill(~real, 0).sum(dim=1) / counts
        truncated = [False] * len(counts)
        if self.eos_id is not None:
            truncated = cast("list[bool]", (~((ids == self.eos_id) & real).any(dim=1)).tolist())
        rows = zip(ids, self.counts, cast("list[float]", scores.tolist()), truncated, strict=True)
        return [[Hypothesis(row[:count], score, cut)] for row, count, score, cut in rows]

    def result(self, found: Mapping[int, list[Hypothesis]]) -> SpeculativeResult:
        """The result of a batch, with the worth of its drafts."""
        plain, share = collected(found, self.pad_id), self.accepted / max(self.drafted, 1)
        return SpeculativeResult(
            plain.ids, plain.scores, plain.truncated, plain.n_best, share, self.drafted, self.cycles
        )
