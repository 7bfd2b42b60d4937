"""Where each id of a known text is said: forced alignment by the log-probabilities of a CTC head.

In: `log_probs [n, v]` of a recording, and the ids `[m]` of its text. Out: the frame and the log-probability of each id.
Source: Graves et al., "Connectionist Temporal Classification" (2006), section 4.1, with the best path in place of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from spear_tts_pytorch.utils.values import integers, whole_number

MEMORY = 500_000_000  # bytes for the way back; longer recordings are searched in a moving window of states


@dataclass(frozen=True)
class Alignment:
    """The best path of a text through a recording.

    Attributes:
        frames: the first frame of each id, int64 `[m]`, increasing.
        log_probs: mean log-probability of the frames of each id, float32 `[m]`, in nats.
    """

    frames: Tensor
    log_probs: Tensor


def ctc_align(log_probs: Tensor, ids: Tensor, blank: int = 0, *, memory: int = MEMORY) -> Alignment:
    """Aligns a text to a recording of any length.

    Args:
        log_probs: floating point `[n, v]`.
        ids: int64 `[m]`, none of them blank.
        blank: the id of frames that say nothing.
        memory: bytes. While n * (2 m + 1) is at most this, the path is the best one. Beyond it, the path is the best of
            those that stay near the diagonal, on which the text is said at one speed.

    Raises:
        TypeError: ids that are no integers.
        ValueError: no ids, ids or a blank outside the vocabulary, fewer frames than the ids need, or log-probabilities that are
            NaN or allow no path.
    """
    sought = integers("ids", ids).detach().cpu().long().numpy()
    scores = log_probs.detach().float().cpu().numpy()
    if scores.ndim != 2 or sought.ndim != 1:
        raise ValueError(
            f"log_probs must be [n, v] and ids [m], got {list(log_probs.shape)} and {list(ids.shape)}: give one recording"
        )
    blank = whole_number("blank", blank, 0, scores.shape[1] - 1)
    memory = whole_number("memory", memory, 1)
    if np.isnan(scores).any():
        raise ValueError("log_probs hold NaN: the model's weights or its input are damaged")
    if not len(sought) or ((sought < 0) | (sought >= scores.shape[1]) | (sought == blank)).any():
        raise ValueError(f"ids must be some ids in 0..{scores.shape[1] - 1} without the blank {blank}: give a text")
    need = len(sought) + int((sought[1:] == sought[:-1]).sum())
    if need > len(scores):
        raise ValueError(f"ids need {need} frames, log_probs have {len(scores)}: the text is longer than the recording")
    states = _best_path(scores, sought, blank, memory)
    first = np.searchsorted(states, 2 * np.arange(len(sought)) + 1, "left")
    last = np.searchsorted(states, 2 * np.arange(len(sought)) + 1, "right")
    total = np.concatenate(
        [[0.0], np.cumsum(scores[np.arange(len(scores)), _labels(sought, blank)[states]], dtype=float)]
    )
    mean = (total[last] - total[first]) / (last - first)
    return Alignment(torch.from_numpy(first.astype(np.int64)), torch.from_numpy(mean.astype(np.float32)))


def _labels(ids: np.ndarray, blank: int) -> np.ndarray:
    """The id of each state: blanks stand before, between and after the ids."""
    labels = np.full(2 * len(ids) + 1, blank, dtype=np.int64)
    labels[1::2] = ids
    return labels


def _best_path(scores: np.ndarray, ids: np.ndarray, blank: int, memory: int) -> np.ndarray:
    """The state of each frame, int64 `[n]`, by Viterbi's algorithm over a window of states that moves at one speed."""
    labels, frames = _labels(ids, blank), len(scores)
    no_skip = np.full(len(labels), -np.inf, dtype=np.float32)
    no_skip[3::2][ids[1:] != ids[:-1]] = 0
    width = min(len(labels), max(64, memory // frames))
    starts = [round(frame * (len(labels) - width) / max(1, frames - 1)) for frame in range(frames)]
    back = np.zeros((frames, width), dtype=np.uint8)
    furthest = max((b - a for a, b in pairwise(starts)), default=0)
    before = np.full(2 + width + furthest, -np.inf, dtype=np.float32)  # the window with room on both sides
    best = np.full(width, -np.inf, dtype=np.float32)
    skipped = np.empty_like(best)
    best[:2] = scores[0, labels[:2]]
    for frame in range(1, frames):
        start, moved = starts[frame], starts[frame] - starts[frame - 1]
        window = slice(start, start + width)
        before[2 : 2 + width] = best
        stay, step, skip = (before[2 + moved - by :][:width] for by in range(3))
        np.add(skip, no_skip[window], out=skipped)
        np.greater(step, stay, out=back[frame].view(bool))
        np.maximum(stay, step, out=best)
        np.copyto(back[frame], 2, where=skipped > best)
        np.maximum(best, skipped, out=best)
        np.add(best, scores[frame].take(labels[window]), out=best)
    if not np.isfinite(best[-2:].max()):
        if width == len(labels):
            raise ValueError(
                "log_probs are -inf on every path of the ids: leave out the ids that the model never gives"
            )
        return _best_path(scores, ids, blank, 2 * memory)  # the text is too fast for the window somewhere
    state = len(labels) - 1 if best[-1] >= best[-2] else len(labels) - 2
    states = np.empty(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        states[frame] = state
        state -= int(back[frame, state - starts[frame]])
    return states
