"""Which pseudo-labels to learn from, and a report on all of them.

In: the pairs of a folder. Out: those that are sure, of a plausible length and without loops, with how many were left out
for what; a report with counts, examples and histograms. Knows nothing of how the labels were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from spear_tts_pytorch.data.pairs import SOURCE_TRUNCATED
from spear_tts_pytorch.utils.files import write_whole

if TYPE_CHECKING:
    from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset

NGRAM = 4
EXAMPLES = 10
REPORT, HISTOGRAM = "report.json", "histograms.png"


def repetition(ids: Tensor, n: int = NGRAM) -> float:
    """The share of n-grams in ids `[m]` that came before (seq-rep-n of arXiv 1908.04319): 0 none, towards 1 a loop."""
    if len(ids) <= n:
        return 0.0
    grams = ids.unfold(0, n, 1)
    return 1 - len(torch.unique(grams, dim=0)) / len(grams)


def select(
    pairs: GeneratedAudioTextDataset,
    *,
    best_share: float = 1.0,
    length_ratio: tuple[float, float] | None = (0.5, 2.0),
    max_repetition: float | None = 0.5,
    truncated: bool = False,
) -> tuple[Subset, dict[str, int]]:
    """The pairs worth learning from.

    Args:
        pairs: opened with the default columns.
        best_share: share kept of the pairs that pass everything else, those of the highest score; pairs without a score
            count as the lowest.
        length_ratio: least and most semantic ids per text id, as multiples of the median over all pairs; None for any.
        max_repetition: most `repetition` in the text; None for any.
        truncated: whether texts that were cut at their maximal length are kept.

    Returns:
        The pairs kept, and how many were left out as `empty`, `truncated`, `length_ratio`, `repetition` and `score`.

    Raises:
        ValueError: an option out of range, or nothing is left.
    """
    kept, left_out = _sound(pairs, best_share, length_ratio, max_repetition, truncated)
    if not kept.any():
        raise ValueError(f"{pairs.folder} holds no pair that passes: left out were {left_out}; loosen the filters")
    return Subset(pairs, kept.nonzero()[0].tolist()), left_out


def _sound(
    pairs: GeneratedAudioTextDataset,
    best_share: float = 1.0,
    length_ratio: tuple[float, float] | None = (0.5, 2.0),
    max_repetition: float | None = 0.5,
    truncated: bool = False,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which pairs pass, bool `[pairs]`, and how many do not for what."""
    if not 0 < best_share <= 1:
        raise ValueError(f"best_share must be above 0 and at most 1, got {best_share}")
    if length_ratio is not None and not 0 <= length_ratio[0] <= 1 <= length_ratio[1]:
        raise ValueError(f"length_ratio must be (at most 1, at least 1), multiples of the median, got {length_ratio}")
    if max_repetition is not None and not 0 <= max_repetition <= 1:
        raise ValueError(f"max_repetition must be between 0 and 1, got {max_repetition}")
    lengths = np.asarray(pairs.lengths, dtype=np.float64)
    kept, left_out = np.ones(len(lengths), dtype=bool), {}

    def leave_out(reason: str, bad: np.ndarray) -> None:
        left_out[reason] = int((kept & bad).sum())
        kept[bad] = False

    leave_out("empty", (lengths == 0).any(axis=1))
    leave_out("truncated", np.array([not truncated and one == SOURCE_TRUNCATED for one in pairs.column("source")]))
    if length_ratio is not None and kept.any():
        ratio = lengths[:, 0] / np.maximum(lengths[:, 1], 1)
        low, high = np.median(ratio[lengths.all(axis=1)]) * np.asarray(length_ratio)
        leave_out("length_ratio", (ratio < low) | (ratio > high))
    if max_repetition is not None:
        loops = np.zeros(len(kept), dtype=bool)
        loops[[index for index in kept.nonzero()[0].tolist() if repetition(pairs[index][1]) > max_repetition]] = True
        leave_out("repetition", loops)
    scores = np.array([-np.inf if score is None else score for score in pairs.column("score")])
    places = kept.nonzero()[0]
    worst = places[np.argsort(-scores[places], kind="stable")[max(1, round(best_share * len(places))) :]]
    leave_out("score", np.isin(np.arange(len(kept)), worst))
    return kept, left_out


def report(pairs: GeneratedAudioTextDataset, out: str | Path, *, seed: int = 0, **filters: Any) -> dict[str, Any]:
    """Writes report.json and histograms.png (scores, lengths, ids per text id) about pairs into the folder `out`.

    Args:
        seed: of the choice of the examples.
        filters: for `select`, whose counts are part of the report.

    Returns:
        What report.json holds: `pairs`, `kept` and `left_out` by reason, quantiles, and `examples`: id, text and score.
        `text` is null where the folder has none.
    """
    lengths = np.asarray(pairs.lengths)
    scores = np.array([score for score in pairs.column("score") if score is not None], dtype=np.float64)
    sound, left_out = _sound(pairs, **filters)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:EXAMPLES]
    ids, texts, all_scores = (pairs.column(name) for name in ("id", "text", "score"))
    found = {
        "pairs": len(pairs),
        "kept": int(sound.sum()),
        "left_out": left_out,
        "semantic_lengths": _quantiles(lengths[:, 0]),
        "text_lengths": _quantiles(lengths[:, 1]),
        "scores": _quantiles(scores),
        "examples": [{"id": ids[i], "text": texts[i], "score": all_scores[i]} for i in sorted(chosen.tolist())],
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / REPORT, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
    from spear_tts_pytorch.utils.plots import plot_histograms

    ratio = lengths[:, 0] / np.maximum(lengths[:, 1], 1)
    plot_histograms(
        {"score": scores, "semantic ids": lengths[:, 0], "text ids": lengths[:, 1], "semantic ids per text id": ratio},
        out / HISTOGRAM,
    )
    return found


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    """Least, quartiles and most; None of nothing."""
    if not len(values):
        return None
    names = ("least", "lower quartile", "median", "upper quartile", "most")
    return dict(zip(names, np.round(np.quantile(values, np.linspace(0, 1, 5)), 4).tolist(), strict=True))
