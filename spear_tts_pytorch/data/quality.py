"""Selects pseudo-labels to learn from, and reports on all of them.

In: the pairs of a folder. Out: the pairs with high scores, plausible lengths and no loops, and numbers of the others by
reason; a report with counts, examples and histograms.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.data.pairs.shards import ID_COLUMNS, SOURCE_TRUNCATED
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.values import absolute_path, instance, real_number, shown, switch, whole_number

NGRAM = 4  # ids of text
EXAMPLES = 10
REPORT, HISTOGRAM = "report.json", "histograms.png"


def repetition(ids: Tensor, n: int = NGRAM) -> float:
    """Share of the n-grams in ids `[m]` that are repetitions (seq-rep-n of arXiv 1908.04319): 0 for none, near 1 for a loop."""
    if len(ids) <= n:
        return 0.0
    grams = ids.unfold(0, n, 1)  # [m - n + 1, n]
    return 1 - len(cast(Tensor, torch.unique(grams, dim=0))) / len(grams)


def select(
    pairs: GeneratedAudioTextDataset,
    *,
    best_share: float = 1.0,
    length_ratio: tuple[float, float] | None = (0.5, 2.0),
    max_repetition: float | None = 0.5,
    truncated: bool = False,
) -> tuple[Subset[tuple[Any, ...]], dict[str, int]]:
    """Selects the pairs to learn from.

    Args:
        pairs: opened with the default columns.
        best_share: of the pairs that pass the other filters, the share with the highest scores that is kept, above 0 to
            1. Pairs without a score count as the lowest.
        length_ratio: lowest and highest number of semantic ids per text id, as multiples of the median over all pairs;
            None sets no bound.
        max_repetition: highest `repetition` in the text, 0 to 1; None sets no bound.
        truncated: whether texts that were cut at their maximal length are kept.

    Returns:
        The kept pairs, and the numbers of pairs left out as `empty`, `truncated`, `length_ratio`, `repetition` and
        `score`.

    Raises:
        ValueError: an option out of range, or nothing is left.
    """
    kept, left_out = _sound(pairs, best_share, length_ratio, max_repetition, truncated)
    if not kept.any():
        raise ValueError(f"{pairs.folder} holds no pair that passes (left out: {left_out}): loosen the filters")
    return Subset(pairs, cast("list[int]", kept.nonzero()[0].tolist())), left_out


def _sound(
    pairs: GeneratedAudioTextDataset,
    best_share: float = 1.0,
    length_ratio: tuple[float, float] | None = (0.5, 2.0),
    max_repetition: float | None = 0.5,
    truncated: bool = False,
) -> tuple[np.ndarray, dict[str, int]]:
    """A mask of the pairs that pass, bool `[pairs]`, and the numbers of the others by reason."""
    instance("pairs", pairs, GeneratedAudioTextDataset)
    if pairs.columns != ID_COLUMNS:
        raise ValueError(f"pairs must be opened with the default columns, got {', '.join(pairs.columns)}")
    best_share, truncated = real_number("best_share", best_share, most=1, above=0), switch("truncated", truncated)
    if length_ratio is not None:
        if not isinstance(cast(object, length_ratio), (tuple, list)) or len(length_ratio) != 2:
            raise TypeError(f"length_ratio must be (lowest, highest) or None, got {shown(length_ratio)}")
        low, high = (real_number("length_ratio", one, least=0) for one in length_ratio)
        if not low <= 1 <= high:
            raise ValueError(
                f"length_ratio must be (at most 1, at least 1), multiples of the median, got {length_ratio}"
            )
    if max_repetition is not None:
        max_repetition = real_number("max_repetition", max_repetition, 0, 1, also=" or None")
    lengths = np.asarray(pairs.lengths, dtype=np.float64)
    kept = np.ones(len(lengths), dtype=bool)
    left_out: dict[str, int] = {}

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
        loops[[index for index in kept.nonzero()[0] if repetition(pairs[int(index)][1]) > max_repetition]] = True
        leave_out("repetition", loops)
    scores = np.array([-np.inf if score is None else score for score in pairs.column("score")])
    places = kept.nonzero()[0]
    worst = places[np.argsort(-scores[places], kind="stable")[max(1, round(best_share * len(places))) :]]
    leave_out("score", np.isin(np.arange(len(kept)), worst))
    return kept, left_out


def report(pairs: GeneratedAudioTextDataset, out: str | Path, *, seed: int = 0, **filters: Any) -> dict[str, Any]:
    """Writes report.json and histograms.png (scores, lengths, ids per text id) about pairs into the folder `out`.

    Args:
        pairs: opened with the default columns.
        out: made if it does not exist.
        seed: fixes the random choice of the examples.
        filters: arguments of `select`; the report counts the pairs that it leaves out.

    Returns:
        The contents of report.json: `pairs`, `kept`, `left_out` by reason, quantiles, and `examples` with id, text and
        score. `text` is null if the folder holds no texts.
    """
    out, seed = absolute_path("out", out), whole_number("seed", seed, 0)
    instance("pairs", pairs, GeneratedAudioTextDataset)
    lengths = np.asarray(pairs.lengths)
    scores = np.array([score for score in pairs.column("score") if score is not None], dtype=np.float64)
    sound, left_out = _sound(pairs, **filters)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:EXAMPLES]
    ids, texts, all_scores = (pairs.column(name) for name in ("id", "text", "score"))
    found: dict[str, Any] = {
        "pairs": len(pairs),
        "kept": int(sound.sum()),
        "left_out": left_out,
        "semantic_lengths": _quantiles(lengths[:, 0]),
        "text_lengths": _quantiles(lengths[:, 1]),
        "scores": _quantiles(scores),
        "examples": [{"id": ids[i], "text": texts[i], "score": all_scores[i]} for i in sorted(chosen.tolist())],
    }
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
    """Minimum, quartiles and maximum; None without values."""
    if not len(values):
        return None
    names = ("least", "lower quartile", "median", "upper quartile", "most")
    return dict(zip(names, np.round(np.quantile(values, np.linspace(0, 1, 5)), 4).tolist(), strict=True))
