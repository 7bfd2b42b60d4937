"""Gives the clips of a long recording the words of its transcript, by forced alignment with the reader of speech.

In: a `CTCBacktranslator`, speech ids of the clips, and the text. Out: a text for each clip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.alignment import ctc_align
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.tokens import pad_sequences
from spear_tts_pytorch.utils.checks import in_evaluation
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import read_object

FILE = "aligned.json"
BATCH = 64


def align(
    reader: CTCBacktranslator, speech: Sequence[Tensor], text: str, encode: Callable[[str], Tensor]
) -> list[tuple[str, float]]:
    """Divides a text among clips that follow each other. A word goes to the clip in which most of it is said.

    Args:
        reader: gives the log-probabilities.
        speech: speech ids `[n]` of the clips.
        text: normalised, words apart by spaces.
        encode: a text to its ids `[m]`, one for each character.

    Returns:
        The text of each clip, "" where nothing is said, and the mean log-probability of its characters in nats, 0 for "".

    Raises:
        ValueError: the text is too long for the clips, or there are none.
    """
    if not speech:
        raise ValueError("none of its clips can be used")
    log_probs = _log_probs(reader, speech)
    edges = torch.tensor([len(part) for part in log_probs]).cumsum(0)
    found = ctc_align(torch.cat(log_probs), encode(text), reader.model.text_pad_id)
    clip_of = torch.searchsorted(edges, found.frames, right=True)
    words: list[list[str]] = [[] for _ in speech]
    scores: list[list[float]] = [[] for _ in speech]
    position = 0
    for word in text.split(" "):
        place = slice(position, position + len(word))
        clip = int(clip_of[place].mode().values)
        words[clip].append(word)
        scores[clip] += found.log_probs[place].tolist()
        position += len(word) + 1
    return [(" ".join(said), sum(own) / max(1, len(own))) for said, own in zip(words, scores, strict=True)]


@torch.no_grad()
def _log_probs(reader: CTCBacktranslator, speech: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities `[n + 1, v]` of each clip, on the CPU."""
    rows: list[Tensor] = []
    for start in range(0, len(speech), BATCH):
        padded = pad_sequences(list(speech[start : start + BATCH]), reader.model.semantic_pad_id)
        log_probs, lengths = in_evaluation(reader.model).ctc_logits(padded)
        rows += [row[:length].cpu() for row, length in zip(log_probs, cast("list[int]", lengths.tolist()), strict=True)]
    return rows


def read_aligned(folder: Path) -> dict[str, str]:
    """The texts that `write_aligned` wrote, by the ids of clips; none if there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    read = read_object(path, "texts by the ids of clips", f"remove {folder}, and the stage is made again")
    if not all(isinstance(text, str) for text in read.values()):
        raise ValueError(f"{path} is not texts by the ids of clips: remove {folder}, and the stage is made again")
    return read


def write_aligned(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes texts by the ids of clips into the folder of a stage."""
    write_whole(
        folder / FILE, (json.dumps(texts, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "backslashreplace")
    )
