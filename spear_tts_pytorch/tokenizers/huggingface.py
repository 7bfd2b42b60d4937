"""Text tokenizers of HuggingFace, with this library's padding.

In: lists of strings. Out: int64 ids `[b, n]` in `1..V-1`, padded with 0. Knows nothing of models or audio.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.tokens import pad_sequences


class HuggingFaceTokenizer:
    """A tokenizer of `transformers`, whose ids are moved up by one so that 0 pads and nothing else.

    Args:
        tokenizer: a fast tokenizer. It adds no special tokens: end-of-sequence is the model's business.
    """

    def __init__(self, tokenizer: Any):
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise TypeError(f"{type(tokenizer).__name__} is no fast tokenizer of transformers: pass a function instead")
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer) + 1

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]`, padded with 0."""
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings, got one string")
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return pad_sequences([torch.tensor(row, dtype=torch.long) + 1 for row in rows], 0)

    __call__ = encode

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to one text per row; ids outside `1..V-1` are left out."""
        rows = torch.as_tensor(ids)
        rows = rows[None] if rows.ndim == 1 else rows
        kept = [[i - 1 for i in row if 0 < i < self.vocab_size] for row in rows.tolist()]
        return [self.tokenizer.decode(row) for row in kept]

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to make the tokenizer again, as JSON types."""
        return {"type": "huggingface", "tokenizer": self.tokenizer.backend_tokenizer.to_str()}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> HuggingFaceTokenizer:
        """The inverse of `to_dict`."""
        try:
            from tokenizers import Tokenizer
            from transformers import PreTrainedTokenizerFast
        except ImportError as error:
            raise ImportError('this tokenizer needs transformers: pip install "spear-tts-pytorch[hubert]"') from error
        return cls(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(config["tokenizer"])))
