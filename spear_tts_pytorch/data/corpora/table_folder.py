"""Reads folders of audio with tables of any usual name: `train.txt`, `metadata.jsonl`, `transcripts.tsv` and their like.

In: a folder. Out: utterances with the texts of all its tables that name audio; a warning says which column is the text.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path, PurePath

from spear_tts_pytorch.data.corpora.clip_files import (
    AudioIndex,
    NoTextWarning,
    audio_under,
    check_unique,
    few,
    id_of,
    is_audio,
    listed_id,
    unread_audio,
    visible,
)
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.corpora.layouts import file_utterance
from spear_tts_pytorch.data.corpora.tables import SUFFIXES, Table, is_table, read_table
from spear_tts_pytorch.utils.values import given_path

LEAST = 0.5  # share of the rows of a table that name audio
NO_TABLES = (".trans.", ".normalized.", ".original.", ".book.")  # texts of LibriSpeech and LibriTTS
LARGEST = 1 << 30  # bytes of a table


def read_table_folder(
    folder: str | os.PathLike[str], table: str | None = None, text_column: str | int | None = None
) -> list[Utterance]:
    """Reads all audio under a folder, with texts from the tables directly in it.

    A column of a table names the audio by id, by file name or by path. Several tables are read together. Rows without
    audio are left out, audio without a row has the text None and comes last; a warning counts both.

    Args:
        folder: the corpus.
        table: file name of the only table to read; None reads all that name audio.
        text_column: number of the text's column, from 1, or its name in the first row; None recognises it.

    Raises:
        FileNotFoundError: the folder has no audio, or no such table.
        ValueError: no table names audio, tables with different texts of one clip, several columns that may be the text.
    """
    folder = given_path("folder", folder)
    if table is not None and not (folder / table).is_file():
        raise FileNotFoundError(f"{folder} has no table {table}: give the name of a file in it")
    files = audio_under(folder)
    index = AudioIndex(files, folder)
    tables = tables_in(folder, index, table, text_column)
    if not tables:
        raise ValueError(f"{folder}: no column of {table or 'a table'} names audio: write file names into one")
    texts, without_audio = _merged(folder, tables, index)
    ids = {path: listed_id(path.name) if index.is_flat else _name(folder, path) for path in files}
    check_unique(ids.values(), str(folder))
    found = [file_utterance(ids[path], text, speaker, path) for path, (text, speaker) in texts.items()]
    found += [file_utterance(ids[path], None, None, path) for path in files if path not in texts]
    names = ", ".join(one.path.name for one in tables)
    for one in tables:
        says = one.says or "column 2 is taken as the text, column 1 names the audio"
        warnings.warn(f"{one.path}: {says}", stacklevel=2)
    for kind, message in (
        (without_audio, f"rows of {names} have no audio: left out"),
        ([ids[path] for path in files if path not in texts], f"audio files have no row in {names}: without text"),
        ([ids[path] for path, (text, _) in texts.items() if text is None], f"rows of {names} are empty: without text"),
    ):
        if kind:
            category = NoTextWarning if message.endswith("without text") else UserWarning
            warnings.warn(f"{folder}: {len(kind)} {message} ({few(kind)})", category, stacklevel=2)
    if unread := unread_audio(folder, deep=True):
        warnings.warn(unread, stacklevel=2)
    return found


def tables_in(
    folder: Path, index: AudioIndex | None = None, table: str | None = None, text_column: str | int | None = None
) -> list[Table]:
    """The tables directly in a folder that name audio in half of their rows; `table` alone, if given, with fewer.

    Raises:
        ValueError: as `read_table`, of files whose names are those of tables.
    """
    if table is not None:
        candidates = [folder / table]
    else:
        candidates = candidates_in(folder)
    if candidates and index is None:
        files = [path for path in visible(folder) if is_audio(path.name)]
        index = AudioIndex(files, folder) if files else None
    if index is None:
        return []
    found: list[Table] = []
    for path in candidates:
        try:
            read = read_table(path, index.__contains__, text_column, least=0.0 if table else LEAST)
        except ValueError:
            if table is None and not is_table(path.name) and not _names_audio(path, index):
                continue  # a file of notes
            raise
        found += [read] if read is not None else []
    return found


def candidates_in(folder: Path) -> list[Path]:
    """Files directly in a folder that may be tables: their endings are those of tables, and they are no clip's own text."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    clips = {listed_id(name) for name in names if is_audio(name)}
    names = [name for name in names if name.lower().endswith(SUFFIXES) and not any(part in name for part in NO_TABLES)]
    paths = [folder / name for name in sorted(names) if listed_id(PurePath(name).stem) not in clips]
    return [path for path in paths if path.is_file() and path.stat().st_size <= LARGEST]


def _names_audio(path: Path, index: AudioIndex) -> bool:
    """Whether a file that cannot be read as a table is one: if another column were asked for, it could be read."""
    try:
        return read_table(path, index.__contains__, 1, least=LEAST) is not None
    except ValueError:
        return False


def _merged(
    folder: Path, tables: list[Table], index: AudioIndex
) -> tuple[dict[Path, tuple[str | None, str | None]], list[str]]:
    """Text and speaker by file, in the order of the rows, and the names of rows without audio.

    Raises:
        ValueError: rows with different texts of one file.
    """
    texts: dict[Path, tuple[str | None, str | None]] = {}
    origin: dict[Path, str] = {}
    without_audio: list[str] = []
    for table in tables:
        for name, text, speaker in table.rows:
            path = index.find(name)
            if path is None:
                without_audio.append(name)
            elif path in texts and texts[path][0] != text:
                other = origin[path]
                remedy = "table= (--table) names the one to read" if other != table.path.name else "make it one row"
                raise ValueError(f"{folder}: {name} has different texts in {other} and {table.path.name}: {remedy}")
            else:
                texts[path], origin[path] = (text, speaker), table.path.name
    return texts, without_audio


def _name(folder: Path, path: Path) -> str:
    return id_of(path.relative_to(folder).with_suffix(""))
