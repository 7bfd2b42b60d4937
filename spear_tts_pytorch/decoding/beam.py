"""Beam search, all beams of all sources in one batch.

In: `step(ids [r, n], cache) -> logits [r, n', v]`, of which the last position counts, and `cache.select(rows)`; the
cache begins with one row per source. Out: a `BeamResult`. The score of a hypothesis of n ids, end-of-sequence
included, is `log_probability / n ** length_penalty`. Knows nothing of models, modalities or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.loop import Cache, Step, check_lengths, forbidden
from spear_tts_pytorch.decoding.sampling import LEAST_TEMPERATURE, NEGATIVE_INFINITY
from spear_tts_pytorch.tokens import pad_sequences

NOTHING_LEFT = "no id left to choose from (all logits are -inf or forbidden): forbid fewer ids"


@dataclass(frozen=True)
class Hypothesis:
    """One candidate of one source.

    Attributes:
        ids: int64 `[m]`, end-of-sequence included if it was reached.
        score: log-probability divided by `m ** length_penalty`.
        truncated: `max_length` came before end-of-sequence.
    """

    ids: Tensor
    score: float
    truncated: bool


@dataclass(frozen=True)
class BeamResult:
    """The best hypothesis of each source, and the n best.

    Attributes:
        ids: int64 `[b, n]`, padding after end-of-sequence.
        scores: float32 `[b]`.
        truncated: bool `[b]`.
        n_best: for each source its hypotheses, best first, none twice; fewer than asked where there are no more.
    """

    ids: Tensor
    scores: Tensor
    truncated: Tensor
    n_best: list[list[Hypothesis]]


@torch.no_grad()
def beam_search(
    step: Step,
    cache: Cache,
    rows: int,
    *,
    beam_size: int,
    eos_id: int | None,
    pad_id: int,
    max_length: int,
    length_penalty: float = 0.0,
    temperature: float = 1.0,
    forbid_ids: Sequence[int] = (),
    n_best: int = 1,
    device: torch.device | str = "cpu",
) -> BeamResult:
    """Searches the ids of highest score for each of `rows` sources.

    A source's search ends when no live hypothesis can still beat its worst kept one, whatever follows; so ending early
    changes nothing. A beam of one is greedy decoding. A beam as large as the number of strings is exhaustive.

    Args:
        step, cache: see the module's docstring; the cache is used up.
        eos_id: ends a hypothesis; None searches strings of exactly `max_length` ids.
        max_length: most ids, end-of-sequence included. Hypotheses cut there are ranked with the finished ones.
        length_penalty: 0 ranks by log-probability, 1 by its mean per id; larger favours longer hypotheses.
        temperature: divides the logits before they become log-probabilities.
        forbid_ids: never chosen.
        n_best: hypotheses kept for each source, at most `beam_size`.
        device: of the logits and the result.

    Raises:
        ValueError: `rows`, `max_length`, `beam_size` or `n_best` out of range, `temperature` not above 0, NaN logits,
            or nothing left to choose from.
    """
    check_lengths(rows, max_length)
    check_beam(beam_size, n_best, temperature, length_penalty)
    device = torch.device(device)
    search = Search(list(range(rows)), beam_size, n_best, eos_id, max_length, length_penalty, device)
    banned = forbidden(forbid_ids, device)
    ids = torch.empty(rows, 0, dtype=torch.long, device=device)
    while True:
        logits = step(ids, cache)[:, -1].float()
        taken = search.advance(beam_log_probs(logits, temperature, banned))
        open_ = search.open.nonzero()[:, 0]
        if len(open_) == 0:
            break
        if len(open_) < len(taken):
            taken = taken[open_]
            search.keep(open_)
        if not is_identity(taken.flatten(), len(logits)):
            cache.select(taken.flatten())
        ids = search.last_ids()
    return search.result(pad_id)


def check_beam(
    beam_size: int, n_best: int, temperature: float, length_penalty: float, vocabulary: int | None = None
) -> None:
    """Raises ValueError unless the options of a beam search make sense, for ids of which there are `vocabulary`."""
    if not isinstance(beam_size, int) or beam_size < 1 or (vocabulary is not None and beam_size > vocabulary):
        most = "" if vocabulary is None else f" and at most the {vocabulary} ids there are to choose from"
        raise ValueError(f"beam_size must be at least 1{most}, got {beam_size!r}")
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best must be between 1 and beam_size = {beam_size}, got {n_best}")
    if not abs(length_penalty) < float("inf"):
        raise ValueError(f"length_penalty must be a finite number, got {length_penalty}")
    if not LEAST_TEMPERATURE <= temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 for beam search, got {temperature}: for greedy use beam_size 1")


def beam_log_probs(logits: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    """Log-probabilities `[r, v]` that hypotheses are made of."""
    log_probs = (logits / temperature if temperature != 1 else logits).log_softmax(dim=-1)
    return log_probs if banned is None else log_probs.index_fill(1, banned, NEGATIVE_INFINITY)


def is_identity(taken: Tensor, rows: int) -> bool:
    """Whether `taken` `[r]` leaves each of `rows` rows where it is."""
    return len(taken) == rows and torch.equal(taken, torch.arange(rows, device=taken.device))


class Search:
    """Live and finished hypotheses of the sources still searched; `s` of them with `w` live beams each.

    All sources have equally many beams. Where a source has fewer candidates, the rest are dead: log-probability -inf,
    which neither finish nor come to life again. Sources may have begun at different steps: the ids of a hypothesis are
    the columns of `ids` from its source's `begun` on.
    """

    def __init__(
        self,
        sources: list[int],
        beam_size: int,
        n_best: int,
        eos_id: int | None,
        max_length: int,
        length_penalty: float,
        device: torch.device,
    ):
        rows = len(sources)
        self.beam_size, self.n_best, self.eos_id = beam_size, n_best, eos_id
        self.max_length, self.length_penalty = max_length, length_penalty
        self.sources = list(sources)  # which source each row of the following belongs to
        self.begun = torch.zeros(rows, dtype=torch.long, device=device)  # [s]
        self.open = torch.ones(rows, dtype=torch.bool, device=device)  # [s]
        self.log_probs = torch.zeros(rows, 1, device=device)  # [s, w]
        self.ids = torch.empty(rows, 1, 0, dtype=torch.long, device=device)  # [s, w, columns]
        self.kept: dict[int, list[Hypothesis]] = {source: [] for source in sources}  # best first, at most n_best each
        self.worst = torch.full((rows,), NEGATIVE_INFINITY, device=device)  # [s], what a finished one must beat

    def last_ids(self) -> Tensor:
        """The newest id of every live beam, `[s * w, 1]`."""
        return self.ids[:, :, -1].reshape(-1, 1)

    def advance(self, step_log_probs: Tensor) -> Tensor:
        """Extends all beams by one id, given `[s * w, v]`.

        Returns:
            The former row of each beam, int64 `[s, new w]`; `open` says which sources may go on.
        """
        s, w = self.log_probs.shape
        v = step_log_probs.shape[-1]
        lengths = self.ids.shape[-1] + 1 - self.begun
        totals = self.log_probs[..., None] + step_log_probs.view(s, w, v)
        # at most one candidate per beam is end-of-sequence, so twice the beam always holds a full beam of others
        best, index = totals.view(s, w * v).topk(min(2 * self.beam_size, w * v), dim=-1)
        if bool(torch.isnan(best).any()):
            raise ValueError("logits hold NaN: the weights or the conditioning of the model are not finite")
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
        return torch.arange(s, device=parents.device)[:, None] * w + parents

    def keep(self, slots: Tensor) -> None:
        """Goes on with the sources at `slots` only, int64 `[new s]`."""
        self.sources = [self.sources[slot] for slot in slots.tolist()]
        for name in ("begun", "open", "log_probs", "ids", "worst"):
            setattr(self, name, getattr(self, name)[slots])

    def replace(self, slots: list[int], other: Search) -> None:
        """Puts the sources of a search that is one id old in the place of those at `slots`."""
        oldest = int(self.begun.min())  # what lies before it nobody needs
        self.ids, self.begun = self.ids[:, :, oldest:].clone(), self.begun - oldest
        for slot, source in zip(slots, other.sources, strict=True):
            self.sources[slot] = source
            self.kept[source] = other.kept[source]
        self.begun[slots] = self.ids.shape[-1] - 1
        self.ids[slots, :, -1:] = other.ids
        for name in ("open", "log_probs", "worst"):
            getattr(self, name)[slots] = getattr(other, name)

    def _score(self, log_prob: Tensor, lengths: Tensor) -> Tensor:
        return log_prob / lengths**self.length_penalty

    def _finish(self, best: Tensor, parents: Tensor, is_eos: Tensor, lengths: Tensor) -> None:
        """Keeps the end-of-sequence candidates among the best `beam_size` that beat a kept hypothesis."""
        scores = self._score(best[:, : self.beam_size], lengths[:, None])
        new = is_eos[:, : self.beam_size] & (scores > self.worst[:, None]) & self.open[:, None]
        for row, column in new.nonzero().tolist():
            prefix = self.ids[row, parents[row, column], self.begun[row] :]
            ids = torch.cat((prefix, prefix.new_tensor([self.eos_id])))
            self._keep(row, Hypothesis(ids, float(scores[row, column]), truncated=False))

    def _truncate(self, lengths: Tensor) -> None:
        """Ranks the beams that `max_length` cuts among the finished hypotheses."""
        full = (lengths == self.max_length) & self.open
        if not bool(full.any()):
            return
        scores = self._score(self.log_probs, lengths[:, None])
        for row, column in ((scores > self.worst[:, None]) & full[:, None]).nonzero().tolist():
            ids = self.ids[row, column, self.begun[row] :].clone()
            self._keep(row, Hypothesis(ids, float(scores[row, column]), self.eos_id is not None))

    def _keep(self, row: int, hypothesis: Hypothesis) -> None:
        kept = self.kept[self.sources[row]]
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
        if self.beam_size == 1:  # greedy: what ended has ended, whatever a longer hypothesis would score
            can &= torch.isneginf(self.worst)
        return can

    def result(self, pad_id: int) -> BeamResult:
        device = self.worst.device
        found = list(self.kept.values())
        if not all(found):
            raise ValueError(NOTHING_LEFT)
        best = [kept[0] for kept in found]
        return BeamResult(
            ids=pad_sequences([one.ids for one in best], pad_id),
            scores=torch.tensor([one.score for one in best], device=device),
            truncated=torch.tensor([one.truncated for one in best], device=device),
            n_best=found,
        )
