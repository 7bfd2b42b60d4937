"""Finds the audio files of a folder, gives them ids, and reads the table beside them.

In: folders. Out: paths of visible files, ids that can be written as UTF-8, lines and rows of texts.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from spear_tts_pytorch.data.audio import AUDIO_SUFFIXES


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Files at any depth whose names match, sorted, without hidden files (`._a.wav`) and files in hidden folders."""
    paths = (path for path in folder.rglob(pattern) if not _hidden(path.relative_to(folder)))
    return sorted(path for path in paths if path.is_file())


def audio_in(folder: Path) -> list[Path]:
    """Audio files directly in this folder, sorted, without hidden files."""
    return sorted(path for path in folder.iterdir() if is_audio(path.name) and not _hidden(PurePath(path.name)))


def audio_under(folder: Path) -> list[Path]:
    """Audio files at any depth, sorted, without hidden files.

    Raises:
        FileNotFoundError: there are none.
    """
    found = [path for path in visible(folder) if is_audio(path.name)]
    if not found:
        raise FileNotFoundError(f"{folder} holds no audio ({', '.join(AUDIO_SUFFIXES)})")
    return found


def is_audio(name: str) -> bool:
    """Whether the ending of a file name is one of audio."""
    return name.lower().endswith(AUDIO_SUFFIXES)


def id_of(path: PurePath) -> str:
    """A path as an id, with `/` on every system; bytes that are not UTF-8 become `\\xNN`."""
    return readable(path.as_posix())


def readable(text: str) -> str:
    """Text from file names, made writable as UTF-8: bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace") if not text.isascii() else text


def listed_id(name: str) -> str:
    """The id of a file name or of a name in a table: without the ending of audio, in Unicode's composed form (NFC)."""
    stem = PurePath(name).stem if is_audio(name) else name
    return unicodedata.normalize("NFC", readable(stem))


def by_listed_id(files: list[Path], folder: Path) -> dict[str, Path]:
    """Files by their ids (`listed_id`).

    Raises:
        ValueError: two files have one id.
    """
    check_unique([listed_id(path.name) for path in files], str(folder))
    return {listed_id(path.name): path for path in files}


def check_unique(ids: Iterable[str], where: str = "the corpus") -> None:
    """Raises ValueError if ids come more than once; the message names some of them."""
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: {len(repeated)} ids come twice or more ({few(repeated)}): rename or remove clips")


def few(names: list[str], limit: int = 3) -> str:
    """The first few of some names, for a message."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 file, also blank lines, without a byte-order mark. Only newlines separate lines.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it") from error


def read_metadata(path: Path, *, strict: bool) -> dict[str, str | None]:
    """Reads LJSpeech's metadata.csv: text by id.

    Args:
        strict: whether a row without a text is an error; else its text is None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, has no rows, has rows that are not `id|text`, or repeats an id.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: write one line `id|text` for each wavs/id.wav")
    rows: dict[str, str | None] = {}
    repeated: list[str] = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        name, *texts = [column.strip() for column in line.split("|" if "|" in line else "\t")]
        text = next((column for column in texts[1::-1] if column), None)
        if not name or not texts or (strict and text is None):
            raise ValueError(f"{path} line {number} is not `id|text`, or its text is empty: {line.strip()[:60]!r}")
        if listed_id(name) in rows:
            repeated.append(name)
        rows[listed_id(name)] = text
    if repeated:
        raise ValueError(f"{path}: {len(repeated)} rows repeat an id ({few(repeated)}): make each id unique")
    if not rows:
        raise ValueError(f"{path} has no rows: write one line `id|text` for each wavs/id.wav")
    return rows


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
