"""Tables of texts beside audio. The columns are recognised by a header or by the names of the audio.

In: a file with bars, tabs, semicolons, commas or white space between its columns, or lines of JSON; a function that tells
whether a name has audio. Out: a `Table` of names, texts and speakers, with a line that says which column is the text.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from spear_tts_pytorch.data.corpora.clip_files import few, lines_of
from spear_tts_pytorch.data.corpora.columns import (
    OPTION,
    SAMPLE,
    Choice,
    choice_by_content,
    choice_by_header,
    fitted,
)

SUFFIXES = (".csv", ".tsv", ".psv", ".txt", ".list", ".lst", ".jsonl", ".json")
JSON_SUFFIXES = (".jsonl", ".json")
USUAL_STEMS = (
    "metadata train val valid validation dev test transcript transcripts transcription filelist manifest".split()
)
SPACE = " "
MOST_FIELDS = 1000  # of the objects in a table of JSON
LONGEST_NAME = 1000  # characters of a cell that may name audio

Found = Callable[[str], bool]
"""Whether a name in a table has audio."""


@dataclass
class Row:
    """A row and the number of its line, from 1."""

    number: int
    cells: list[str]


@dataclass
class Table:
    """The content of a table.

    Attributes:
        path: its file.
        rows: name of the audio, text (None if empty) and speaker (None if unknown).
        lines: number of each row's line, from 1.
        says: which columns were taken, in one line; "" for LJSpeech's `id|text` and `id|text|normalised text`.
        matches: share of the rows whose audio exists, 0 to 1.
    """

    path: Path
    rows: list[tuple[str, str | None, str | None]] = field(default_factory=list[tuple[str, "str | None", "str | None"]])
    lines: list[int] = field(default_factory=list[int])
    says: str = ""
    matches: float = 0.0


def is_table(name: str) -> bool:
    """Whether a file of this name is usually a table: by its ending, or `train.txt` and its like."""
    stem, _, ending = name.lower().rpartition(".")
    return ending in ("csv", "tsv", "psv", "jsonl") or (f".{ending}" in SUFFIXES and stem in USUAL_STEMS)


def read_table(path: Path, found: Found, text_column: str | int | None = None, *, least: float = 0.0) -> Table | None:
    """Reads a table. Returns None if in no column the share `least` of the cells, or one cell, names audio.

    Args:
        path: the file.
        found: tells whether a name has audio.
        text_column: name of the text's column in the first row, or its number from 1; None recognises it.
        least: from 0 to 1.

    Raises:
        ValueError: the file is not UTF-8, is damaged, or has several columns that may be the text.
    """
    if path.suffix.lower() in JSON_SUFFIXES:
        return _from_json(path, found, text_column, least)
    lines = [(number, line) for number, line in enumerate(lines_of(path), start=1) if line.strip()]
    best: tuple[float, int, str] | None = None
    for delimiter in ("|", "\t", ";", ",", *([SPACE] if path.suffix.lower() not in (".csv", ".tsv", ".psv") else [])):
        try:
            share, audio = _audio_column(_split(lines[: 2 * SAMPLE], delimiter, path), found)
        except ValueError:
            continue  # quotes of another kind of table
        if share >= least and share > (best[0] if best else 0):
            best = share, audio, delimiter
    if best is None:
        return None
    return _from_rows(path, _split(lines, best[2], path), best[1], best[2], found, text_column)


def ljspeech_table(path: Path, found: Found, text_column: str | int | None = None) -> Table:
    """Reads `metadata.csv`: `id|text` or `id|text|normalised text` if no column names audio.

    Raises:
        ValueError: as `read_table`; no rows; a row that is not `id|text`.
    """
    table = read_table(path, found, text_column)
    if table is None:
        lines = [(number, line) for number, line in enumerate(lines_of(path), start=1) if line.strip()]
        if not lines:
            raise ValueError(f"{path} has no rows: write one line `id|text` for each wavs/id.wav")
        table = _from_rows(path, _split(lines, "|", path), 0, "|", found, text_column)
    return table


def _split(lines: list[tuple[int, str]], delimiter: str, path: Path) -> list[Row]:
    """Lines as rows of cells; a line without bars may have tabs instead.

    Raises:
        ValueError: quotes that do not close.
    """
    if delimiter == SPACE:
        return [Row(number, line.split(None, 1)) for number, line in lines]
    quoted = bool(lines) and all(line.startswith('"') for _, line in lines)
    if delimiter in ";," or quoted:
        reader = csv.reader((line.rstrip("\r") + "\n" for _, line in lines), delimiter=delimiter, strict=True)
        rows: list[Row] = []
        begins = 0
        try:
            for cells in reader:
                rows.append(Row(lines[begins][0], cells))
                begins = reader.line_num
        except csv.Error as error:
            reason = f"has quotes that do not close, or a quote inside quotes ({error})"
            raise ValueError(f"{path} line {lines[begins][0]} {reason}: write inner quotes twice") from error
        return rows
    return [
        Row(number, line.split("\t" if delimiter == "|" and "|" not in line and "\t" in line else delimiter))
        for number, line in lines
    ]


def _audio_column(rows: list[Row], found: Found) -> tuple[float, int]:
    """The share of cells that name audio in the column with most of them, and that column; the first of equals.

    A first row without audio is not counted, since it may be a header.
    """
    rows = rows[:SAMPLE]
    naming = [
        [column for column, cell in enumerate(row.cells) if len(cell) <= LONGEST_NAME and found(cell.strip())]
        if len(row.cells) > 1
        else []
        for row in rows
    ]
    count = Counter(column for columns in naming for column in columns)
    column = min(count, key=lambda column: (-count[column], column), default=0)
    counted = len(rows) - (1 if len(rows) > 1 and not naming[0] else 0)
    return count[column] / max(1, counted), column


def _from_rows(
    path: Path, rows: list[Row], audio: int, delimiter: str, found: Found, text_column: str | int | None
) -> Table:
    """The table in rows of cells, with or without a header."""
    choice = None
    first = rows[0].cells
    if (
        len(first) > audio
        and len(rows) > 1
        and not any(found(cell.strip()) for cell in first if len(cell) < LONGEST_NAME)
    ):
        choice = choice_by_header(path, first, audio, text_column)
    if choice:
        return _filled(path, rows[1:], choice, len(first), delimiter, found)
    count = Counter(len(row.cells) for row in rows)
    width = max(2, min(count, key=lambda width: (-count[width], width)))
    short = next((row for row in rows if len(row.cells) < 2), None)
    if short:
        shown = short.cells[0].strip()[:60] if short.cells else ""
        raise ValueError(f"{path} line {short.number} is not `id|text`, or its text is empty: {shown!r}")
    choice = choice_by_content(path, [row.cells for row in rows], width, audio, text_column)
    if delimiter not in "|\t" and not choice.says:
        choice.says = f"column {choice.text + 1} is taken as the text, column 1 names the audio ({OPTION})"
    return _filled(path, rows, choice, width, delimiter, found)


def _filled(path: Path, rows: list[Row], choice: Choice, width: int, delimiter: str, found: Found) -> Table:
    """The table of the chosen columns.

    Raises:
        ValueError: a row without a name.
    """
    table, joined = Table(path), list[str]()
    for row in rows:
        cells = [cell.strip() for cell in fitted(path, row.number, row.cells, width, choice, delimiter)]
        cells += [""] * (width - len(cells))
        if not cells[choice.audio]:
            shown = delimiter.join(row.cells).strip()[:60]
            raise ValueError(f"{path} line {row.number} is not `id|text`, or its text is empty: {shown!r}")
        text = cells[choice.text] or (cells[choice.raw] if choice.raw is not None else "")
        if delimiter in text and len(row.cells) > width:
            joined.append(str(row.number))
        speaker = cells[choice.speaker] if choice.speaker is not None else ""
        table.rows.append((cells[choice.audio], text or None, speaker or None))
        table.lines.append(row.number)
    says = [choice.says] if choice.says else []
    says += [f"{len(joined)} texts hold {delimiter!r} (line {few(joined)})"] if joined else []
    table.says = "; ".join(says)
    table.matches = sum(found(name) for name, _, _ in table.rows) / max(1, len(table.rows))
    return table


def _from_json(path: Path, found: Found, text_column: str | int | None, least: float) -> Table | None:
    """A table of JSON: an object in each line, or a list of objects. Another JSON file gives None."""
    items = _json_items(path)
    if not items or not all(isinstance(item, dict) for _, item in items):
        return None
    objects = [(number, cast("dict[str, Any]", item)) for number, item in items]
    names = list(dict.fromkeys(name for _, item in objects for name in item))
    if len(names) > MOST_FIELDS:
        if path.suffix.lower() == ".json":
            return None
        raise ValueError(f"{path} is no table, since its objects have {len(names)} fields: move it out of the folder")
    rows = [Row(number, [_json_cell(item.get(name)) for name in names]) for number, item in objects]
    share, audio = _audio_column(rows, found)
    if share < least or not share:
        return None
    choice = choice_by_header(path, names, audio, text_column) or choice_by_content(
        path, [row.cells for row in rows], len(names), audio, text_column
    )
    return _filled(path, rows, choice, len(names), SPACE, found)


def _json_items(path: Path) -> list[tuple[int, Any]]:
    """The objects of a JSON file and the numbers of their lines."""
    lines = [(number, line) for number, line in enumerate(lines_of(path), start=1) if line.strip()]
    number = 0
    try:
        if path.suffix.lower() == ".json" and lines and lines[0][1].lstrip().startswith("["):
            whole: Any = json.loads("\n".join(line for _, line in lines))
            return [(index, item) for index, item in enumerate(whole, start=1)]
        items: list[tuple[int, Any]] = []
        for number, line in lines:
            items.append((number, json.loads(line)))
        return items
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            return []  # JSON of another kind
        reason = error.args[0] if isinstance(error, ValueError) else "too many brackets"
        raise ValueError(f"{path} line {number} is not an object of JSON ({reason}): repair it") from error


def _json_cell(value: Any) -> str:
    """A value as a cell; lists and objects are no cells and become empty."""
    if value is None or isinstance(value, (list, dict)):
        return ""
    return value if isinstance(value, str) else str(value)
