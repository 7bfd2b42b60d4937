"""Text to ids and back: characters of any script, or UTF-8 bytes.

In: lists of strings. Out: int64 ids `[b, n]` in `1..V-1`, padded with 0, without end-of-sequence, which the model adds.
A tokenizer turns into a plain dictionary (`to_dict`) and back (`tokenizer_from_dict`), so that a model's configuration
can hold it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from spear_tts_pytorch.tokens import TEXT_PAD_ID, pad_sequences
from spear_tts_pytorch.utils.json_files import field
from spear_tts_pytorch.utils.json_files import texts as listed_texts
from spear_tts_pytorch.utils.values import integers, listed, one_of, plain, shown, switch

UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@runtime_checkable
class TextTokenizer(Protocol):
    """The interface of a text tokenizer that the model needs.

    Attributes:
        vocab_size: V, the number of ids including the padding id 0.
    """

    @property
    def vocab_size(self) -> int: ...

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]`, padded with 0."""
        ...

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to one text per row. Padding (0 and below) and end-of-sequence (V) are left out."""
        ...

    def __call__(self, texts: list[str]) -> Tensor:
        """The same as `encode`."""
        ...


def normalize_text(text: str) -> str:
    """Text in Unicode's composed form (NFC) and in lower case, with single spaces between words and none at either end."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).split())


class CharacterTokenizer:
    """One id per character (code point): 0 pads, `symbols[0]` is 1, `symbols[1]` is 2 and so on.

    Args:
        symbols: distinct single characters; usually learned by `CharacterTokenizer.fit(texts)`.
        unknown: "error" refuses characters that are not among the symbols; "unk" gives them one further id,
            which `decode` shows as U+FFFD.
        normalize: whether `encode` passes its texts through `normalize_text` (lower case, single spaces).

    Attributes:
        vocab_size: V, the number of ids including the padding id 0.

    Raises:
        TypeError: `symbols` holds values that are not strings.
        ValueError: no symbols, repeated symbols, a symbol of several characters, or another value of `unknown`.
    """

    def __init__(
        self, symbols: Sequence[str], unknown: Literal["error", "unk"] = "error", normalize: bool = True
    ) -> None:
        if not isinstance(cast(object, symbols), Sequence):
            raise TypeError(f"symbols must be a list of single characters, got {shown(symbols)}")
        symbols = list(symbols)
        values: list[object] = list(symbols)
        not_strings = [value for value in values if not isinstance(value, str)]
        if not_strings:
            raise TypeError(f"symbols must be strings of one character, got {not_strings[0]!r}")
        if not symbols:
            raise ValueError("symbols is empty: give at least one character, or use CharacterTokenizer.fit(texts)")
        long = [symbol for symbol in symbols if len(symbol) != 1]
        if long:
            raise ValueError(f"symbols must be single characters, got {long[0]!r}")
        repeated = sorted(symbol for symbol, count in Counter(symbols).items() if count > 1)
        if repeated:
            raise ValueError(f"symbols holds some characters more than once: {_listing(repeated)}")
        self.symbols = symbols
        self.unknown = one_of("unknown", unknown, ("error", "unk"))
        self.normalize = switch("normalize", normalize)
        self.vocab_size = 1 + len(symbols) + (unknown == "unk")
        self._id_of = {symbol: index for index, symbol in enumerate(symbols, start=1)}

    @classmethod
    def fit(
        cls, texts: Iterable[str], unknown: Literal["error", "unk"] = "error", normalize: bool = True
    ) -> CharacterTokenizer:
        """Makes a tokenizer whose symbols are the characters of `texts`, sorted by code point.

        Args:
            texts: strings.
            unknown, normalize: as in the constructor.

        Raises:
            TypeError: `texts` is one string rather than several.
            ValueError: there is no character in `texts`.
        """
        texts, normalize = check_texts(texts), switch("normalize", normalize)
        found = {character for text in texts for character in (normalize_text(text) if normalize else text)}
        if not found:
            raise ValueError("texts hold no characters to learn a vocabulary from")
        return cls(sorted(found), unknown=unknown, normalize=normalize)

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]`, padded with 0.

        Raises:
            TypeError: `texts` is one string rather than a list.
            ValueError: no texts, or, with `unknown="error"`, characters outside the vocabulary.
        """
        rows = [self._encode_row(text) for text in check_texts(texts)]
        return pad_sequences(rows, TEXT_PAD_ID)

    __call__ = encode

    def _encode_row(self, text: str) -> Tensor:
        text_in = normalize_text(text) if self.normalize else text
        if self.unknown == "error":
            strange = sorted(set(text_in) - self._id_of.keys())
            if strange:
                raise ValueError(
                    f"the text {_short(text)!r} has characters outside the vocabulary: {_listing(strange)}; remove or "
                    f'respell them (known: {"".join(self.symbols)!r}) or use a tokenizer made with unknown="unk"'
                )
        unknown_id = self.vocab_size - 1
        return torch.tensor([self._id_of.get(character, unknown_id) for character in text_in], dtype=torch.long)

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to one text per row. Padding (0 and below) and end-of-sequence (V) are left out.

        Raises:
            TypeError: the ids are no integers.
            ValueError: an id above V, or another number of dimensions.
        """
        names = ["", *self.symbols, UNKNOWN_CHARACTER]
        return ["".join(names[i] for i in row) for row in rows_of(ids, self.vocab_size)]

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs to make the tokenizer again, as JSON types."""
        return {
            "type": "characters",
            "symbols": list(self.symbols),
            "unknown": self.unknown,
            "normalize": self.normalize,
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> CharacterTokenizer:
        """Makes the tokenizer that `to_dict` described."""
        _check_type(config, "characters")
        unknown, normalize = field(config, "unknown", str, "error"), field(config, "normalize", bool, True)
        return cls(listed_texts(config, "symbols"), unknown=unknown, normalize=normalize)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharacterTokenizer) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((tuple(self.symbols), self.unknown, self.normalize))

    def __repr__(self) -> str:
        return f"CharacterTokenizer({''.join(self.symbols)!r}, unknown={self.unknown!r}, normalize={self.normalize})"


class ByteTokenizer:
    """One id per UTF-8 byte of a text, the byte plus 1. It needs no fitting and has ids for every character.

    Args:
        normalize: whether `encode` passes its texts through `normalize_text` (lower case, single spaces).

    Attributes:
        vocab_size: 257, the number of ids including the padding id 0.
    """

    def __init__(self, normalize: bool = True) -> None:
        self.normalize = switch("normalize", normalize)
        self.vocab_size = 257

    def encode(self, texts: list[str]) -> Tensor:
        """Texts to int64 ids `[b, n]` in 1 to 256, padded with 0.

        Raises:
            TypeError: `texts` is one string rather than a list.
            ValueError: no texts.
        """
        rows: list[Tensor] = []
        for text in check_texts(texts):
            data = (normalize_text(text) if self.normalize else text).encode("utf-8", errors="replace")
            rows.append(torch.tensor(list(data), dtype=torch.long) + 1)
        return pad_sequences(rows, TEXT_PAD_ID)

    __call__ = encode

    def decode(self, ids: Tensor) -> list[str]:
        """Ids `[b, n]` or `[n]` to one text per row. Broken UTF-8 becomes U+FFFD.

        Padding (0 and below) and end-of-sequence (257) are left out.

        Raises:
            TypeError: the ids are no integers.
            ValueError: an id above 257, or another number of dimensions.
        """
        return [bytes(i - 1 for i in row).decode("utf-8", errors="replace") for row in rows_of(ids, self.vocab_size)]

    def to_dict(self) -> dict[str, Any]:
        """All that `from_dict` needs to make the tokenizer again, as JSON types."""
        return {"type": "bytes", "normalize": self.normalize}

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ByteTokenizer:
        """Makes the tokenizer that `to_dict` described."""
        _check_type(config, "bytes")
        return cls(normalize=field(config, "normalize", bool, True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(("bytes", self.normalize))

    def __repr__(self) -> str:
        return f"ByteTokenizer(normalize={self.normalize})"


Maker = Callable[[dict[str, Any]], TextTokenizer]
_makers: dict[str, Maker] = {"characters": CharacterTokenizer.from_dict, "bytes": ByteTokenizer.from_dict}


def register_text_tokenizer(kind: str, make: Maker) -> None:
    """Registers the function that `tokenizer_from_dict` calls with a dictionary of the type `kind`."""
    _makers[kind] = make


def tokenizer_from_dict(config: dict[str, Any]) -> TextTokenizer:
    """Makes the text tokenizer that `to_dict` described.

    Raises:
        ValueError: a "type" that is not registered (`register_text_tokenizer`), or a field that is missing or wrong.
    """
    kind = field(config, "type", str, "none")
    if kind not in _makers:
        raise ValueError(
            f"unknown text tokenizer type {_short(kind)!r}: this version knows {_listing(sorted(_makers))}; upgrade the "
            "package, or add your own kind by register_text_tokenizer"
        )
    return _makers[kind](config)


def check_texts(texts: Iterable[str]) -> list[str]:
    """Returns texts as a list. They may be a column of pandas, or anything else that gives texts one by one.

    Raises:
        TypeError: `texts` is one string or a table, or an item is not a string.
        ValueError: no texts.
    """
    texts = plain(texts)
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings, got one string: write [{_short(texts)!r}]")
    given: object = listed("texts", texts)
    if not isinstance(given, Iterable):
        raise TypeError(f"texts must be a list of strings, got {type(given).__name__}")
    found: list[Any] = list(cast("Iterable[Any]", given))
    if not found:
        raise ValueError("texts is empty: give at least one text")
    for index, value in enumerate(found):
        if not isinstance(value, str):
            raise TypeError(f"texts must be a list of strings, but texts[{index}] is {shown(value)}")
    return found


def _check_type(config: dict[str, Any], expected: str) -> None:
    if config.get("type") != expected:
        raise ValueError(f"the configuration has the type {config.get('type')!r}, expected {expected!r}")


def rows_of(ids: Tensor, vocab_size: int) -> list[list[int]]:
    """Ids `[b, n]` or `[n]` as lists of integers in `1..V-1`, one for each row, without padding and end-of-sequence.

    Raises:
        TypeError: they are no integers.
        ValueError: an id above V, or another number of dimensions.
    """
    ids = integers("ids", ids)
    if ids.ndim not in (1, 2):
        raise ValueError(f"ids must have the shape [b, n] or [n], got {list(ids.shape)}")
    if ids.numel() and (largest := int(ids.max())) > vocab_size:
        raise ValueError(
            f"ids holds {largest}, but the vocabulary has {vocab_size} ids, and {vocab_size} ends a sequence: decode ids with "
            "the tokenizer that made them"
        )
    rows = cast("list[list[int]]", (ids if ids.ndim == 2 else ids[None]).tolist())
    return [[id_ for id_ in row if 0 < id_ < vocab_size] for row in rows]


def _listing(items: Sequence[str], limit: int = 10) -> str:
    shown = ", ".join(repr(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def openai_tokenizer(tokenizer_encode: Any = None) -> tuple[Any, int]:
    """CLIP's byte pairs: a function from texts to ids `[b, n]`, and its vocabulary size.

    Raises:
        ImportError: x-clip is missing.
        ValueError: `tokenizer_encode` is given as well.
    """
    if tokenizer_encode is not None:
        raise ValueError("give tokenizer_encode or use_openai_tokenizer, not both")
    try:
        tokenizer: Any = import_module("x_clip.tokenizer").tokenizer
    except ImportError as error:
        raise ImportError('use_openai_tokenizer needs x-clip: pip install "spear-tts-pytorch[clip]"') from error
    return tokenizer.tokenize, tokenizer.vocab_size
