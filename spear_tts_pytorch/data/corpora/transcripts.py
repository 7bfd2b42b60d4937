"""Transcripts with times: SubRip (.srt), WebVTT (.vtt) and Praat (.TextGrid).

In: a file. Out: its passages, each with start, end and text. The readers are pysubs2 and praatio, of the extra `transcripts`.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from spear_tts_pytorch.data.corpora.clip_files import few

TIMED_SUFFIXES = (".srt", ".vtt", ".textgrid")
TIERS = (
    "text",
    "texts",
    "transcript",
    "transcription",
    "utterance",
    "utterances",
    "sentence",
    "sentences",
    "words",
    "word",
)
PHONES = ("phones", "phone", "phonemes", "phoneme", "segments")
MARKUP = re.compile(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)|♪")  # tags, and what is not said: [music], (laughs)
SPEAKER = re.compile(r"^\s*(?:-|>>)\s*", re.MULTILINE)  # a dash or arrows before a change of speaker
LARGEST = 1 << 26  # bytes


@dataclass(frozen=True)
class Passage:
    """A text with its times in seconds."""

    start: float
    end: float
    text: str

    def ends_sentence(self) -> bool:
        """Whether it ends with a full stop or the like."""
        return self.text.rstrip("\"'»”’) ").endswith((".", "!", "?", "…", "。", "！", "？", "।", "؟"))


def is_timed(name: str) -> bool:
    """Whether the ending of a file name is one of a transcript with times."""
    return name.lower().endswith(TIMED_SUFFIXES)


def read_passages(path: Path) -> list[Passage]:
    """Reads a transcript with times. What is not said, such as `[music]`, and passages without a text are left out.

    Raises:
        ImportError: its reader is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no text, or has passages that end before they start or overlap.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no transcript {path}: give a .srt, .vtt or .TextGrid file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST >> 20} MB: it is no transcript")
    read = _text_grid if path.suffix.lower() == ".textgrid" else _subtitles
    passages = [Passage(start, end, said(text)) for start, end, text in read(path)]
    passages = sorted((one for one in passages if one.text), key=lambda one: one.start)
    if not passages:
        raise ValueError(f"{path} holds no text: write some, or remove the file")
    return _in_order(passages, path)


def said(text: str) -> str:
    """A subtitle as it is spoken: without markup, remarks in brackets and marks of a change of speaker, in one line."""
    text = SPEAKER.sub("", MARKUP.sub(" ", html.unescape(text)))
    return " ".join(text.split())


def _in_order(passages: list[Passage], path: Path) -> list[Passage]:
    """The passages, of which some that overlap a little are made shorter."""
    kept: list[Passage] = []
    for one in passages:
        if one.end <= one.start:
            raise ValueError(f"{path}: the passage at {one.start:.2f} s ends before it starts: correct its times")
        if kept and one.start < kept[-1].end:
            middle = (one.start + kept[-1].end) / 2
            last = kept.pop()
            if middle <= last.start or middle >= one.end:
                raise ValueError(
                    f"{path}: the passages at {last.start:.2f} s and {one.start:.2f} s overlap: correct their times"
                )
            kept.append(Passage(last.start, middle, last.text))
            one = Passage(middle, one.end, one.text)
        kept.append(one)
    return kept


def _subtitles(path: Path) -> list[tuple[float, float, str]]:
    subtitles = _import("pysubs2")
    try:
        text = path.read_text(encoding="utf-8-sig")
        read = subtitles.SSAFile.from_string(text, format_=path.suffix.lower()[1:])
        return [(one.start / 1000, one.end / 1000, one.plaintext) for one in read if not one.is_comment]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason}): convert it") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]} ({type(error).__name__}): repair it") from error


def read_labels(path: Path) -> list[tuple[float, float, str]]:
    """Reads the phones of a TextGrid, as start and end in seconds and label: of its tier `phones`, or of its only tier.

    Raises:
        ImportError: praatio is not installed.
        ValueError: the file is damaged, or has several tiers of which none is called so.
    """
    return [(start, end, label.strip()) for start, end, label in _text_grid(path, PHONES) if label.strip()]


def _text_grid(path: Path, names: tuple[str, ...] = TIERS) -> list[tuple[float, float, str]]:
    textgrid = _import("praatio.textgrid", "praatio")
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
        tiers = {name: grid.getTier(name) for name in grid.tierNames}
        intervals = [name for name, tier in tiers.items() if isinstance(tier, textgrid.IntervalTier)]
        found = [(name, [(one.start, one.end, one.label) for one in tiers[name].entries]) for name in intervals]
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a TextGrid ({type(error).__name__}): repair it") from error
    named = [(names.index(name.strip().lower()), rows) for name, rows in found if name.strip().lower() in names]
    if named:
        return min(named, key=lambda one: one[0])[1]
    if len(found) != 1:
        raise ValueError(
            f"{path}: none of its {len(found)} interval tiers ({few(intervals)}) is called {' or '.join(names[::2])}: name "
            "the one that holds the text so"
        )
    return found[0][1]


def _import(module: str, package: str = "") -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        name = package or module
        raise ImportError(
            f"transcripts with times need {name}: pip install 'spear-tts-pytorch[transcripts]', or {name}"
        ) from error
