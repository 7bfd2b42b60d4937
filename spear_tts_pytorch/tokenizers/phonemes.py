"""Text to phonemes by espeak-ng, and phonemes to ids.

In: lists of strings. Out: int64 ids `[b, n]` in `1..V-1`, padded with 0. Phonemes are IPA, in any language of espeak-ng,
without stress as in SPEAR-TTS (arXiv 2302.03540), with spaces between words.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from threading import RLock
from typing import Any, Literal

from torch import Tensor

from spear_tts_pytorch.tokenizers.scripts import unread
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer, check_texts
from spear_tts_pytorch.utils.json_files import field
from spear_tts_pytorch.utils.json_files import texts as listed_texts
from spear_tts_pytorch.utils.values import instance, shown, unicode_text

_lock = RLock()  # espeak-ng has one state for the whole process
if hasattr(os, "register_at_fork"):  # a fork while a thread phonemizes would copy a state that is half done
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class PhonemeTokenizer:
    """One id per character of the phonemes of a text, which espeak-ng finds.

    Args:
        language: a language of espeak-ng, such as "en-us", "fr-fr", "ru" or "cmn".
        symbols: distinct characters of phonemes; usually learned by `PhonemeTokenizer.fit(texts)`.
        unknown: "error" refuses phonemes that are not among the symbols; "unk" gives them one further id, which
            `decode` shows as U+FFFD.

    Attributes:
        vocab_size: V, the number of ids including the padding id 0.

    Raises:
        ImportError: phonemizer is missing.
        ValueError: a language that espeak-ng does not have.
    """

    def __init__(self, language: str, symbols: Sequence[str], unknown: Literal["error", "unk"] = "error"):
        self.language = instance("language", language, str)
        with _lock:
            _backend(language)
        self.characters = CharacterTokenizer(symbols, unknown=unknown, normalize=False)
        self.vocab_size = self.characters.vocab_size

    @classmethod
    def fit(
        cls, texts: Iterable[str], language: str = "en-us", unknown: Literal["error", "unk"] = "error"
    ) -> PhonemeTokenizer:
        """Makes a tokenizer whose symbols are the characters of the phonemes of `texts`, sorted by code point.

        Args:
            texts: strings.
            language, unknown: as in the constructor.

        Raises:
            ImportError: phonemizer is missing.
            TypeError: `texts` is one string rather than several.
            ValueError: there is no phoneme in `texts`, a script that the voice cannot read, or no such language.
        """
        language = instance("language", language, str)
        found = {character for phonemes in phonemize(check_texts(texts), language) for character in phonemes}
        if not found:
            raise ValueError("texts hold no phonemes to learn a vocabulary from")
        return cls(language, sorted(found), unknown)

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]`, padded with 0.

        Raises:
            TypeError: `texts` is one string rather than a list.
            ValueError: no texts, letters of a script that the voice cannot read, or, with `unknown="error"`, phonemes
                outside the vocabulary.
        """
        return self.characters.encode(phonemize(check_texts(texts), self.language))

    __call__ = encode

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to the phonemes of each row, in IPA; the spelling is lost.

        Raises:
            TypeError, ValueError: as `CharacterTokenizer.decode`.
        """
        return self.characters.decode(ids)

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs to make the tokenizer again, as JSON types."""
        inner = self.characters.to_dict()
        return {
            "type": "phonemes",
            "language": self.language,
            "symbols": inner["symbols"],
            "unknown": inner["unknown"],
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> PhonemeTokenizer:
        """Makes the tokenizer that `to_dict` described."""
        unknown: Any = field(config, "unknown", str, "error")
        return cls(field(config, "language", str), listed_texts(config, "symbols"), unknown)

    def __repr__(self) -> str:
        return f"PhonemeTokenizer({self.language!r}, {self.vocab_size} ids: {''.join(self.characters.symbols)!r})"


def phonemize(texts: list[str], language: str) -> list[str]:
    """The phonemes of each text, in IPA without stress and punctuation; "" for a text without words.

    Raises:
        ImportError: phonemizer is missing.
        ValueError: letters of a script that the language's voice cannot read, a text that is no Unicode, or espeak-ng does not
            have the language.
    """
    lines = [" ".join(unicode_text("texts", text).split()) for text in texts]
    for line in lines:
        letters = "" if line.isascii() else "".join(_unread(language, word) for word in line.split())
        if letters:
            raise ValueError(
                f"texts hold {letters!r}, which espeak-ng's voice {language!r} cannot read (in {shown(line)}): it would say "
                "the names of these letters, or nothing. Respell them, leave such texts out, or choose their own language"
            )
    with _lock:
        spoken = _backend(language).phonemize([line for line in lines if line], strip=True)
    given = iter(spoken)
    return [" ".join(next(given).split()) if line else "" for line in lines]


@lru_cache(maxsize=50_000)
def _unread(language: str, word: str) -> str:
    return unread(word, partial(_said, language))


@lru_cache(maxsize=50_000)
def _said(language: str, text: str) -> str:
    with _lock:
        return _backend(language).phonemize([text], strip=True)[0]


@lru_cache(maxsize=8)
def _backend(language: str) -> Any:
    """A running espeak-ng for one language, from phonemizer."""
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise ImportError('phonemes need phonemizer: pip install "spear-tts-pytorch[phonemes]"') from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    if hasattr(EspeakWrapper, "set_data_path"):
        EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    quiet = logging.getLogger("spear_tts_pytorch.phonemes")
    quiet.setLevel(logging.ERROR)
    if not EspeakBackend.is_supported_language(language):
        raise ValueError(
            f"espeak-ng does not have the language {language!r}: choose another, such as en-us, fr-fr, ru or cmn"
        )
    return EspeakBackend(language, with_stress=False, language_switch="remove-flags", logger=quiet)
