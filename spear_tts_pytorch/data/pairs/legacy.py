"""Pairs as releases up to 0.4.8 wrote them: a folder of `{n}.pt` rows, `[audio.., eos, delimiter, text.., eos]`.

In: paths. Out: semantic ids `[n]` and text ids `[m]`, int64, without padding and end-of-sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from spear_tts_pytorch.tokens import SPEECH_PAD_ID, TEXT_PAD_ID, strip
from spear_tts_pytorch.utils.restricted import load_tensors


def legacy_rows(folder: str | Path) -> list[Path]:
    """The `{n}.pt` files of a folder, sorted by number."""
    return sorted(
        (path for path in Path(folder).glob("*.pt") if path.stem.isdecimal()), key=lambda path: int(path.stem)
    )


def without_eos(
    pairs: Sequence[tuple[Tensor, Tensor]], eos_id: Mapping[str, int] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """The semantic and the text ids of pairs from `split_row`, without padding and end-of-sequence.

    Args:
        eos_id: end-of-sequence ids of "speech" and "text"; recognised by their places if None.
    """
    semantic, text = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if eos_id is None:
        speech_eos = _recognise_eos(semantic, 1.0)
        # By default models set both ids or neither. Audio tells which, because it was never cut.
        text_eos = None if speech_eos is None else _recognise_eos(text, 0.5)
    else:
        speech_eos, text_eos = eos_id.get("speech"), eos_id.get("text")
    return (
        [strip(row, SPEECH_PAD_ID, speech_eos) for row in semantic],
        [strip(row, TEXT_PAD_ID, text_eos) for row in text],
    )


def split_row(path: Path, delimiter_id: int = -1) -> tuple[Tensor, Tensor]:
    """Reads a row `[audio.., eos, delimiter, text.., eos]`, cut at its delimiter; both parts may end with end-of-sequence.

    Raises:
        ValueError: the file is not such a row.
    """
    row = load_tensors(path)
    if not isinstance(row, Tensor) or row.ndim != 1 or row.is_floating_point():
        raise ValueError(f"{path} must hold a one-dimensional tensor of ids: remove it from the folder")
    places = (row == delimiter_id).nonzero()
    if len(places) == 0:
        raise ValueError(f"{path} has no delimiter {delimiter_id} between audio and text: pass the right delimiter_id")
    # If the delimiter equals the padding of audio, the last one is the delimiter: text never holds -1.
    place = int(places[-1 if delimiter_id == SPEECH_PAD_ID else 0])
    audio, text = row[:place].long(), row[place + 1 :].long()
    audio, text = audio[audio != SPEECH_PAD_ID], text[text != TEXT_PAD_ID]
    for ids in (audio, text):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 2**31:
            raise ValueError(f"{path} holds ids below 0 or from {2**31} on: remove it from the folder")
    return audio, text


def _recognise_eos(rows: Sequence[Tensor], share: float) -> int | None:
    """The highest id of all rows if it occurs only as the last id, and in at least this share of the rows; else None."""
    rows = [row for row in rows if len(row)]
    if len(rows) < 2:
        return None
    highest = max(int(row.max()) for row in rows)
    inside = any(bool((row[:-1] == highest).any()) for row in rows)
    ending = sum(int(row[-1]) == highest for row in rows)
    return highest if not inside and ending >= share * len(rows) else None
