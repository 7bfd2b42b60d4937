"""Tokenizers of both modalities: speech to semantic ids, text to ids."""

from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, load_semantic_tokenizer, tokenize_waveform
from spear_tts_pytorch.tokenizers.text import (
    ByteTokenizer,
    CharacterTokenizer,
    TextTokenizer,
    normalize_text,
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
    "tokenize_waveform",
    "tokenizer_from_dict",
]
