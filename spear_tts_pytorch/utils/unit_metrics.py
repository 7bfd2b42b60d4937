"""How good units of speech are: how many, how even, how long, and how much they tell of what is said.

In: ids `[n]` of clips, one for each frame, and labels of the same frames. Out: figures by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
LONGEST = 30  # frames of a run that is counted by itself; longer ones are counted with it


def run_lengths(ids: Ints) -> Ints:
    """The lengths of runs of one id `[m]` in ids `[n]`, in frames."""
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    return np.diff(np.append(starts, len(ids))).astype(np.int64)


def unit_figures(rows: Sequence[Ints], seconds: float, characters: int) -> dict[str, Any]:
    """Figures of ids alone.

    Args:
        rows: ids of each clip, one for each frame.
        seconds: the clips' duration together.
        characters: of their texts together.

    Returns:
        "used_ids"; "perplexity", the exponential of the entropy of ids in nats; "ids_per_second" and "ids_per_character"
        without repeats; "run_frames" and "median_run_frames", mean and median length of a run; and "runs", how many runs
        have 1, 2, ... 30 frames, the last with all longer ones.

    Raises:
        ValueError: no ids.
    """
    if not any(map(len, rows)):
        raise ValueError("rows hold no ids: give clips that can be used")
    runs = np.concatenate([run_lengths(row) for row in rows if len(row)])
    kept = np.concatenate([row[np.flatnonzero(np.diff(row, prepend=-1))] for row in rows if len(row)])
    shares = np.array(list(Counter(cast("list[int]", kept.tolist())).values()), dtype=np.float64) / len(kept)
    return {
        "used_ids": len(shares),
        "perplexity": round(float(np.exp(-(shares * np.log(shares)).sum())), 1),
        "ids_per_second": round(len(kept) / max(seconds, 1e-9), 2),
        "ids_per_character": round(len(kept) / max(characters, 1), 2),
        "run_frames": round(float(runs.mean()), 2),
        "median_run_frames": float(np.median(runs)),
        "runs": cast("list[int]", np.bincount(np.minimum(runs, LONGEST), minlength=LONGEST + 1)[1:].tolist()),
    }


def agreement(ids: Sequence[Ints], labels: Sequence[Ints]) -> dict[str, float]:
    """How well ids and labels of frames agree. Source: HuBERT, arXiv 2106.07447, section 4.3.

    Args:
        ids: of each clip, one for each frame.
        labels: of the same frames, such as phones or characters; frames with -1 are left out.

    Returns:
        "purity": the share of frames whose label is the most frequent one of their id (phone purity); "cluster_purity": of
        those whose id is the most frequent one of their label; "pnmi": the mutual information over the entropy of labels;
        "nmi": over the mean of both entropies. All from 0 to 1.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: rows that do not match, or no frame with a label.
    """
    if [len(row) for row in ids] != [len(row) for row in labels]:
        raise ValueError("ids and labels must have one value for each frame of the same clips")
    units = np.concatenate([np.empty(0, dtype=np.int64), *ids])
    said = np.concatenate([np.empty(0, dtype=np.int64), *labels])
    units, said = units[said >= 0], said[said >= 0]
    if not len(said):
        raise ValueError("labels hold no label of a frame: align some clips first")
    metrics = _metrics()
    joint = np.asarray(metrics.cluster.contingency_matrix(said, units), dtype=np.float64) / len(said)
    figures: dict[str, Any] = {
        "purity": joint.max(axis=0).sum(),
        "cluster_purity": joint.max(axis=1).sum(),
        "pnmi": metrics.homogeneity_score(said, units),
        "nmi": metrics.normalized_mutual_info_score(said, units),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def _metrics() -> Any:
    """The module `sklearn.metrics`."""
    try:
        return import_module("sklearn.metrics")
    except ImportError as error:
        raise ImportError('the quality of units needs scikit-learn: pip install "spear-tts-pytorch[demo]"') from error
