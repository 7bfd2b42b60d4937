"""Chooses the columns of a table beside audio: the text, the speaker, and the raw text beside a normalised one.

In: rows of cells, the column that names the audio, perhaps a header. Out: a `Choice`. What may be two things is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

AUDIO_NAMES = (
    "file_name audio_file filename file audio_path audio_filepath filepath file_path path audio wav wav_path wav_file "
    "wav_filename audio_filename audio_name wav_id id utt_id utterance_id utt clip clip_id name fname key"
).split()
NORMALIZED_NAMES = "normalized_text normalised_text text_normalized text_normalised normalized normalised".split()
TEXT_NAMES = "text sentence transcription transcript transcripts utterance sentences raw_text".split()
SPEAKER_NAMES = "speaker speaker_name speaker_id spk spk_id spkid client_id speakers".split()
OTHER_NAMES = (
    "duration length seconds language lang locale gender sex age accent emotion style split subset dataset sampling_rate "
    "sample_rate start end offset up_votes down_votes variant segment sentence_id n_frames num_samples root_path"
).split()
LABELS = re.compile(r"[-+]?\d+([.,]\d+)?|[A-Za-z]{2,3}([-_][A-Za-z]{2,4})?|[A-Za-z_-]*\d+")  # numbers, en-US, p225
OPTION = "text_column= chooses another"
SAMPLE = 1000  # rows that are looked at to tell columns apart


@dataclass
class Choice:
    """Numbers of columns, from 0.

    Attributes:
        audio: names the audio.
        text: the text.
        raw: the same text not normalised, taken where `text` is empty; None without one.
        speaker: None if unknown.
        says: which columns were taken, in words; "" for LJSpeech's `id|text` and `id|text|normalised text`.
    """

    audio: int
    text: int
    raw: int | None = None
    speaker: int | None = None
    says: str = ""


def choice_by_header(path: Path, header: Sequence[str], audio: int, wanted: str | int | None) -> Choice | None:
    """The columns by the names in the first row; None if it holds no such names.

    Raises:
        ValueError: `wanted` is not there, or no single column is the text.
    """
    names = [cell.strip().lower() for cell in header]
    known = [column for column, name in enumerate(names) if name in TEXT_NAMES + NORMALIZED_NAMES and column != audio]
    if len(set(names)) < len(names) or (names[audio] not in AUDIO_NAMES and not known):
        return None
    raw = [column for column in known if names[column] in TEXT_NAMES]
    normalized = [column for column in known if names[column] in NORMALIZED_NAMES]
    unknown = [
        column
        for column, name in enumerate(names)
        if column != audio and name not in AUDIO_NAMES + SPEAKER_NAMES + OTHER_NAMES
    ]
    candidates = normalized or raw or unknown
    if wanted is not None:
        candidates = [_wanted(path, names, len(names), wanted)]
    if len(candidates) != 1:
        raise _ambiguous(path, [repr(names[column]) for column in candidates or range(len(names))])
    text = candidates[0]
    speaker = next((column for column, name in enumerate(names) if name in SPEAKER_NAMES and column != text), None)
    says = f"the column {names[text]!r} is taken as the text, {names[audio]!r} names the audio ({OPTION})"
    return Choice(audio, text, raw[0] if text in normalized and len(raw) == 1 else None, speaker, says)


def choice_by_content(path: Path, rows: list[list[str]], width: int, audio: int, wanted: str | int | None) -> Choice:
    """The columns of a table without a header, by their values in the rows of this width.

    Raises:
        ValueError: `wanted` is not there, or several columns may be the text.
    """
    says = "column {} of " + str(width) + f" is taken as the text, column {audio + 1} names the audio ({OPTION})"
    if wanted is not None:
        text = _wanted(path, None, width, wanted)
        return Choice(audio, text, says=says.format(text + 1))
    rows = [row for row in rows if len(row) == width]
    rows = rows[:: -(-len(rows) // SAMPLE)] if rows else rows
    columns = {column: [row[column].strip() for row in rows] for column in range(width) if column != audio}
    columns = {column: values for column, values in columns.items() if any(values)} or columns
    pairs = {(a, b) for a in columns for b in columns if a < b and _are_similar(columns[a], columns[b])}
    paired = {column for pair in pairs for column in pair}
    texts = [column for column in columns if column in paired or not _are_labels(columns[column])]
    if len(columns) == 1:
        texts = list(columns)
    if len(texts) > 1 and not paired:
        texts = _with_spaces({column: columns[column] for column in texts}) or texts
    if not texts or any((column, texts[-1]) not in pairs for column in texts[:-1]):
        shown = texts or list(columns)
        raise _ambiguous(path, [f"{column + 1} ({_example(columns[column])!r})" for column in shown])
    text, raw = texts[-1], texts[0] if len(texts) > 1 else None
    usual = (
        audio == 0 and width <= 3 and (text, raw) in ((1, None), (2, 1)) and (width == 2 or raw or len(columns) == 1)
    )
    return Choice(audio, text, raw, says="" if usual else says.format(text + 1))


def fitted(path: Path, number: int, cells: list[str], width: int, choice: Choice, delimiter: str) -> list[str]:
    """The cells of a row, `width` of them: more come from delimiters inside the text, which are put back.

    Raises:
        ValueError: the delimiters of raw and normalised text cannot be told from those between them.
    """
    if len(cells) <= width:
        return cells
    first = choice.text if choice.raw is None else choice.raw
    behind = width - 1 - choice.text
    middle = cells[first : len(cells) - behind]
    half = len(middle) // 2
    twice = (delimiter.join(middle[:half]), delimiter.join(middle[half:]))
    ends = cells[:first], cells[len(cells) - behind :]
    if len(middle) % 2 == 0 and (alike(*twice) or not twice[1].strip(delimiter + " ")):
        if choice.raw == choice.text - 1:
            return [*ends[0], *twice, *ends[1]]
        if width == 2:  # a row of LJSpeech among rows `id|text`
            return [*ends[0], twice[1] if twice[1].strip(delimiter + " ") else twice[0], *ends[1]]
    if choice.raw is not None:
        raise ValueError(
            f"{path} line {number} has {len(cells)} columns, not {width}: remove {delimiter!r} from inside its text"
        )
    return [*ends[0], delimiter.join(middle).rstrip(delimiter), *ends[1]]


def alike(one: str, other: str) -> bool:
    """Whether two texts have a word in common, or half of their characters in order."""
    one, other = one.casefold()[:300], other.casefold()[:300]
    if set(re.findall(r"\w+", one)) & set(re.findall(r"\w+", other)):
        return True
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= 0.5


def _are_similar(one: list[str], other: list[str]) -> bool:
    """Whether two columns say the same, one perhaps normalised. A column without values beside another counts, too."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a and b][:200]
    return sum(alike(a, b) for a, b in both) * 2 >= len(both)


def _are_labels(values: list[str]) -> bool:
    """Whether values are speakers, languages or numbers rather than texts: by their form, or because they repeat."""
    values = [value for value in values if value]
    if all(LABELS.fullmatch(value) for value in values):
        return True
    often = 2 if not any(re.search(r"\s", value) for value in values) else 4
    return len(values) > 1 and (len(set(values)) == 1 or len(set(values)) * often <= len(values))


def _with_spaces(columns: dict[int, list[str]]) -> list[int]:
    """The column whose values are several words, if all values of the others are single words."""
    spaced = {column: sum(" " in value for value in values) for column, values in columns.items()}
    found = [column for column, count in spaced.items() if count]
    return found if len(found) == 1 and spaced[found[0]] * 2 >= len(columns[found[0]]) else []


def _wanted(path: Path, names: list[str] | None, width: int, wanted: str | int) -> int:
    """The column that `text_column` names, from 0."""
    if isinstance(wanted, str) and names and wanted.strip().lower() in names:
        return names.index(wanted.strip().lower())
    if str(wanted).isdecimal() and 1 <= int(wanted) <= width:
        return int(wanted) - 1
    there = f"the columns are {', '.join(names)}" if names else f"it has no header, and {width} columns"
    raise ValueError(f"{path} has no column text_column={wanted!r}: {there}; numbers begin at 1")


def _ambiguous(path: Path, columns: list[str]) -> ValueError:
    remedy = "text_column= (--text-column) tells which, by number from 1 or by name in the first row"
    return ValueError(f"{path}: the text may be in one of the columns {', '.join(columns)}: {remedy}")


def _example(values: list[str]) -> str:
    return next((value for value in values if value), "")[:30]
