"""What is said when in the labelled clips: phones of given alignments, or characters that a reader of speech aligns.

In: `Results` whose units are made, clips, and a folder of TextGrids if there is one. Out: spans in seconds by clip, and
labels for the frames of any tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from spear_tts_pytorch.data.corpora.clip_files import few
from spear_tts_pytorch.data.corpora.transcripts import read_labels
from spear_tts_pytorch.decoding.alignment import ctc_align
from spear_tts_pytorch.tokens import remove_repeats
from spear_tts_pytorch.utils.unit_metrics import Ints

Span = tuple[float, float, str]
"""Start and end in seconds, and a phone or character."""
SUFFIX = ".TextGrid"


def given_spans(folder: Path, ids: Sequence[str]) -> dict[str, list[Span]]:
    """The phones of clips, from files `ID.TextGrid` in a folder.

    Raises:
        FileNotFoundError: there is no such folder, or none of the clips has a file.
        ImportError: praatio is missing.
        ValueError: a file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"alignments: there is no folder {folder}: give one with a file ID.TextGrid for each clip"
        )
    there = {id_: folder / f"{id_}{SUFFIX}" for id_ in ids}
    found = {id_: read_labels(path) for id_, path in there.items() if path.is_file()}
    if not found:
        raise FileNotFoundError(
            f"alignments: {folder} has a file for none of the labelled clips ({few(list(ids))}): name them ID{SUFFIX}"
        )
    return found


def character_spans(
    frames: Mapping[str, Tensor],
    texts: Mapping[str, str],
    encode: Callable[[str], Tensor],
    log_probs_of: Callable[[Tensor], Tensor],
    frame_hz: float,
) -> dict[str, list[Span]]:
    """Aligns texts to clips: a character lasts until the next one begins. Clips that are too short for theirs are left out.

    Args:
        frames: ids of each clip, one for each frame.
        texts: of the clips, normalised.
        encode: a text to its ids `[m]`, one for each character.
        log_probs_of: ids without repeats `[n]` to log-probabilities `[k n or more, v]`, k for each id, blank 0.
        frame_hz: frames in a second.
    """
    spans: dict[str, list[Span]] = {}
    for id_, row in frames.items():
        ids, durations = remove_repeats(row)
        text = texts[id_]
        if not len(ids) or not text:
            continue
        log_probs = log_probs_of(ids)
        try:
            first = ctc_align(log_probs, encode(text)).frames
        except ValueError:  # more characters than ids
            continue
        places = (first // max(1, len(log_probs) // len(ids))).clamp_max(len(ids) - 1)
        begins = torch.cat([torch.zeros(1, dtype=torch.long), durations.cumsum(0)])[places] / frame_hz
        times = [*cast("list[float]", begins.tolist()), len(row) / frame_hz]
        spans[id_] = [(start, end, letter) for (start, end), letter in zip(pairwise(times), text, strict=True)]
    return spans


def frame_labels(spans: Sequence[Span], count: int, frame_hz: float, numbers: Mapping[str, int]) -> Ints:
    """The label of each of `count` frames, `[count]`: that at its middle; -1 where there is none.

    Args:
        spans: in the order of time.
        count: number of frames.
        frame_hz: frames in a second.
        numbers: of the labels.
    """
    labels = np.full(count, -1, dtype=np.int64)
    for start, end, label in spans:
        first, last = (max(0, round(time * frame_hz)) for time in (start, end))
        labels[first:last] = numbers[label]
    return labels
