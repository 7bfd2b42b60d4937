"""Values of settings: as texts that are typed, as TOML has them, and within their range.

In: a value, the kind of its setting and its range. Out: the value as that kind, or an error that names the setting.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from spear_tts_pytorch.utils.values import real_number, shown, switch, unicode_text, whole_number


def plain(value: Any) -> Any:
    """A value as TOML and JSON have it: a list for a tuple."""
    return list(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else value


def known_name(name: str, known: Sequence[str], what: str) -> str:
    """The name, if it is known; else an error that proposes the nearest one."""
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    raise ValueError(f"there is no {what} {name!r}: {remedy}")


def from_text(name: str, text: str, kind: Any) -> Any:
    """A value that was typed after `--set`, as its kind; texts of other kinds are left for `checked` to refuse."""
    if kind is str:
        return text
    if kind == tuple[str, ...]:
        if text.startswith("["):  # as in voice.toml
            try:
                return tomlkit.parse(f"value = {text}").unwrap()["value"]
            except TOMLKitError as error:
                raise ValueError(f"{name} is no list of texts, {text!r} ({error}): name them between commas") from None
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        return text


def checked(name: str, value: object, kind: Any, about: Mapping[str, Any]) -> Any:
    """A value of a kind and within the range of its setting."""
    least, below = about["least"], about["below"]
    if kind is float:
        return real_number(name, value, least, below=below)
    if kind is int:
        return whole_number(name, value, least, None if below is None else below - 1)
    if kind is bool:
        return switch(name, value)
    if kind is str:
        return unicode_text(name, value)
    texts = list(cast("list[object]", value)) if isinstance(value, (list, tuple)) else [None]
    if not all(isinstance(one, str) for one in texts):
        raise TypeError(f'{name} must be a list of texts such as ["folder"], got {shown(cast(object, value))}')
    return tuple(unicode_text(name, one) for one in texts)
