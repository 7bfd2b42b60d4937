"""Finds the audio files of a folder and gives them ids.

In: folders. Out: paths of visible files, ids that can be written as UTF-8, lines of texts, the audio of a name in a table.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from spear_tts_pytorch.data.audio import AUDIO_SUFFIXES, OTHER_SUFFIXES


class NoTextWarning(UserWarning):
    """Some clips have no text. Who has recordings of which few have a text ignores it: `spear-tts new` counts them."""


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Files at any depth whose names match, sorted, without hidden files (`._a.wav`) and files in hidden folders.

    Linked folders are read, but no folder is read twice: a link into `folder` itself is passed over, because the files
    have their own names there. Audio whose link leads nowhere is listed, so that reading it names it.
    """
    found: list[Path] = []
    home = os.path.realpath(folder).replace(os.sep, "/")
    read = {home}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _is_new(root, name, home, read))
        paths = (Path(root, name) for name in names if fnmatchcase(name, pattern) and not name.startswith("."))
        found += [path for path in paths if path.is_file() or (path.is_symlink() and is_audio(path.name))]
    return sorted(found)


def audio_in(folder: Path) -> list[Path]:
    """Audio files directly in this folder, sorted, without hidden files, folders and pipes."""
    paths = (path for path in folder.iterdir() if is_audio(path.name) and not _hidden(PurePath(path.name)))
    return sorted(path for path in paths if path.is_file() or path.is_symlink())


def audio_under(folder: Path) -> list[Path]:
    """Audio files at any depth, sorted, without hidden files.

    Raises:
        FileNotFoundError: there are none.
    """
    every = visible(folder)
    found = [path for path in every if is_audio(path.name)]
    others = [id_of(path.relative_to(folder)) for path in every if is_other_audio(path.name)]
    if not found:
        remedy = f", but {len(others)} files of other kinds ({few(others)}): convert them" if others else ""
        raise FileNotFoundError(f"{folder} holds no audio ({', '.join(AUDIO_SUFFIXES)}){remedy}")
    return found


def unread_audio(folder: Path, *, deep: bool) -> str:
    """Names the audio in a folder, or at any depth, whose kind is not read, for a warning; "" if there is none."""
    paths = visible(folder) if deep else folder.iterdir()
    found = [path for path in paths if is_other_audio(path.name) and not path.name.startswith(".") and path.is_file()]
    if not found:
        return ""
    endings = ", ".join(sorted({path.suffix.lower() for path in found}))
    names = few(sorted(id_of(path.relative_to(folder)) for path in found))
    return (
        f"{folder}: {len(found)} audio files end in {endings}, which is not read: convert them to WAV or FLAC ({names})"
    )


def is_other_audio(name: str) -> bool:
    """Whether the ending of a file name is one of audio or video that is not read."""
    return name.lower().endswith(OTHER_SUFFIXES)


class AudioIndex:
    """Finds the audio file that a cell of a table names: by id, file name, or path with `/` or `\\`.

    Args:
        files: audio files below `folder`.
        folder: paths of tables may be relative to it, to a folder above it, or to one below it.
    """

    def __init__(self, files: list[Path], folder: Path):
        self.files, self.is_flat = files, len({path.parent for path in files}) == 1
        self._by_id: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
        for path in files:
            folders = tuple(_composed(part) for part in path.relative_to(folder).parts[:-1])
            self._by_id.setdefault(listed_id(path.name), []).append((path, folders))

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> Path | None:
        """The file of a name; None if there is none or several."""
        *folders, last = name.replace("\\", "/").split("/")
        wanted = [_composed(part) for part in folders if part not in ("", ".")]
        found = [
            path
            for path, own in self._by_id.get(listed_id(last), [])
            if self.is_flat or all(a == b for a, b in zip(reversed(wanted), reversed(own), strict=False))
        ]
        if len(found) > 1:
            found = [path for path in found if _composed(path.name) == _composed(last)]
        return found[0] if len(found) == 1 else None


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


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_new(root: str, name: str, home: str, read: set[str]) -> bool:
    """Whether a folder is to be read: a real one, or a link out of `home` to a folder that was not read before."""
    path = os.path.join(root, name)
    real = os.path.realpath(path).replace(os.sep, "/")
    inside = f"{real}/".startswith(f"{home}/") or f"{home}/".startswith(f"{real}/")
    if real in read or (os.path.islink(path) and inside):
        return False
    read.add(real)
    return True


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", readable(name))
