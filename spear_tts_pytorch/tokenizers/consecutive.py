"""Ids without repeats, and for how many frames each lasts, from any semantic tokenizer.

In: waveforms `[b, t]` with lengths. Out: ids `[b, n]` without repeats, padded with -1, with or without durations `[b, n]`;
`expand` puts the repeats back, for what works frame by frame, as SoundStorm does. Knows nothing of how ids come about.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spear_tts_pytorch.tokenizers.semantic import (
    CONFIG_NAME,
    SPEECH_PAD_ID,
    SemanticTokenizer,
    describe,
    load_semantic_tokenizer,
    tokenize_waveform,
)
from spear_tts_pytorch.tokens import pad_sequences, remove_repeats

INNER = "frames"


class UniqueConsecutive:
    """A semantic tokenizer whose ids never repeat (SPEAR-TTS, arXiv 2302.03540, section 3).

    Args:
        tokenizer: gives one id per frame.

    Raises:
        ValueError: `tokenizer` leaves out repeats itself, so that durations would be lost.
    """

    def __init__(self, tokenizer: SemanticTokenizer):
        if getattr(tokenizer, "unique_consecutive", False):
            raise ValueError(
                f"tokenizer, a {type(tokenizer).__name__}, leaves out repeats already: use it as it is, or make it with "
                "unique_consecutive=False"
            )
        self.tokenizer = tokenizer
        self.unique_consecutive = True

    @property
    def codebook_size(self) -> int:
        return self.tokenizer.codebook_size

    @property
    def target_sample_hz(self) -> int:
        return self.tokenizer.target_sample_hz

    @property
    def downsample_factor(self) -> int:
        return self.tokenizer.downsample_factor

    def __call__(
        self,
        wav: Tensor | np.ndarray,
        lengths: Tensor | None = None,
        input_sample_hz: int | None = None,
        flatten: bool = True,
    ) -> Tensor:
        """Waveforms `[b, t]` or `[t]` to int64 ids `[b, n]` without repeats, padded with -1; `flatten` changes nothing."""
        return self.encode_with_durations(wav, lengths, input_sample_hz)[0]

    def encode_with_durations(
        self, wav: Tensor | np.ndarray, lengths: Tensor | None = None, input_sample_hz: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids without repeats `[b, n]`, padded with -1, and for how many frames each lasts `[b, n]`, padded with 0."""
        frames = tokenize_waveform(self.tokenizer, torch.as_tensor(wav), lengths, input_sample_hz)
        rows = [remove_repeats(row[row != SPEECH_PAD_ID]) for row in frames]
        return pad_sequences([row[0] for row in rows], SPEECH_PAD_ID), pad_sequences([row[1] for row in rows], 0)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the tokenizer of frames into `folder/frames` and, last, `tokenizer.json`."""
        self.tokenizer.save(Path(folder) / INNER)
        text = json.dumps({"type": "unique_consecutive", "format_version": 1}, indent=2) + "\n"
        (Path(folder) / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> UniqueConsecutive:
        """The tokenizer written by `save`."""
        return cls(load_semantic_tokenizer(Path(folder) / INNER))

    def to_dict(self) -> dict[str, Any]:
        """What tells this tokenizer from others, as JSON types."""
        return {**describe(self.tokenizer), "unique_consecutive": True}


def expand(ids: Tensor, durations: Tensor) -> Tensor:
    """Ids `[b, n]` without repeats and their durations `[b, n]` to one id per frame `[b, m]`, padded with -1.

    Raises:
        ValueError: shapes that differ, or negative durations.
    """
    if ids.shape != durations.shape or ids.ndim != 2:
        raise ValueError(
            f"ids and durations must have one shape [b, n], got {list(ids.shape)} and {list(durations.shape)}"
        )
    if bool((durations < 0).any()):
        raise ValueError("durations must be at least 0 frames")
    rows = [
        row.repeat_interleave(times.masked_fill(row == SPEECH_PAD_ID, 0))
        for row, times in zip(ids, durations, strict=True)
    ]
    return pad_sequences(rows, SPEECH_PAD_ID)
