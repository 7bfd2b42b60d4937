"""Text to phonemes by espeak-ng, and phonemes to ids.

In: lists of strings. Out: int64 ids `[b, n]` in `1..V-1`, padded with 0. Phonemes are IPA in any language of espeak-ng,
without stress as in the paper (arXiv 2302.03540), words apart by spaces. Knows nothing of models or audio.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

from torch import Tensor

from spear_tts_pytorch.tokenizers.text import CharacterTokenizer


class PhonemeTokenizer:
    """One id per character of the phonemes of a text.

    Args:
        language: one that espeak-ng knows, such as "en-us", "fr-fr", "ru" or "cmn".
        symbols: distinct characters of phonemes; usually learned by `fit`.
        unknown: as in `CharacterTokenizer`.

    Raises:
        ImportError: phonemizer is missing.
        ValueError: a language that espeak-ng does not know.
    """

    def __init__(self, language: str, symbols: Sequence[str], unknown: Literal["error", "unk"] = "error"):
        _backend(language)
        self.language = language
        self.characters = CharacterTokenizer(symbols, unknown=unknown, normalize=False)
        self.vocab_size = self.characters.vocab_size

    @classmethod
    def fit(
        cls, texts: Iterable[str], language: str = "en-us", unknown: Literal["error", "unk"] = "error"
    ) -> PhonemeTokenizer:
        """A tokenizer that knows every phoneme of `texts`."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings, got one string")
        found = {character for phonemes in phonemize(list(texts), language) for character in phonemes}
        if not found:
            raise ValueError("texts hold no phonemes to learn a vocabulary from")
        return cls(language, sorted(found), unknown)

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]`, padded with 0.

        Raises:
            TypeError: `texts` is one string rather than a list.
            ValueError: no texts, or phonemes outside the vocabulary while `unknown` is "error".
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings, got one string")
        return self.characters.encode(phonemize(list(texts), self.language))

    __call__ = encode

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to the phonemes of each row: spelling cannot be had back."""
        return self.characters.decode(ids)

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to make the tokenizer again, as JSON types."""
        inner = self.characters.to_dict()
        return {
            "type": "phonemes",
            "language": self.language,
            "symbols": inner["symbols"],
            "unknown": inner["unknown"],
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> PhonemeTokenizer:
        """The inverse of `to_dict`."""
        return cls(config["language"], config["symbols"], config.get("unknown", "error"))

    def __repr__(self) -> str:
        return f"PhonemeTokenizer({self.language!r}, {''.join(self.characters.symbols)!r})"


def phonemize(texts: list[str], language: str) -> list[str]:
    """The phonemes of each text, IPA without stress and punctuation."""
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts must be a list of strings, got an item of type {type(text).__name__}")
    lines = [" ".join(text.split()) for text in texts]
    spoken = _backend(language).phonemize([line for line in lines if line], strip=True)
    given = iter(spoken)
    return [" ".join(next(given).split()) if line else "" for line in lines]


@lru_cache(maxsize=8)
def _backend(language: str) -> Any:
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
            f"espeak-ng does not know the language {language!r}: it has en-us, fr-fr, ru, cmn and many more"
        )
    return EspeakBackend(language, with_stress=False, language_switch="remove-flags", logger=quiet)
