"""Letters that a voice of espeak-ng cannot read: it says "Chinese letter", a code, a letter's name, or nothing for them.

In: a text, and a function from texts to their phonemes. Out: the letters of it that would be named rather than read.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from itertools import groupby

Say = Callable[[str], str]
"""A text to its phonemes in one language."""
NEIGHBOURS = (-1200, -600, -7, -3, -1, 1, 3, 7, 600, 1200)  # letters whose names begin alike if a script is announced
LEAST_ANNOUNCED = 3  # phonemes that the name of a script has
LEAST_NAME = 1.8  # phonemes that the names of letters have on average
WORDS = {"CYRILLIC": "сестра", "GREEK": "νερο"}  # read as words, or spelled, by the names of their letters
KNOWN = "LATIN"


def unread(text: str, say: Say) -> str:
    """The letters of a text that its voice names or passes over, each once; "" if it reads all. Latin ones count as read."""
    if text.isascii():
        return ""
    found: dict[str, None] = {}
    for script, run in _runs(text):
        letters = [letter for letter in run if _is_letter(letter)]
        announced = _announcement(letters[0], script, say) if letters else ""
        named = len(announced) >= LEAST_ANNOUNCED and len(_plain(say(run))) >= 0.8 * len(announced) * len(letters)
        spelled = len(letters) > 1 and script in WORDS and _is_spelled(WORDS[script], say)
        bad = letters if named or spelled else [letter for letter in letters if not say(letter) and not say(run)]
        found |= dict.fromkeys(bad)
    return "".join(found)


def _runs(text: str) -> list[tuple[str, str]]:
    """Script and letters of each run of a script that is not Latin; marks belong to the letter before them."""
    scripts: list[str] = []
    for character in text:
        is_mark = unicodedata.category(character).startswith("M")
        scripts.append((scripts or [""])[-1] if is_mark else _script(character) if _is_letter(character) else "")
    runs = groupby(zip(scripts, text, strict=True), key=lambda pair: pair[0])
    found = [(script, "".join(character for _, character in run)) for script, run in runs]
    return [(script, run) for script, run in found if script not in ("", KNOWN)]


def _is_letter(character: str) -> bool:
    return unicodedata.category(character) in ("Lo", "Ll", "Lu")


@lru_cache(maxsize=10_000)
def _script(letter: str) -> str:
    """The first word of a letter's name in Unicode, such as "CYRILLIC" or "CJK"; signs such as "MICRO" are Latin."""
    words = unicodedata.name(letter, "UNKNOWN").split()
    is_sign = "SIGN" in words or "INDICATOR" in words
    return KNOWN if is_sign else words[0]


def _announcement(letter: str, script: str, say: Say) -> str:
    """What the names of this letter and of others of its script begin with, as in "Chinese letter"."""
    codes = [ord(letter) + step for step in NEIGHBOURS]
    others = [chr(code) for code in codes if 0 < code < 0x110000 and _script(chr(code)) == script]
    others = [other for other in others if unicodedata.category(other) == unicodedata.category(letter)]
    return os.path.commonprefix([_plain(say(one)) for one in (letter, *others)]) if others else ""


def _is_spelled(word: str, say: Say) -> bool:
    """Whether a word takes as long as the names of its letters, which a voice may slur; names are longer than sounds."""
    names = sum(len(_plain(say(letter))) for letter in word)
    return names >= LEAST_NAME * len(word) and len(_plain(say(word))) >= 0.9 * names


def _plain(phonemes: str) -> str:
    return phonemes.replace(" ", "")
