"""From the log-probabilities of a CTC head to ids: greedily, or by prefix beam search with a language model.

In: `log_probs [b, n, v]` with the number of real frames of each row, `lengths [b]`. Out: rows of ids, without blanks,
padding or end-of-sequence.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

from spear_tts_pytorch.decoding.language_model import BEGIN
from spear_tts_pytorch.decoding.language_model import CharacterLM as CharacterLM
from spear_tts_pytorch.tokens import remove_repeats

Beam = dict[int, list[float]]
"""Prefix -> [probability of its alignments that end in blank, of those that end in its last id]."""


def _check_frames(log_probs: Tensor, lengths: Tensor, blank: int) -> None:
    if log_probs.ndim != 3 or not log_probs.is_floating_point():
        raise ValueError(f"log_probs must be floating point [b, n, v], got {log_probs.dtype} {list(log_probs.shape)}")
    if lengths.shape != log_probs.shape[:1]:
        raise ValueError(f"lengths must hold one number per row, [{len(log_probs)}], got {list(lengths.shape)}")
    if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= log_probs.shape[1]:
        raise ValueError(
            f"lengths must lie in 0..{log_probs.shape[1]}, the frames of log_probs, got {lengths.tolist()}"
        )
    if not 0 <= blank < log_probs.shape[2]:
        raise ValueError(f"blank must be an id in 0..{log_probs.shape[2] - 1}, got {blank}")


def ctc_greedy(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> list[Tensor]:
    """The best id of every frame `[b, n, v]`, repeats merged, blanks removed: one int64 row `[m]` each, on the CPU.

    Raises:
        ValueError: shapes or lengths that do not fit, or `blank` outside the vocabulary.
    """
    _check_frames(log_probs, lengths, blank)
    best = log_probs.argmax(dim=-1).cpu()
    rows: list[Tensor] = []
    for row, length in zip(best, cast("list[int]", lengths.tolist()), strict=True):
        merged, _ = remove_repeats(row[:length])
        rows.append(merged[merged != blank])
    return rows


class _Prefixes:
    """All prefixes met, as nodes of a tree, the empty one 0; each with its last id and its share of the score."""

    def __init__(self, lm: CharacterLM | None, lm_weight: float, length_bonus: float):
        self.lm, self.weight, self.bonus = lm, lm_weight, length_bonus
        # One more id adds at most this: a language model with a positive weight only subtracts.
        self.most = length_bonus
        self.parent, self.last, self.extra = [-1], [BEGIN], [0.0]
        self.children: list[dict[int, int]] = [{}]
        self.next: list[list[float] | None] = [None]  # the language model's log-probabilities, once needed

    def ids(self, node: int, most: int | None = None) -> list[int]:
        found: list[int] = []
        while node > 0 and (most is None or len(found) < most):
            found.append(self.last[node])
            node = self.parent[node]
        return found[::-1]

    def after(self, node: int) -> list[float]:
        known = self.next[node]
        if known is None:
            assert self.lm is not None
            known = self.next[node] = self.lm.next_log_probs(self.ids(node, self.lm.order - 1))
        return known

    def child(self, node: int, token: int) -> int:
        number = len(self.parent)
        extra = self.extra[node] + self.bonus
        if self.lm is not None:
            extra += self.weight * self.after(node)[token]
        self.parent.append(node)
        self.last.append(token)
        self.extra.append(extra)
        self.children.append({})
        self.next.append(None)
        self.children[node][token] = number
        return number

    def final(self, node: int) -> float:
        """The sum that is added to the log-probability of a finished text."""
        ending = 0.0 if self.lm is None else self.weight * self.after(node)[self.lm.vocab_size]
        return self.extra[node] + ending


def collapse_blanks(log_probs: Tensor, blank: int = 0, least: float = 0.999) -> Tensor:
    """Frames `[n, v]` of one row without those that add nothing to a search but time (arXiv 2210.17017).

    Of frames in a row that are blank with a probability of at least `least`, the first stays: it keeps the same id before and
    after it apart.

    Raises:
        ValueError: `blank` outside the vocabulary.
    """
    _check_frames(log_probs[None], torch.tensor([len(log_probs)]), blank)
    is_blank = log_probs[:, blank] >= math.log(least)
    again = is_blank & torch.cat([is_blank.new_zeros(1), is_blank[:-1]])
    return log_probs[~again]


def ctc_beam_search(
    log_probs: Tensor,
    lengths: Tensor,
    blank: int = 0,
    beam_size: int = 16,
    lm: CharacterLM | None = None,
    lm_weight: float = 0.5,
    length_bonus: float = 0.0,
    min_log_prob: float = -7.0,
    margin: float = 14.0,
) -> list[tuple[Tensor, float]]:
    """Prefix beam search (arXiv 1408.2873) with shallow fusion.

    The score of a text is the log-probability of all its alignments found, plus `lm_weight` times the language
    model's, end-of-sequence included, plus `length_bonus` for each id. Without language model and bonus, and with a
    beam that drops nothing, it is minus the CTC loss.

    Args:
        log_probs: `[b, n, v]`, natural logarithms that sum to 1 per frame.
        lengths: `[b]`, frames of each row.
        beam_size: prefixes kept after each frame.
        min_log_prob: ids less probable than this in a frame do not extend prefixes there; the best one always does.
        margin: prefixes whose score is worse than the best one's by more than this are dropped early.

    Returns:
        For each row the best ids, int64 `[m]` on the CPU, and their score.

    Raises:
        ValueError: shapes or lengths that do not fit, `blank` outside the vocabulary, `beam_size` below 1, `lm_weight`
            below 0, NaN, or a language model of a smaller vocabulary.
    """
    _check_frames(log_probs, lengths, blank)
    if beam_size < 1 or lm_weight < 0:
        raise ValueError(f"beam_size must be at least 1 and lm_weight at least 0, got {beam_size} and {lm_weight}")
    if lm is not None and lm.vocab_size < log_probs.shape[2]:
        raise ValueError(
            f"lm knows {lm.vocab_size} ids, but log_probs has {log_probs.shape[2]}: fit it on this vocabulary"
        )
    if bool(torch.isnan(log_probs).any()):
        raise ValueError("log_probs hold NaN: the weights of the model are not finite")
    frames = log_probs.detach().to("cpu", torch.float64).numpy()
    found: list[tuple[Tensor, float]] = []
    for row, length in zip(frames, cast("list[int]", lengths.tolist()), strict=True):
        prefixes = _Prefixes(lm, lm_weight, length_bonus)
        ids, score = _search_row(row[:length], blank, beam_size, prefixes, min_log_prob, margin)
        found.append((torch.tensor(ids, dtype=torch.long), score))
    return found


def _search_row(
    frames: np.ndarray, blank: int, beam_size: int, prefixes: _Prefixes, min_log_prob: float, margin: float
) -> tuple[list[int], float]:
    """Best ids and score of one row `[n, v]`.

    `beam` maps a prefix to the probabilities of its alignments that end in blank and in its last id. They are kept as
    plain probabilities divided by `exp(scale)`, which is cheaper than adding logarithms; each frame rescales them so
    that the most probable prefix has 1.
    """
    beam: Beam = {0: [1.0, 0.0]}
    scale = 0.0
    kept = frames > min_log_prob
    kept |= frames >= frames.max(axis=1, keepdims=True, initial=-math.inf)
    probabilities = np.exp(frames)
    for index in range(len(frames)):
        tokens = np.flatnonzero(kept[index])
        pairs = zip(tokens.tolist(), probabilities[index, tokens].tolist(), strict=True)
        active = dict(sorted(pairs, key=lambda pair: -pair[1]))
        p_blank = active.pop(blank, 0.0)
        beam = _prune(_advance(beam, p_blank, active, prefixes, beam_size), prefixes.extra, beam_size, margin)
        top = max(ending + other for ending, other in beam.values())
        scale += math.log(top)
        beam = {node: [ending / top, other / top] for node, (ending, other) in beam.items()}
    scores = {node: math.log(sum(both)) + scale + prefixes.final(node) for node, both in beam.items()}
    best = max(scores, key=lambda node: scores[node])
    return prefixes.ids(best), scores[best]


def _advance(beam: Beam, p_blank: float, active: dict[int, float], prefixes: _Prefixes, beam_size: int) -> Beam:
    """The prefixes reached from `beam` by one frame; `active` is sorted, the most probable id first.

    A prefix is reached from itself and from its parent only. So the scores of the beam's own prefixes are known at once.
    A new prefix is looked at only if it can beat the last of them: this drops none that could stay.
    """
    last_of, parent_of, extra = prefixes.last, prefixes.parent, prefixes.extra
    grown: Beam = {}
    for node, (p_ending_blank, p_ending_last) in beam.items():
        last = last_of[node]
        p_last = active.get(last, 0.0)
        arriving = 0.0
        if p_last > 0.0:
            above = beam.get(parent_of[node])
            if above is not None:  # the same id twice in a row needs a blank in between
                arriving = above[0] if last_of[parent_of[node]] == last else above[0] + above[1]
        grown[node] = [(p_ending_blank + p_ending_last) * p_blank, (p_ending_last + arriving) * p_last]
    needed = _last_of_the_beam(grown, extra, beam_size)

    for node, (p_ending_blank, p_ending_last) in beam.items():
        total, last = p_ending_blank + p_ending_last, last_of[node]
        enough = math.exp(min(needed - extra[node] - prefixes.most, 700.0))
        offspring = prefixes.children[node]
        for token, probability in active.items():
            if probability * total < enough:
                break
            gain = probability * (p_ending_blank if token == last else total)
            if gain < enough or gain == 0.0:
                continue
            child = offspring.get(token)
            if child is None:
                child = prefixes.child(node, token)
            if child not in beam:
                grown[child] = [0.0, gain]
    return grown


def _last_of_the_beam(grown: Beam, extra: list[float], beam_size: int) -> float:
    """The score that a new prefix must reach to enter a beam that is full already."""
    if len(grown) < beam_size:
        return -math.inf
    worst = math.inf
    for node, (ending, other) in grown.items():
        total = ending + other
        if total <= 0.0:
            return -math.inf
        worst = min(worst, math.log(total) + extra[node])
    return worst


def _prune(grown: Beam, extra: list[float], beam_size: int, margin: float) -> Beam:
    """The best `beam_size` prefixes by probability and language model, none worse than the best by over `margin`."""
    ranked: list[tuple[float, int]] = []
    for node, (ending, other) in grown.items():
        total = ending + other
        if total > 0.0:
            ranked.append((math.log(total) + extra[node], node))
    ranked.sort(reverse=True)
    limit = ranked[0][0] - margin
    return {node: grown[node] for score, node in ranked[:beam_size] if score >= limit}
