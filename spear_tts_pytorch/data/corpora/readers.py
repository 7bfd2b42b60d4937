"""Readers of corpora in common layouts: each gives `Utterance`s, whose audio is loaded when it is needed.

In: a folder (audio alone, LJSpeech, LibriSpeech, LibriTTS, Common Voice, VCTK), or a folder that holds such a folder. Out:
utterances with id, text, speaker and rate, as far as these are known. A warning counts missing texts and audio. Of the
texts only white space is changed; tokenizers normalise them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spear_tts_pytorch.data.audio import resample
from spear_tts_pytorch.data.corpora.clip_files import (
    NoTextWarning,
    audio_in,
    audio_under,
    by_listed_id,
    check_unique,
    few,
    id_of,
    lines_of,
    listed_id,
    readable,
    unread_audio,
    visible,
)
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.corpora.dataset_items import read_dataset
from spear_tts_pytorch.data.corpora.layouts import file_utterance, read_ljspeech
from spear_tts_pytorch.data.corpora.table_folder import candidates_in, read_table_folder, tables_in
from spear_tts_pytorch.data.corpora.tables import is_table
from spear_tts_pytorch.tokenizers.semantic import checked_rate
from spear_tts_pytorch.utils.values import given_path, place, plain, shown

VCTK_FOLDERS = ("wav48_silence_trimmed", "wav48", "wav16")
UNLISTED = "audio files in clips/ have no row here: left out"
TEXTLESS = "clips have no text, their audio is kept"
TIME = re.compile(r"\d+(\.\d+)?")
DEEPEST = 2  # most folders between the given one and a corpus in it, as in cv-corpus-17.0/en

Reader = Callable[[Path], list[Utterance]]


def read_corpus(
    source: str | os.PathLike[str] | Iterable[Any],
    *,
    table: str | None = None,
    text_column: str | int | None = None,
) -> Iterable[Utterance]:
    """Reads a folder in any of the layouts, which is recognised, or a dataset object (`read_dataset`).

    The corpus may be one or two folders below `source` if it is the only one and all audio belongs to it.

    Args:
        source: path of a folder, or an iterable of items.
        table: file name of the table of texts in the folder (`read_table_folder`); None recognises it.
        text_column: number of the text's column in the table, from 1, or its name in the first row; None recognises it.

    Raises:
        FileNotFoundError: there is no such folder, or no audio in it.
        ValueError: a broken layout, several corpora, several columns that may be the text, or `table` or `text_column`
            where no table is read.
    """
    given = {"table": table, "text_column": text_column}
    given = {name: value for name, value in given.items() if value is not None}
    if not isinstance(source, (str, os.PathLike)):
        found: object = plain(source)
        if isinstance(found, bytes) or not (hasattr(found, "__iter__") or hasattr(found, "__getitem__")):
            raise TypeError(f"source must be the path of a folder, or a dataset, got {shown(source)}")
        return read_dataset(source) if not given else _refuse(given, "a dataset object")
    folder = _folder(source, "source")
    if table is not None:
        return read_table_folder(folder, table, text_column)
    corpora = _corpora_in(folder, DEEPEST, text_column)
    if len(corpora) > 1:
        names = [str(path.relative_to(folder)) for path, _ in corpora]
        raise ValueError(f"{folder} holds {len(corpora)} corpora ({few(names)}): give one of them")
    for inner, read in corpora:  # at most one
        others = [path for path in audio_under(folder) if inner not in path.parents] if inner != folder else []
        if others:
            raise ValueError(
                f"{folder} holds a corpus, {inner.relative_to(folder)}, and other audio "
                f"({few([_name(folder, path) for path in others])}): give the folder of the one you mean"
            )
        if given and read in (read_common_voice, read_vctk):
            _refuse(given, f"{inner}, whose layout is known")
        return read(inner)
    if given:
        _refuse(given, f"{folder}, which has no table that names audio")
    if visible(folder, "*.trans.txt"):
        return read_librispeech(folder)
    if visible(folder, "*.normalized.txt"):
        return read_libritts(folder)
    return read_folder(folder)


def _refuse(given: dict[str, Any], where: str) -> NoReturn:
    options = ", ".join(f"{name}={value!r}" for name, value in given.items())
    raise ValueError(f"{options} cannot be used with {where}: leave it out")


def _reader(folder: Path, text_column: str | int | None) -> Reader | None:
    """The reader of a folder whose own files show its layout: LJSpeech, Common Voice, VCTK or tables; None for others."""
    metadata = folder / "metadata.csv"
    if metadata.is_file() and ((folder / "wavs").is_dir() or (_has_rows(metadata) and audio_in(folder))):
        return partial(read_ljspeech, strict=False, text_column=text_column)
    if (folder / "clips").is_dir() and any(folder.glob("*.tsv")):
        return read_common_voice
    if (folder / "txt").is_dir() and any((folder / name).is_dir() for name in VCTK_FOLDERS):
        return read_vctk
    if tables_in(folder, text_column=text_column):
        return partial(read_table_folder, text_column=text_column)
    return None


def _corpora_in(folder: Path, deepest: int, text_column: str | int | None) -> list[tuple[Path, Reader]]:
    """This folder, or the folders below it, that one of the readers of `_reader` can read, with that reader."""
    if read := _reader(folder, text_column):
        return [(folder, read)]
    if not deepest:
        return []
    with os.scandir(folder) as entries:
        inner = sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [found for path in inner for found in _corpora_in(path, deepest - 1, text_column)]


def read_folder(folder: str | os.PathLike[str]) -> list[Utterance]:
    """Reads all audio under `folder`. The text of `a.wav` is in `a.txt` or `a.lab`, if there is such a file.

    Ids are relative paths without ending, or with it if two files differ only in their endings. Tables are not read here.
    """
    folder = _folder(folder)
    files = audio_under(folder)
    count = Counter(_name(folder, path) for path in files)
    found: list[Utterance] = []
    texts = _texts_beside(folder)
    for path in files:
        id_ = _name(folder, path) if count[_name(folder, path)] == 1 else id_of(path.relative_to(folder))
        text = texts.get(path.with_suffix(""))
        found.append(file_utterance(id_, _text_of(text) if text else None, None, path))
    if any(one.text for one in found):
        _warn(folder, _without_text(found), TEXTLESS, NoTextWarning)
        unread = [_name(folder, path) for path in texts.values()]
        _warn(folder, [id_ for id_ in unread if id_ not in count], "texts have no audio")
    timed = [
        id_of(path.relative_to(folder)) for path in texts.values() if path.suffix.lower() == ".lab" and _has_times(path)
    ]
    _warn(folder, timed, "files hold times of labels, not a text: not read")
    unread = [path.name for path in candidates_in(folder) if is_table(path.name)]
    _warn(folder, unread, "tables are not read: a column must name the audio in half of their rows")
    return _checked(found, folder)


def _texts_beside(folder: Path) -> dict[Path, Path]:
    """Files of texts by their paths without ending: `.txt`, or `.lab` where there is none."""
    found: dict[Path, Path] = {}
    for ending in (".lab", ".txt"):
        found.update({path.with_suffix(""): path for path in visible(folder) if path.suffix.lower() == ending})
    return found


def _has_times(path: Path) -> bool:
    """Whether each line begins with two numbers, as in label files of HTK."""
    lines = [line.split() for line in _lines(path)]
    return bool(lines) and all(len(line) >= 2 and all(TIME.fullmatch(cell) for cell in line[:2]) for line in lines)


def read_librispeech(folder: str | os.PathLike[str]) -> list[Utterance]:
    """Reads LibriSpeech, one split or several: `{speaker}/{chapter}/{id}.flac` with texts in `*.trans.txt`."""
    folder = _folder(folder)
    files = by_listed_id(audio_under(folder), folder)
    found, without_audio = list[Utterance](), list[str]()
    for listing in visible(folder, "*.trans.txt"):
        for line in _lines(listing):
            name, _, text = line.partition(" ")
            if (id_ := listed_id(name)) in files:
                found.append(file_utterance(id_, _clean(text), id_.split("-")[0], files[id_]))
            else:
                without_audio.append(id_)
    _warn(folder, without_audio, "rows of *.trans.txt have no audio: left out")
    without_row = sorted(files.keys() - {one.id for one in found})
    _warn(folder, without_row, "audio files have no row in *.trans.txt: without text", NoTextWarning)
    found += [file_utterance(id_, None, id_.split("-")[0], files[id_]) for id_ in without_row]
    return _checked(found, folder)


def read_libritts(folder: str | os.PathLike[str]) -> list[Utterance]:
    """Reads LibriTTS, one split or several: `{speaker}/{chapter}/{id}.wav` with `{id}.normalized.txt`."""
    folder, ending = _folder(folder), ".normalized.txt"
    files = by_listed_id(audio_under(folder), folder)
    found = [
        file_utterance(id_, _text_of(path.with_name(path.stem + ending)), id_.split("_")[0], path)
        for id_, path in files.items()
    ]
    texts = [listed_id(path.name.removesuffix(ending)) for path in visible(folder, f"*{ending}")]
    _warn(folder, [id_ for id_ in texts if id_ not in files], "texts have no audio: left out")
    _warn(folder, _without_text(found), TEXTLESS, NoTextWarning)
    return _checked(found, folder)


def read_common_voice(folder: str | os.PathLike[str], split: str | None = None) -> list[Utterance]:
    """Reads Common Voice: `clips/` and `{split}.tsv`.

    Args:
        folder: the corpus of one language.
        split: name of the table without ending. If None, `validated.tsv`, or `train.tsv` if there is none, and then the
            audio that is not in the table, without text.
    """
    folder = _folder(folder)
    names = [split] if split else [name for name in ("validated", "train") if (folder / f"{name}.tsv").is_file()]
    if not names or not (folder / f"{names[0]}.tsv").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.tsv"))) or "none"
        raise FileNotFoundError(f"{folder} has no {split or 'validated'}.tsv (there: {there})")
    table = folder / f"{names[0]}.tsv"
    header, *lines = [line.split("\t") for line in lines_of(table)]
    missing = [name for name in ("path", "sentence") if name not in header]
    if missing:
        raise ValueError(f"{table} has no column {missing[0]!r}, its first line names {', '.join(header)}")
    files = {path.name: path for path in audio_in(folder / "clips")}
    found, without_audio, broken = list[Utterance](), list[str](), list[str]()
    for number, line in enumerate(lines, start=2):
        row = dict(zip(header, line, strict=False))
        if len(line) != len(header):
            broken += [f"line {number}"] if any(line) else []
        elif (name := row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3") in files:
            found.append(
                file_utterance(Path(name).stem, _clean(row["sentence"]), row.get("client_id") or None, files.pop(name))
            )
        else:
            without_audio.append(row["path"])
    _warn(table, broken, f"rows do not have {len(header)} columns as the first: left out")
    _warn(table, without_audio, "rows have no audio of their own in clips/: left out")
    taken = {one.id for one in found}
    others = {} if split else {readable(path.stem): path for path in files.values()}
    others = {id_: path for id_, path in others.items() if id_ not in taken}  # not a.wav, made of a.mp3
    _warn(table, list(others), "audio files in clips/ have no row here: without text", NoTextWarning)
    _warn(table, sorted(readable(name) for name in files if files[name] not in others.values()), UNLISTED)
    found += [file_utterance(id_, None, None, path) for id_, path in others.items()]
    return _checked(found, folder)


def read_vctk(folder: str | os.PathLike[str], microphone: int = 1) -> list[Utterance]:
    """Reads VCTK: `txt/{speaker}/{id}.txt`, audio of one microphone in `wav48_silence_trimmed/`, or in `wav48/`."""
    folder = _folder(folder)
    audio = next((folder / name for name in VCTK_FOLDERS if (folder / name).is_dir()), folder)
    found: list[Utterance] = []
    for path in audio_under(audio):
        stem, _, mic = path.stem.partition("_mic")
        if mic in ("", str(microphone)):
            speaker = readable(path.parent.name)
            text = _text_of(folder / "txt" / path.parent.name / f"{stem}.txt")
            found.append(file_utterance(readable(stem), text, speaker, path))
    without_audio = sorted(
        {readable(path.stem) for path in visible(folder / "txt", "*.txt")} - {one.id for one in found}
    )
    _warn(folder, without_audio, f"texts have no audio of microphone {microphone}: left out")
    _warn(folder, _without_text(found), TEXTLESS, NoTextWarning)
    return _checked(found, folder)


def _listed(values: object) -> list[object]:
    return list(cast("list[object]", values)) if isinstance(values, Sequence) else [None]


def _warn(where: Path, names: list[str], message: str, category: type[UserWarning] = UserWarning) -> None:
    """Warns of names, if there are any, in the line that called the reader."""
    if names:
        warnings.warn(f"{where}: {len(names)} {message} ({few(names)})", category, stacklevel=3)


def _without_text(found: list[Utterance]) -> list[str]:
    return [one.id for one in found if not one.text]


def _folder(path: str | os.PathLike[str], name: str = "folder") -> Path:
    folder = given_path(name, path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no corpus folder {folder}: give the path of a folder")
    return folder


def _checked(found: list[Utterance], folder: Path) -> list[Utterance]:
    """Raises an error if there are no utterances or an id comes twice."""
    if not found:
        raise FileNotFoundError(f"{folder} holds no text that has audio")
    check_unique([one.id for one in found], str(folder))
    if unread := unread_audio(folder, deep=True):
        warnings.warn(unread, stacklevel=3)
    return found


def _name(folder: Path, path: Path) -> str:
    """The relative path without ending, as an id."""
    return id_of(path.relative_to(folder).with_suffix(""))


def _has_rows(table: Path) -> bool:
    """Whether the first line with text has bars or tabs, as in LJSpeech; other tables of this name have commas."""
    with open(table, "rb") as file:
        first = next((line for line in file if line.strip()), b"")
    return b"|" in first or b"\t" in first


def _text_of(path: Path) -> str | None:
    if not path.is_file() or (path.suffix.lower() == ".lab" and _has_times(path)):
        return None
    return _clean(" ".join(_lines(path)))


def _lines(path: Path) -> list[str]:
    return [line for line in lines_of(path) if line.strip()]


def _clean(text: str) -> str | None:
    return " ".join(text.split()) or None


class Waveforms(Dataset[Tensor]):
    """The audio of utterances as a dataset of waveforms, float32 `[t]`, all at one rate.

    Args:
        utterances: clips of a corpus.
        sample_hz: sampling rate in Hz to which the audio is resampled.

    Attributes:
        ids: names of the clips.
        texts: text of each clip, None where unknown.
    """

    def __init__(self, utterances: Sequence[Utterance], sample_hz: int):
        if isinstance(utterances, (str, bytes)) or not all(isinstance(one, Utterance) for one in _listed(utterances)):
            raise TypeError(f"utterances must be a list of Utterance objects, got {shown(utterances)}")
        self.utterances, self.sample_hz = utterances, checked_rate("sample_hz", sample_hz)
        self.ids, self.texts = [one.id for one in utterances], [one.text for one in utterances]

    def __len__(self) -> int:
        return len(self.utterances)

    def __repr__(self) -> str:
        return f"Waveforms({len(self)} clips at {self.sample_hz} Hz)"

    def __getitem__(self, index: int) -> Tensor:
        one = self.utterances[place(index, len(self))]
        return torch.from_numpy(resample(one.audio(), one.sample_hz, self.sample_hz))
