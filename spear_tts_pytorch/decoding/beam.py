"""Beam search, all beams of all sources in one batch.

In: logits `[r, v]` of the beams. Out: the hypotheses of each source, best first. The score of a hypothesis of n ids,
end-of-sequence included, is `log_probability / n ** length_penalty`. Ids that are left out leave the log-probabilities of the
others as they are; a penalty or a filter that changes logits changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.filters import NEGATIVE_INFINITY
from spear_tts_pytorch.decoding.loop import Hypothesis, Limits
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.decoding.restriction import Prompts, Restriction


class BeamSearch:
    """Beam search as a strategy of `loop.decode`: live and finished hypotheses of `s` sources with `w` live beams each.

    A source ends when no live hypothesis can still beat its worst kept one, whatever follows: ending early changes nothing.
    A beam of one is greedy decoding. A beam as large as the number of strings is exhaustive.

    All sources have equally many beams. If a source has fewer candidates, the other beams are dead: log-probability -inf,
    which neither finish nor come to life again. Sources may have begun at different steps: the ids of a hypothesis are
    the columns of `ids` from its source's `begun` on.

    Args:
        numbers: the sources' numbers.
        options: `beam_size`, `n_best`, `length_penalty`, `temperature`, `max_length` and those of `Restriction` count.
        limits: of the target vocabulary. Without an end-of-sequence all hypotheses have `max_length` ids.
        device: of the logits.
        prompts: the ids that each source's rows begin with, by its number.

    Raises:
        ValueError: at a step: NaN logits, or nothing left to choose from.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        *,
        options: DecodingOptions,
        limits: Limits,
        device: torch.device,
        prompts: Prompts = None,
    ):
        self.beam_size, self.n_best, self.max_length = options.beam_size, options.n_best, options.max_length
        self.length_penalty, self.temperature = options.length_penalty, options.temperature
        self.eos_id, self.restrict = limits.eos_id, Restriction(options, limits, device)
        self.history = self.restrict.history(numbers, prompts)
        rows = len(numbers)
        self.numbers = list(numbers)  # which source each row of the following belongs to
        self.begun = torch.zeros(rows, dtype=torch.long, device=device)  # [s]
        self.open = torch.ones(rows, dtype=torch.bool, device=device)  # [s]
        self.log_probs = torch.zeros(rows, 1, dtype=torch.float32, device=device)  # [s, w]
        self.ids = torch.empty(rows, 1, 0, dtype=torch.long, device=device)  # [s, w, columns]
        self.kept: dict[int, list[Hypothesis]] = {number: [] for number in numbers}  # best first, at most n_best each
        # [s], the score that a finished hypothesis must beat
        self.worst = torch.full((rows,), NEGATIVE_INFINITY, dtype=torch.float32, device=device)

    @property
    def rows(self) -> int:
        """Live beams of each source."""
        return self.log_probs.shape[1]

    def last_ids(self) -> Tensor:
        return self.ids[:, :, -1].reshape(-1, 1)

    def advance(self, logits: Tensor) -> Tensor | None:
        """Extends all beams by one id, given logits `[s * w, v]`; `open` says which sources may go on."""
        s, w = self.log_probs.shape
        step_log_probs = self._step_log_probs(logits)
        v = step_log_probs.shape[-1]
        lengths = self.ids.shape[-1] + 1 - self.begun
        totals = self.log_probs[..., None] + step_log_probs.view(s, w, v)
        # at most one candidate per beam is end-of-sequence, so twice the beam always holds a full beam of others
        best, index = totals.view(s, w * v).topk(min(2 * self.beam_size, w * v), dim=-1)
        if bool(torch.isnan(best).any()):
            raise ValueError(self.restrict.not_finite)
        parents, tokens = index // v, index % v
        is_eos = torch.zeros_like(tokens, dtype=torch.bool) if self.eos_id is None else tokens == self.eos_id
        self._finish(best, parents, is_eos, lengths)

        # the best `beam_size` that go on, in order: a stable sort moves the finished ones behind all others
        order = is_eos.byte().argsort(dim=-1, stable=True)[:, : min(self.beam_size, w * v)]
        best = best.masked_fill(is_eos, NEGATIVE_INFINITY).gather(1, order)
        parents, tokens = parents.gather(1, order), tokens.gather(1, order)
        self.log_probs = best
        history = self.ids.gather(1, parents[..., None].expand(-1, -1, self.ids.shape[-1]))
        self.ids = torch.cat((history, tokens[..., None]), dim=-1)
        self._truncate(lengths)
        self.open = self.open & (lengths < self.max_length) & self._can_improve(lengths)
        taken = (torch.arange(s, device=parents.device)[:, None] * w + parents).flatten()
        if self.history is not None:
            self.history.select(taken)
            self.history.append(tokens.reshape(-1, 1))
        same = len(taken) == len(logits) and torch.equal(taken, torch.arange(len(taken), device=taken.device))
        return None if same else taken

    def _step_log_probs(self, logits: Tensor) -> Tensor:
        """Log-probabilities `[r, v]` of the next ids.

        They are the model's where ids are left out. Where logits rise, they are normalized anew: none may exceed 0.
        """
        if not self.restrict.changes:
            return self.restrict((logits / self.temperature if self.temperature != 1 else logits).log_softmax(dim=-1))
        whole = (logits / self.temperature).logsumexp(dim=-1, keepdim=True)  # before a filter writes into its input
        allowed = self.restrict(logits, self.history) / self.temperature
        return allowed - torch.maximum(whole, allowed.logsumexp(dim=-1, keepdim=True))

    def gained(self) -> dict[int, Tensor]:
        return {}  # which beam wins is known at the end

    def ended(self, waiting: bool) -> list[int]:
        return cast("list[int]", (~self.open).nonzero()[:, 0].tolist())

    def hypotheses(self, slots: list[int]) -> list[list[Hypothesis]]:
        found = [self.kept.pop(self.numbers[slot]) for slot in slots]
        if not all(found):
            raise ValueError(self.restrict.nothing_left)
        return found

    def keep(self, slots: list[int]) -> None:
        self.numbers = [self.numbers[slot] for slot in slots]
        place = torch.tensor(slots, device=self.open.device)
        self.begun, self.open, self.worst = self.begun[place], self.open[place], self.worst[place]
        self.log_probs, self.ids = self.log_probs[place], self.ids[place]
        if self.history is not None:
            rows = place[:, None] * self.rows + torch.arange(self.rows, device=place.device)
            self.history.select(rows.flatten())
            self.history.trim()

    def replace(self, slots: list[int], other: BeamSearch) -> None:
        oldest = int(self.begun.min())  # no source in the batch has ids before this column
        self.ids, self.begun = self.ids[:, :, oldest:].clone(), self.begun - oldest
        for slot, number in zip(slots, other.numbers, strict=True):
            self.numbers[slot], self.kept[number] = number, other.kept[number]
        self.begun[slots] = self.ids.shape[-1] - 1
        self.ids[slots, :, -1:] = other.ids
        self.open[slots], self.worst[slots], self.log_probs[slots] = other.open, other.worst, other.log_probs
        if self.history is not None and other.history is not None:
            self.history.replace([slot * self.rows + row for slot in slots for row in range(self.rows)], other.history)

    def _score(self, log_prob: Tensor, lengths: Tensor) -> Tensor:
        return log_prob / lengths**self.length_penalty

    def _finish(self, best: Tensor, parents: Tensor, is_eos: Tensor, lengths: Tensor) -> None:
        """Keeps the end-of-sequence candidates among the best `beam_size` that beat a kept hypothesis."""
        scores = self._score(best[:, : self.beam_size], lengths[:, None])
        new = is_eos[:, : self.beam_size] & (scores > self.worst[:, None]) & self.open[:, None]
        for row, column in _places(new):
            prefix = self.ids[row, parents[row, column], self.begun[row] :]
            ids = torch.cat((prefix, prefix.new_tensor([self.eos_id])))
            self._keep(row, Hypothesis(ids, float(scores[row, column]), truncated=False))

    def _truncate(self, lengths: Tensor) -> None:
        """Ranks the beams that `max_length` cuts among the finished hypotheses."""
        full = (lengths == self.max_length) & self.open
        if not bool(full.any()):
            return
        scores = self._score(self.log_probs, lengths[:, None])
        for row, column in _places((scores > self.worst[:, None]) & full[:, None]):
            ids = self.ids[row, column, self.begun[row] :].clone()
            self._keep(row, Hypothesis(ids, float(scores[row, column]), self.eos_id is not None))

    def _keep(self, row: int, hypothesis: Hypothesis) -> None:
        kept = self.kept[self.numbers[row]]
        kept.append(hypothesis)
        kept.sort(key=lambda one: -one.score)  # stable: of equals the earlier stays ahead
        del kept[self.n_best :]
        if len(kept) == self.n_best:
            self.worst[row] = kept[-1].score

    def _can_improve(self, lengths: Tensor) -> Tensor:
        """`[s]`: whether some continuation of a live beam could beat the worst kept hypothesis.

        Log-probabilities only fall. So a beam's score is at most its present log-probability divided by the largest
        `length ** length_penalty` it may end with: that of `max_length`, or of the next id if the penalty is negative.
        """
        final = torch.full_like(lengths, self.max_length) if self.length_penalty >= 0 else lengths + 1
        can = self._score(self.log_probs.amax(dim=1), final) > self.worst
        if (
            self.beam_size == 1
        ):  # greedy search stops at the first end-of-sequence, even if a longer hypothesis would score higher
            can &= torch.isneginf(self.worst)
        return can


def _places(mask: Tensor) -> list[list[int]]:
    """Row and column of each True in a mask `[r, c]`, in order."""
    return cast("list[list[int]]", mask.nonzero().tolist())
