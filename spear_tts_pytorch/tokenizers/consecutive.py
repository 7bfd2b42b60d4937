"""Removal of repeated ids: for how many frames each id lasts, a tokenizer without repeats, and the way back.

In: waveforms `[b, t]` with lengths, or rows of ids `[n]`. Out: ids `[b, n]` without repeats, padded with -1, and durations
`[b, n]` in frames, padded with 0. `expand` puts the repeats back, for models that work frame by frame, such as SoundStorm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from spear_tts_pytorch.tokenizers.semantic import (
    CONFIG_NAME,
    SemanticTokenizer,
    check_tokenizer,
    check_wav,
    describe,
    load_semantic_tokenizer,
    read_config,
    shown_rates,
    tokenize_waveform,
)
from spear_tts_pytorch.tokens import SPEECH_PAD_ID, pad_sequences, remove_repeats
from spear_tts_pytorch.utils.replacing import replaced, whole
from spear_tts_pytorch.utils.values import given_path, integers

MOST_FRAMES = 2**22  # of a row: 23 hours at 50 a second
INNER, KIND = "frames", "unique_consecutive"


def without_repeats(rows: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of ids `[n]` without consecutive repeats `[b, m]`, padded with -1, and their durations `[b, m]`, padded with 0."""
    pairs = [remove_repeats(row) for row in rows]
    return pad_sequences([ids for ids, _ in pairs], SPEECH_PAD_ID), pad_sequences([times for _, times in pairs], 0)


def as_tokenized(rows: Sequence[Tensor], tokenizer: SemanticTokenizer | None) -> list[Tensor]:
    """Generated rows of ids `[n]` as the tokenizer would give them: without repeats if it removes repeats."""
    if getattr(tokenizer, "unique_consecutive", False):
        return [remove_repeats(row)[0] for row in rows]
    return list(rows)


def frame_ids(
    tokenizer: SemanticTokenizer,
    wav: Tensor,
    input_sample_hz: int | None = None,
    speakers: Sequence[str | None] | None = None,
) -> list[Tensor]:
    """Waveforms `[b, t]` to an id for each frame, `[n]` for each row, also of a tokenizer that removes repeats.

    Raises:
        ValueError: the tokenizer removes repeats and does not tell durations; or a row that it refuses.
    """
    if not getattr(tokenizer, "unique_consecutive", False):
        rows = tokenize_waveform(tokenizer, wav, None, input_sample_hz, speakers=speakers)
        return [row[row != SPEECH_PAD_ID] for row in rows]
    encode: Any = getattr(tokenizer, "encode_with_durations", None)
    if encode is None:
        raise ValueError(
            f"tokenizer, a {type(tokenizer).__name__}, removes repeats and has no encode_with_durations: make it without "
            "removal of repeats and wrap it in UniqueConsecutive"
        )
    ids, durations = encode(check_wav(wav), None, input_sample_hz, speakers=speakers)
    return [row[row != SPEECH_PAD_ID] for row in expand(ids, durations)]


class UniqueConsecutive:
    """Wraps a semantic tokenizer and removes consecutive repeats of its ids (SPEAR-TTS, arXiv 2302.03540, section 3).

    Args:
        tokenizer: gives one id per frame, such as `HubertWithKmeans`.

    Attributes:
        codebook_size: K, ids are `0..K-1`.
        target_sample_hz: sampling rate in Hz of the waveforms that it takes.
        downsample_factor: samples per frame; an id lasts one frame or more.
        unique_consecutive: True.

    Raises:
        TypeError: `tokenizer` is no semantic tokenizer.
        ValueError: `tokenizer` removes repeats itself, so that durations would be lost.
    """

    def __init__(self, tokenizer: SemanticTokenizer):
        check_tokenizer(tokenizer)
        if getattr(tokenizer, "unique_consecutive", False):
            raise ValueError(
                f"tokenizer, a {type(tokenizer).__name__}, removes repeats already: use it without UniqueConsecutive, or "
                "make it with unique_consecutive=False"
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
        *,
        speakers: Sequence[str | None] | None = None,
    ) -> Tensor:
        """Waveforms to ids without repeats.

        Args:
            wav: `[b, t]` or `[t]`, floating point, in -1..1.
            lengths: `[b]`, samples of each row that are audio; all of them if None.
            input_sample_hz: rate of `wav` in Hz, `target_sample_hz` if None.
            flatten: has no effect, ids always are `[b, n]`; accepted because other tokenizers have it.
            speakers: name of the speaker of each row, for tokenizers that normalise by speaker.

        Returns:
            int64 ids `[b, n]`, padded with -1.
        """
        return self.encode_with_durations(wav, lengths, input_sample_hz, speakers=speakers)[0]

    def encode_with_durations(
        self,
        wav: Tensor | np.ndarray,
        lengths: Tensor | None = None,
        input_sample_hz: int | None = None,
        *,
        speakers: Sequence[str | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ids without repeats `[b, n]`, padded with -1, and their durations in frames `[b, n]`, padded with 0."""
        frames = tokenize_waveform(self.tokenizer, check_wav(wav), lengths, input_sample_hz, speakers=speakers)
        return without_repeats(row[row != SPEECH_PAD_ID] for row in frames)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the inner tokenizer into `folder/frames`, and `folder/tokenizer.json`, both or none.

        Raises:
            TypeError: the inner tokenizer has no `save`.
        """
        save = getattr(self.tokenizer, "save", None)
        if save is None:
            raise TypeError(
                f"tokenizer, a {type(self.tokenizer).__name__}, cannot be saved: give it a method save(folder)"
            )
        with replaced(folder, (CONFIG_NAME, INNER)) as new:
            save(new / INNER)
            text = json.dumps({"type": KIND, "format_version": 1}, indent=2) + "\n"
            (new / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> UniqueConsecutive:
        """Opens the tokenizer that `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or the inner tokenizer removes repeats itself.
        """
        inner = whole(given_path("folder", folder), CONFIG_NAME) / INNER
        if (inner / CONFIG_NAME).is_file() and read_config(inner / CONFIG_NAME).get("type") == KIND:
            raise ValueError(
                f"{inner} holds a tokenizer of the type {KIND!r} inside another one: save the tokenizer again"
            )
        return cls(load_semantic_tokenizer(inner))

    def to_dict(self) -> dict[str, Any]:
        """A description that differs between tokenizers, as JSON types."""
        return {**describe(self.tokenizer), "unique_consecutive": True}

    def __repr__(self) -> str:
        return f"UniqueConsecutive({type(self.tokenizer).__name__}: {shown_rates(self)})"


def expand(ids: Tensor, durations: Tensor) -> Tensor:
    """Ids `[b, n]` without repeats and their durations in frames `[b, n]` to one id per frame `[b, m]`, padded with -1.

    Raises:
        TypeError: they are no integers.
        ValueError: shapes that differ, durations that are negative or too long.
    """
    ids, durations = integers("ids", ids), integers("durations", durations)
    if ids.shape != durations.shape or ids.ndim != 2:
        raise ValueError(
            f"ids and durations must have one shape [b, n], got {list(ids.shape)} and {list(durations.shape)}"
        )
    if bool((durations < 0).any()):
        raise ValueError("durations must be at least 0 frames")
    if float(durations.double().sum(dim=-1).max() if len(durations) else 0) > MOST_FRAMES:
        raise ValueError(f"durations must add up to at most {MOST_FRAMES} frames in a row")
    rows = [
        row.repeat_interleave(times.masked_fill(row == SPEECH_PAD_ID, 0))
        for row, times in zip(ids, durations, strict=True)
    ]
    return pad_sequences(rows, SPEECH_PAD_ID)
