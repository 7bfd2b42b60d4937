"""Text tokenizers of HuggingFace, with this library's padding.

In: lists of strings. Out: int64 ids `[b, n]` in `1..V-1`, padded with 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from spear_tts_pytorch.tokenizers.text import check_texts, rows_of
from spear_tts_pytorch.tokens import TEXT_PAD_ID, pad_sequences
from spear_tts_pytorch.utils.json_files import field, parse_object

MOST_IDS = 2**22  # the tokenizers package ends the process for ids that need more memory than there is


class HuggingFaceTokenizer:
    """A tokenizer of `transformers`. Its ids are raised by 1, so that the id 0 is only padding.

    Args:
        tokenizer: a fast tokenizer, such as `AutoTokenizer.from_pretrained(...)`. Its special tokens are not added,
            because the model adds end-of-sequence.

    Attributes:
        vocab_size: V, the number of ids including the padding id 0.

    Raises:
        TypeError: `tokenizer` is not a fast tokenizer.
    """

    def __init__(self, tokenizer: Any):
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise TypeError(
                f"tokenizer, a {type(tokenizer).__name__}, is no fast tokenizer of transformers: give the model a "
                "function from texts to ids as tokenizer_encode instead"
            )
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer) + 1

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]`, padded with 0.

        Raises:
            TypeError: `texts` is one string rather than a list.
            ValueError: no texts.
        """
        rows = self.tokenizer(check_texts(texts), add_special_tokens=False)["input_ids"]
        return pad_sequences([torch.tensor(row, dtype=torch.long) + 1 for row in rows], TEXT_PAD_ID)

    __call__ = encode

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to one text per row. Padding (0 and below) and end-of-sequence (V) are left out.

        Raises:
            TypeError: the ids are no integers.
            ValueError: an id above V, or another number of dimensions.
        """
        return [self.tokenizer.decode([i - 1 for i in row]) for row in rows_of(ids, self.vocab_size)]

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs to make the tokenizer again, as JSON types."""
        return {"type": "huggingface", "tokenizer": self.tokenizer.backend_tokenizer.to_str()}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> HuggingFaceTokenizer:
        """Makes the tokenizer that `to_dict` described.

        Raises:
            ImportError: transformers is missing.
            ValueError: the description is damaged, or has ids that are too large.
        """
        text = _checked(config)
        try:
            from tokenizers import Tokenizer
            from transformers import PreTrainedTokenizerFast
        except ImportError as error:
            raise ImportError('this tokenizer needs transformers: pip install "spear-tts-pytorch[hubert]"') from error
        try:
            return cls(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text)))
        except BaseException as error:  # a panic of the tokenizers package is no Exception
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise ValueError(f"tokenizer is not one of the tokenizers package ({str(error)[:200]})") from error
            raise

    def __repr__(self) -> str:
        return f"HuggingFaceTokenizer({type(self.tokenizer.backend_tokenizer.model).__name__}: {self.vocab_size} ids)"


def _checked(config: dict[str, Any]) -> str:
    """The tokenizer in a description, as JSON whose ids are in bounds; raises ValueError."""
    text: str = field(config, "tokenizer", str)
    try:
        for number in _ids_in(parse_object(text)):
            if not (type(number) is int and 0 <= number < MOST_IDS):
                raise ValueError(f"an id must be 0 to {MOST_IDS - 1}, got {str(number)[:40]}")
    except ValueError as error:
        raise ValueError(f"tokenizer is not one of the tokenizers package ({error})") from error
    return text


def _ids_in(tokenizer: dict[str, Any]) -> Iterator[object]:
    """All ids of the vocabulary and of added tokens."""
    vocabulary: object = field(tokenizer, "model", dict).get("vocab", {})
    if isinstance(vocabulary, dict):
        yield from cast("dict[str, object]", vocabulary).values()
    for added in cast("list[object]", field(tokenizer, "added_tokens", (list, type(None)), None) or []):
        if isinstance(added, dict):
            yield cast("dict[str, object]", added).get("id", 0)
