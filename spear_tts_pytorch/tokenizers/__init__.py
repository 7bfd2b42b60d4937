"""Tokenizers of both modalities: speech to semantic ids, text to ids.

Tokenizers that were saved are opened by `load_semantic_tokenizer` and `tokenizer_from_dict`. The kinds that they know are
registered here; each is imported when one of its kind is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import (
    SemanticTokenizer,
    load_semantic_tokenizer,
    register_semantic_tokenizer,
    tokenize_waveform,
)
from spear_tts_pytorch.tokenizers.text import (
    ByteTokenizer,
    CharacterTokenizer,
    TextTokenizer,
    normalize_text,
    register_text_tokenizer,
    tokenizer_from_dict,
)

__all__ = [
    "ByteTokenizer",
    "CharacterTokenizer",
    "MelKmeans",
    "SemanticTokenizer",
    "TextTokenizer",
    "load_semantic_tokenizer",
    "normalize_text",
    "register_semantic_tokenizer",
    "register_text_tokenizer",
    "tokenize_waveform",
    "tokenizer_from_dict",
]


def _hubert_kmeans(folder: Path) -> SemanticTokenizer:
    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans

    return HubertWithKmeans.load(folder)


def _encoder_kmeans(folder: Path) -> SemanticTokenizer:
    from spear_tts_pytorch.tokenizers.encoder_kmeans import EncoderKmeans

    return EncoderKmeans.load(folder)


def _unique_consecutive(folder: Path) -> SemanticTokenizer:
    from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive

    return UniqueConsecutive.load(folder)


def _phonemes(config: dict[str, Any]) -> TextTokenizer:
    from spear_tts_pytorch.tokenizers.phonemes import PhonemeTokenizer

    return PhonemeTokenizer.from_dict(config)


def _huggingface(config: dict[str, Any]) -> TextTokenizer:
    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer.from_dict(config)


register_semantic_tokenizer("mel_kmeans", MelKmeans.load)
register_semantic_tokenizer("hubert_kmeans", _hubert_kmeans)
register_semantic_tokenizer("encoder_kmeans", _encoder_kmeans)
register_semantic_tokenizer("unique_consecutive", _unique_consecutive)
register_text_tokenizer("phonemes", _phonemes)
register_text_tokenizer("huggingface", _huggingface)
