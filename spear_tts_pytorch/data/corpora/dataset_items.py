"""Items of dataset objects as `Utterance`s: `datasets` of HuggingFace, torchaudio and whatever looks like these.

In: an iterable of utterances, dictionaries or tuples. Out: utterances with id, text and speaker where items have them.
Knows nothing of folders, ids of sounds or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from numbers import Integral
from pathlib import PurePath
from typing import Any

import numpy as np

from spear_tts_pytorch.data.corpora.corpus import Utterance

TEXT_COLUMNS = ("text", "sentence", "normalized_text", "text_normalized", "transcription", "transcript")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
ID_COLUMNS = ("id", "file", "path")
NOT_TEXT = ("GTZAN", "IEMOCAP", "QUESST14")  # torchaudio's, whose strings are names of files and labels
MOST_CHANNELS = 16
REMEDY = "give dictionaries with 'audio', 'text', 'speaker' and 'id', or utterances"


def read_dataset(dataset: Iterable[Any]) -> Iterator[Utterance]:
    """Items of a dataset, one by one.

    Items are utterances; dictionaries as `datasets` has them, with `audio`, a text and perhaps a speaker and an id under
    their usual names; or tuples of a waveform `[t]` or `[c, t]`, its rate, and what torchaudio's LIBRISPEECH, LIBRITTS,
    LJSPEECH, VCTK_092, COMMONVOICE, CMUARCTIC, SPEECHCOMMANDS and VoxCeleb1Identification have after these; or a text and
    a speaker's number, a text alone, or nothing. Where ids are not given, they are the place in the dataset.

    Raises:
        ValueError: an item of another kind.
    """
    if getattr(dataset, "dataset", dataset).__class__.__name__ in NOT_TEXT:
        raise ValueError(f"{type(getattr(dataset, 'dataset', dataset)).__name__} has no transcripts: {REMEDY}")
    items = dataset if hasattr(dataset, "__iter__") else (dataset[index] for index in range(len(dataset)))
    for index, item in enumerate(items):
        if isinstance(item, Utterance):
            yield item
            continue
        try:
            yield _utterance_of(index, item)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ValueError(f"item {index} of the dataset cannot be used ({error}): {REMEDY}") from error


def _utterance_of(index: int, item: Any) -> Utterance:
    if isinstance(item, dict) and "audio" in item:
        audio = item["audio"]
        if isinstance(audio, (str, bytes)) or audio is None:
            raise ValueError("its 'audio' is not decoded")
        wav, rate = audio["array"], audio["sampling_rate"]
        text, speaker, id_ = (_first(item, names) for names in (TEXT_COLUMNS, SPEAKER_COLUMNS, ID_COLUMNS))
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        wav, rate, *rest = item
        text, speaker, id_ = _fields(rest)
    else:
        raise ValueError(f"it is a {type(item).__name__}")
    if not isinstance(text, str | None):
        raise ValueError(f"its text is a {type(text).__name__}")
    if not isinstance(rate, Integral) or rate < 1:
        raise ValueError(f"its rate is {rate!r:.40}, not a whole number of Hz")
    samples = _samples(wav)
    return Utterance(
        str(index) if id_ is None else str(id_),
        " ".join(text.split()) or None if text is not None else None,
        None if speaker is None else str(speaker),
        int(rate),
        partial(np.asarray, samples),
        len(samples),
    )


def _fields(rest: list[Any]) -> tuple[Any, Any, Any]:
    """Text, speaker and id in what follows waveform and rate, told apart by the types."""
    match rest:
        case []:
            return None, None, None
        case [None | str() as text] | [None | str() as text, None]:
            return text, None, None
        case [dict(row)]:  # COMMONVOICE
            path = _first(row, ID_COLUMNS)
            return _first(row, TEXT_COLUMNS), _first(row, SPEAKER_COLUMNS), path and PurePath(path).stem
        case [str(text), str(second)] if " " in text.strip() and " " not in second.strip():  # CMUARCTIC
            return text, None, second
        case [str(_), str(normalized)]:  # LJSPEECH
            return normalized, None, None
        case [str(text), str(speaker), str(number)]:  # VCTK_092
            return text, speaker, f"{speaker}_{number}"
        case [str(text), str(speaker), Integral() as number]:  # SPEECHCOMMANDS
            return text, speaker, f"{text}/{speaker}_{number}"
        case [str(_), str(normalized), Integral() as speaker, Integral(), str(id_)]:  # LIBRITTS
            return normalized, speaker, id_
        case [str(text), Integral() as speaker, Integral() as chapter, Integral() as number]:  # LIBRISPEECH
            return text, speaker, f"{speaker}-{chapter}-{number:04d}"
        case [Integral() as speaker, str(id_)]:  # VoxCeleb1Identification
            return None, speaker, id_
        case [None | str() as text, Integral() as speaker]:
            return text, speaker, None
    kinds = ", ".join(type(value).__name__ for value in rest)
    raise ValueError(f"after waveform and rate it has {kinds}, which no known layout has")


def _samples(wav: Any) -> np.ndarray:
    wav = np.asarray(wav)
    if not np.issubdtype(wav.dtype, np.floating):
        raise ValueError(f"its waveform is of {wav.dtype}, not floating point in -1 to 1; divide 16 bits by 32768")
    if wav.ndim not in (1, 2) or (wav.ndim == 2 and wav.shape[0] > MOST_CHANNELS):
        raise ValueError(f"its waveform has the shape {list(wav.shape)}, not [t] or [channels, t]")
    wav = wav.astype(np.float32, copy=False)
    return wav.mean(axis=0) if wav.ndim == 2 else wav


def _first(item: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)
