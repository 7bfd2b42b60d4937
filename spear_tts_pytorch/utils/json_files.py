"""JSON files that may be damaged or hostile: read within bounds, their fields checked one by one.

In: the path of a file, or a dictionary that was read from it. Out: dictionaries and values of the expected types. Every
fault is one ValueError that names the file, the field and the remedy.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

MOST_BYTES = 256 * 2**20
MOST_DEPTH = 100
MOST_INTEGER = 2**31 - 1
REQUIRED: Any = object()
"""The default of a field that must be there."""

Kind = type | tuple[type, ...]
_WORDS: dict[type, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def read_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        what: the object, such as "the configuration of a model", for errors.
        remedy: the advice at the end of errors.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: it is not JSON, holds something else than an object, or is nested too deeply.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is no file' if os.path.lexists(path) else 'does not exist'}: {remedy}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not {what} ({_short(str(error))}): {remedy}") from error


def parse_object(data: str | bytes) -> dict[str, Any]:
    """The object in JSON.

    Raises:
        ValueError: it is not JSON, holds something else than an object, is nested too deeply, has a field twice, or holds
            NaN or infinity.
    """
    try:
        found: object = json.loads(
            data, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeats
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds {word_of(found)} instead of an object")
    check_depth(found)  # pyright: ignore[reportUnknownArgumentType]  (checked here)
    return cast("dict[str, Any]", found)


def check_depth(value: object) -> None:
    """Raises ValueError if lists and objects are nested more than `MOST_DEPTH` times."""
    level: list[object] = [value]
    for _ in range(MOST_DEPTH):
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(cast("dict[str, object]", one).values())
            elif isinstance(one, list):
                inner.extend(cast("list[object]", one))
        level = inner
        if not level:
            return
    raise ValueError(f"it is nested more than {MOST_DEPTH} times")


def field(values: Mapping[str, Any], name: str, kinds: Kind, default: Any = REQUIRED) -> Any:
    """A field of an object.

    Args:
        kinds: its type or types. `float` accepts integers, and `int` does not accept true and false.
        default: the value if the field is missing; `REQUIRED` refuses that.

    Raises:
        ValueError: the field is missing, of another type, or a number that is out of all ranges.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if name not in values:
        if default is REQUIRED:
            raise ValueError(f"{name} is missing")
        return default
    value = values[name]
    if not any(_is_a(value, kind) for kind in kinds):
        expected = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
        raise ValueError(f"{name} must be {expected}, got {_short(repr(value)) if is_plain(value) else word_of(value)}")
    if isinstance(value, int) and abs(value) > MOST_INTEGER:
        raise ValueError(f"{name} must be between {-MOST_INTEGER} and {MOST_INTEGER}")
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def texts(values: Mapping[str, Any], name: str) -> list[str]:
    """A field that is a list of texts; errors as in `field`."""
    found = cast("list[object]", field(values, name, list))
    for value in found:
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a list of texts, got {word_of(value)} in it")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{name} must be a list of texts, got {_short(repr(value))}, half of a character, in it")
    return cast("list[str]", found)


def word_of(value: object) -> str:
    """The kind of a JSON value in words."""
    return _WORDS.get(type(value), type(value).__name__)


def is_plain(value: object) -> bool:
    """Whether the value is a text, a small number, true, false or null, which a message can show."""
    if isinstance(value, int):
        return abs(value) <= 2**63
    return value is None or isinstance(value, (str, float))


def _is_a(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if abs(number) == float("inf"):
        raise ValueError(f"it holds {_short(text)}, which is too large")
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; raises ValueError if a field comes twice, since programs differ in which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has the field {_short(repr(name))} twice")
    return found


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
