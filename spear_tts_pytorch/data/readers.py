"""Corpora in the layouts people have: each reader gives `Utterance`s, whose audio is read when it is asked for.

In: a folder (audio alone, LJSpeech, LibriSpeech, LibriTTS, Common Voice, VCTK), a `datasets` object or a dataset in the
manner of torchaudio. Out: utterances with id, text, speaker and rate where these are known. Texts are as they stand there,
but for white space; `normalize_text` is the tokenizers' business. Knows nothing of ids or models.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from spear_tts_pytorch.data.audio import AUDIO_SUFFIXES, load_audio
from spear_tts_pytorch.data.corpora import Utterance, read_ljspeech

TEXT_COLUMNS = ("text", "sentence", "normalized_text", "text_normalized", "transcription", "transcript")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
ID_COLUMNS = ("id", "file", "path")


def read_corpus(source: str | os.PathLike[str] | Iterable[Any]) -> Iterable[Utterance]:
    """Utterances of a folder, whose layout is found out, or of a dataset object (`read_dataset`).

    Raises:
        FileNotFoundError: there is no such folder, or no audio in it.
        ValueError: a layout that is broken.
    """
    if not isinstance(source, (str, os.PathLike)):
        return read_dataset(source)
    folder = _folder(source)
    if (folder / "metadata.csv").is_file() and (folder / "wavs").is_dir():
        return read_ljspeech(folder, strict=False)
    if (folder / "clips").is_dir() and any(folder.glob("*.tsv")):
        return read_common_voice(folder)
    if (folder / "txt").is_dir() and any((folder / name).is_dir() for name in VCTK_FOLDERS):
        return read_vctk(folder)
    if next(folder.rglob("*.trans.txt"), None):
        return read_librispeech(folder)
    if next(folder.rglob("*.normalized.txt"), None):
        return read_libritts(folder)
    return read_folder(folder)


def read_folder(folder: str | os.PathLike[str]) -> list[Utterance]:
    """All audio under `folder`; a clip's text is in the file of its name that ends in `.txt`, if there is one."""
    folder = _folder(folder)
    files = _audio_under(folder)
    return [_utterance(_id(folder, path), _text_of(path.with_suffix(".txt")), None, path) for path in files]


def read_librispeech(folder: str | os.PathLike[str]) -> list[Utterance]:
    """LibriSpeech, one split or several: `{speaker}/{chapter}/{id}.flac` with texts in `*.trans.txt`."""
    found = []
    for listing in sorted(_folder(folder).rglob("*.trans.txt")):
        files = {path.stem: path for path in listing.parent.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES}
        for line in _lines(listing):
            id_, _, text = line.partition(" ")
            if id_ in files:
                found.append(_utterance(id_, text.strip(), id_.split("-")[0], files[id_]))
    return _some(found, folder)


def read_libritts(folder: str | os.PathLike[str]) -> list[Utterance]:
    """LibriTTS: `{speaker}/{chapter}/{id}.wav` with `{id}.normalized.txt`."""
    found = []
    for path in _audio_under(_folder(folder)):
        text = _text_of(path.with_name(f"{path.stem}.normalized.txt"))
        found.append(_utterance(path.stem, text, path.stem.split("_")[0], path))
    return _some(found, folder)


def read_common_voice(folder: str | os.PathLike[str], split: str | None = None) -> list[Utterance]:
    """Common Voice: `clips/` and `{split}.tsv`; by default `validated.tsv`, or `train.tsv` without it."""
    folder = _folder(folder)
    names = [split] if split else [name for name in ("validated", "train") if (folder / f"{name}.tsv").is_file()]
    if not names or not (folder / f"{names[0]}.tsv").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.tsv"))) or "none"
        raise FileNotFoundError(f"{folder} has no {split or 'validated'}.tsv (there: {there})")
    with open(folder / f"{names[0]}.tsv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if rows and not {"path", "sentence"} <= rows[0].keys():
        raise ValueError(f"{folder / names[0]}.tsv has no columns 'path' and 'sentence'")
    found = []
    for row in rows:
        path = folder / "clips" / row["path"]
        path = path if path.suffix else path.with_suffix(".mp3")
        if path.is_file():
            found.append(_utterance(path.stem, _clean(row["sentence"]), row.get("client_id"), path))
    return _some(found, folder)


VCTK_FOLDERS = ("wav48_silence_trimmed", "wav48", "wav16")


def read_vctk(folder: str | os.PathLike[str], microphone: int = 1) -> list[Utterance]:
    """VCTK: `txt/{speaker}/{id}.txt`, audio in `wav48_silence_trimmed/` (of one microphone) or `wav48/`."""
    folder = _folder(folder)
    audio = next((folder / name for name in VCTK_FOLDERS if (folder / name).is_dir()), folder)
    found = []
    for path in _audio_under(audio):
        stem, _, mic = path.stem.partition("_mic")
        if mic in ("", str(microphone)):
            speaker = path.parent.name
            found.append(_utterance(stem, _text_of(folder / "txt" / speaker / f"{stem}.txt"), speaker, path))
    return _some(found, folder)


def read_dataset(dataset: Iterable[Any]) -> Iterator[Utterance]:
    """Items of a dataset, one by one.

    Items are utterances; dictionaries as `datasets` has them, with `audio`, a text and perhaps a speaker and an id under
    their usual names; or tuples as torchaudio's `(waveform [c, t], rate, text, speaker, ...)`. Of four, the last is a
    second text, as in LJSpeech.

    Raises:
        ValueError: an item of another kind.
    """
    for index, item in enumerate(dataset):
        if isinstance(item, Utterance):
            yield item
        elif isinstance(item, dict) and "audio" in item:
            audio = item["audio"]
            text, speaker, id_ = (_first(item, names) for names in (TEXT_COLUMNS, SPEAKER_COLUMNS, ID_COLUMNS))
            yield _in_memory(str(index) if id_ is None else id_, text, speaker, audio["array"], audio["sampling_rate"])
        elif isinstance(item, (tuple, list)) and len(item) >= 2:
            wav, rate, *rest = item
            texts = [value for value in rest[:2] if isinstance(value, str)]
            text = (texts[-1] if len(rest) == 2 else texts[0]) if texts else None
            yield _in_memory(str(index), text, rest[1] if len(rest) > 2 else None, wav, rate)
        else:
            raise ValueError(
                f"item {index} of the dataset is a {type(item).__name__}: give a dictionary with 'audio' or a tuple "
                "(waveform, sampling rate, text, speaker)"
            )


def _in_memory(id_: str, text: str | None, speaker: Any, wav: Any, sample_hz: int) -> Utterance:
    samples = np.asarray(wav, dtype=np.float32)
    samples = samples.mean(axis=0) if samples.ndim == 2 else samples
    speaker = None if speaker is None else str(speaker)
    text = None if text is None else _clean(text)
    return Utterance(str(id_), text, speaker, int(sample_hz), partial(np.asarray, samples), len(samples))


def _utterance(id_: str, text: str | None, speaker: str | None, path: Path) -> Utterance:
    """Reads the header; a file without one is an utterance whose audio cannot be read, which says so when it is asked."""
    try:
        info = soundfile.info(path)
        rate, frames = info.samplerate, info.frames
    except (soundfile.SoundFileError, RuntimeError):
        rate, frames = 0, 0
    return Utterance(id_, text, speaker, rate, partial(_load, path), frames)


def _load(path: Path) -> np.ndarray:
    return load_audio(path)[0]


def _folder(path: str | os.PathLike[str]) -> Path:
    if not Path(path).is_dir():
        raise FileNotFoundError(f"no corpus folder {path}")
    return Path(path)


def _audio_under(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder} holds no audio ({', '.join(AUDIO_SUFFIXES)})")
    return found


def _some(found: list[Utterance], folder: str | os.PathLike[str]) -> list[Utterance]:
    if not found:
        raise FileNotFoundError(f"{folder} holds no text that has audio")
    return found


def _id(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _text_of(path: Path) -> str | None:
    return _clean(" ".join(_lines(path))) or None if path.is_file() else None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it") from error


def _clean(text: str) -> str:
    return " ".join(text.split())


def _first(item: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)
