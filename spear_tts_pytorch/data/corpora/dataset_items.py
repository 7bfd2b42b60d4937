"""Items of dataset objects as `Utterance`s: HuggingFace's `datasets`, torchaudio, and objects with the same items.

In: an iterable of utterances, dictionaries or tuples. Out: utterances, with id, text and speaker if the items have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Integral
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np

from spear_tts_pytorch.data.audio import load_audio, load_recording, recording_header
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.loader import SizedDataset
from spear_tts_pytorch.data.recordings import AudioFile

TEXT_COLUMNS = ("text", "sentence", "normalized_text", "text_normalized", "transcription", "transcript")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
ID_COLUMNS = ("id", "file", "path")
NOT_TEXT = ("GTZAN", "IEMOCAP", "QUESST14")  # datasets of torchaudio whose strings are file names and labels
MOST_CHANNELS = 16
REMEDY = "give dictionaries with 'audio', 'text', 'speaker' and 'id', or utterances"


def read_dataset(dataset: Iterable[Any]) -> Iterator[Utterance]:
    """Yields the items of a dataset as utterances.

    An item is one of:

    - an `Utterance`;
    - a dictionary as in `datasets`, with `audio`, and perhaps a text, a speaker and an id under their usual names. The
      audio is `{"array", "sampling_rate"}`, or a file: `{"path", "bytes"}` with one or both (`Audio(decode=False)`), a path,
      or the bytes of a file. A file is read when its audio is needed; bytes come before a path. A dictionary of audio alone
      is an item, too;
    - a tuple of a waveform `[t]` or `[c, t]` and its rate in Hz, and then nothing, a text, a text and a speaker's number,
      or the fields of torchaudio's LIBRISPEECH, LIBRITTS, LJSPEECH, VCTK_092, COMMONVOICE, CMUARCTIC, SPEECHCOMMANDS or
      VoxCeleb1Identification.

    An item without an id gets its index in the dataset.

    Raises:
        ValueError: an item of another kind.
    """
    if getattr(dataset, "dataset", dataset).__class__.__name__ in NOT_TEXT:
        raise ValueError(f"{type(getattr(dataset, 'dataset', dataset)).__name__} has no transcripts: {REMEDY}")
    items = dataset if hasattr(dataset, "__iter__") else _by_index(cast(Any, dataset))
    for index, item in enumerate(items):
        if isinstance(item, Utterance):
            yield item
            continue
        try:
            yield _utterance_of(index, item)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ValueError(f"item {index} of the dataset cannot be used ({error}): {REMEDY}") from error


def _by_index(dataset: SizedDataset) -> Iterator[Any]:
    """Items of a dataset that cannot be iterated over."""
    for index in range(len(dataset)):
        yield dataset[index]


def _utterance_of(index: int, item: Any) -> Utterance:
    """An item as an utterance; raises an error of any type if it is of another kind."""
    text: Any
    row = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    if "audio" in row or "array" in row or "bytes" in row or "path" in row:
        text, speaker, id_ = (_first(row, names) for names in (TEXT_COLUMNS, SPEAKER_COLUMNS, ID_COLUMNS))
        sound = _sound_of(row.get("audio", row), f"item {index}")
    elif isinstance(item, (tuple, list)) and len(cast("list[Any]", item)) >= 2:
        wav, rate, *rest = cast("list[Any]", item)
        text, speaker, id_ = _fields(rest)
        sound = _decoded(wav, rate)
    else:
        raise ValueError(f"it is a {type(cast(object, item)).__name__}")
    if not isinstance(text, str | None):
        raise ValueError(f"its text is a {type(text).__name__}")
    return Utterance(
        str(index) if id_ is None else str(id_),
        " ".join(text.split()) or None if text is not None else None,
        None if speaker is None else str(speaker),
        *sound,
    )


Sound = tuple[int, Callable[[], np.ndarray], "int | None"]
"""The last fields of an `Utterance`: rate in Hz (0 if it cannot be read), a function that loads, number of samples."""


def _sound_of(audio: Any, name: str) -> Sound:
    """The audio of a dictionary: decoded, or a file by its path or its bytes."""
    if isinstance(audio, (str, PurePath)):
        return _file(AudioFile(Path(audio)))
    if isinstance(audio, (bytes, bytearray)):
        return _file(AudioFile(Path(name), bytes(audio)))
    if audio is None:
        raise ValueError("its 'audio' is None")
    if not isinstance(audio, dict) or "array" in audio:
        return _decoded(audio["array"], audio["sampling_rate"])
    file = cast("dict[str, Any]", audio)
    path, data = file.get("path"), file.get("bytes")
    if not isinstance(path, str | PurePath | None) or not isinstance(data, bytes | bytearray | None):
        raise ValueError(f"its 'audio' has a path {path!r:.40} and bytes of the type {type(data).__name__}")
    if data is not None:
        return _file(AudioFile(Path(name if path is None else path), bytes(data)))
    if path is None:
        raise ValueError("its 'audio' has neither an array nor a path nor bytes")
    return _file(AudioFile(Path(path)))


def _file(source: AudioFile) -> Sound:
    try:
        rate, samples = recording_header(source)
    except ValueError:
        rate, samples = 0, 0  # loading raises the error, so that the clip is named and left out
    return rate, partial(_load, source), samples


def _load(source: AudioFile) -> np.ndarray:
    return load_recording(source)[0] if source.data is not None else load_audio(source.path)[0]


def _decoded(wav: Any, rate: Any) -> Sound:
    if not isinstance(rate, Integral) or rate < 1:
        raise ValueError(f"its rate is {rate!r:.40}, not a whole number of Hz")
    samples = _samples(wav)
    return int(rate), partial(np.asarray, samples), len(samples)


def _fields(rest: list[Any]) -> tuple[Any, Any, Any]:
    """Text, speaker and id in the fields after waveform and rate, recognised by their types."""
    match rest:
        case []:
            return None, None, None
        case [None | str() as text] | [None | str() as text, None]:
            return text, None, None
        case [dict()]:  # COMMONVOICE
            row: dict[str, Any] = rest[0]
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
        case _:
            pass
    kinds = ", ".join(type(value).__name__ for value in rest)
    raise ValueError(f"no known layout has the fields {kinds} after waveform and rate")


def _samples(wav: Any) -> np.ndarray:
    """A waveform as mono float32 `[t]`."""
    wav = np.asarray(wav)
    if not np.issubdtype(wav.dtype, np.floating):
        raise ValueError(f"its waveform is of {wav.dtype}, not floating point in -1 to 1; divide 16 bits by 32768")
    if wav.ndim not in (1, 2) or (wav.ndim == 2 and wav.shape[0] > MOST_CHANNELS):
        raise ValueError(f"its waveform has the shape {list(wav.shape)}, not [t] or [channels, t]")
    wav = wav.astype(np.float32, copy=False)
    return wav.mean(axis=0) if wav.ndim == 2 else wav


def _first(item: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of these columns that is there; None without one."""
    return next((item[name] for name in names if item.get(name) is not None), None)
