"""Checks arguments of public constructors one by one: a wrong one is refused by its name and value.

In: the name of an argument and its value. Out: a plain Python value. NumPy scalars, and arrays and tensors without
dimensions, count as the numbers that they hold.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sized
from collections.abc import Set as AbstractSet
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from spear_tts_pytorch.tokens import INTEGER_DTYPES

MOST_INTEGER = 2**31 - 1  # what a size or a number of things may be
T = TypeVar("T")
V = TypeVar("V")


def plain(value: Any) -> Any:
    """The Python value of a NumPy scalar, or of an array or a tensor without dimensions; any other value as it is."""
    if isinstance(value, np.generic) or (isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0):
        return cast(Any, value).item()
    return cast(Any, value)


def shown(value: object) -> str:
    """A value as an error message shows it, in at most some 100 characters."""
    words = " ".join(repr(value).split())
    return words if len(words) <= 100 else f"{words[:97]}..."


def whole_number(name: str, value: object, least: int | None = None, most: int | None = None, *, also: str = "") -> int:
    """A whole number from `least` to `most`; None sets no bound. `also` names other choices in messages.

    Raises:
        TypeError: the value is no whole number.
        ValueError: it is out of range.
    """
    number: Any = plain(value)
    is_whole = isinstance(number, Integral) and not isinstance(number, bool)
    found = int(cast(int, number)) if is_whole else None
    shows_most = most is not None and (most <= 1000 or (found is not None and found > most))
    words = _range(least, most if shows_most else None) + also
    if found is None:
        raise TypeError(f"{name} must be a whole number{words}, got {shown(value)}")
    if (least is not None and found < least) or (most is not None and found > most):
        raise ValueError(f"{name} must be{words}, got {shown(found)}")
    return found


def real_number(
    name: str,
    value: object,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    also: str = "",
) -> float:
    """A finite number from `least` to `most`, above `above` and below `below`; None sets no bound.

    `also` names other choices in messages.

    Raises:
        TypeError: the value is no number.
        ValueError: it is not finite, or out of range.
    """
    number = plain(value)
    words = _range(least, most, above, below) + also
    if not isinstance(number, Real) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number{words}, got {shown(value)}")
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    inside = (
        math.isfinite(number)
        and (least is None or number >= least)
        and (most is None or number <= most)
        and (above is None or number > above)
        and (below is None or number < below)
    )
    if not inside:
        kind = "" if math.isfinite(number) and words else " a finite number"
        raise ValueError(f"{name} must be{kind}{words}, got {shown(plain(value))}")
    return number


def switch(name: str, value: object, *, also: str = "") -> bool:
    """True or False. `also` names other choices in messages.

    Raises:
        TypeError: the value is anything else.
    """
    flag = plain(value)
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False{also}, got {shown(value)}")
    return flag


def absolute_path(name: str, value: object, *, also: str = "") -> Path:
    """A path that stays the same when the working folder changes. `also` names other choices in messages.

    Raises:
        TypeError: the value is no path.
        ValueError: it holds a zero character.
    """
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(cast(Any, value)), str):
        raise TypeError(f"{name} must be a path{also}, got {shown(cast(object, value))}")
    path = Path(cast("str | os.PathLike[str]", value))
    if "\0" in str(path):
        raise ValueError(f"{name} must be a path, got {shown(str(path))}: leave out the zero character")
    return path.absolute()


def given_path(name: str, value: object, *, also: str = "") -> Path:
    """A path as it was given. `also` names other choices in messages.

    Raises:
        TypeError, ValueError: as `absolute_path`.
    """
    absolute_path(name, value, also=also)
    return Path(cast("str | os.PathLike[str]", value))


def unicode_text(name: str, value: object, *, also: str = "") -> str:
    """A text that files of UTF-8 can hold. `also` names other choices in messages.

    Raises:
        TypeError: the value is no text.
        ValueError: it holds halves of characters (surrogates), as names of files in another encoding do.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text{also}, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is no Unicode text, got {shown(value)} ({error.reason}): rename or change it"
        ) from error
    return value


def integers(name: str, values: object) -> Tensor:
    """Integers, in a tensor, an array or lists, as a tensor; no values have any type.

    Raises:
        TypeError: they are something else.
    """
    try:
        found = as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be integers, got {shown(values)}") from error
    if found.numel() and found.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be integers, got {found.dtype}")
    return found.long() if found.numel() == 0 else found


def instance(name: str, value: object, kind: type[T]) -> T:
    """An object of a class.

    Raises:
        TypeError: the value is of another class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {shown(value)}")
    return value


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of some words.

    Raises:
        ValueError: the value is another.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")
    return value


def number_of_items(name: str, dataset: object) -> int:
    """The number of items of a dataset.

    Raises:
        TypeError: the value is no dataset with a length.
    """
    if not isinstance(dataset, (str, bytes, Mapping)) and hasattr(dataset, "__getitem__"):
        try:
            return len(cast(Sized, dataset))
        except (TypeError, NotImplementedError):
            pass
    raise TypeError(
        f"{name} must be a dataset with a length and numbered items, such as a list, got {shown(cast(object, dataset))}"
    )


def listed(name: str, value: object) -> Any:
    """A column of pandas, polars, pyarrow or `datasets`, or a NumPy array of texts, as a list; other values as they are.

    Raises:
        TypeError: a table, a dictionary or a set.
    """
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        return array.tolist() if array.ndim == 1 and array.dtype.kind in "OUT" else array
    found: Any = value
    if found is None or isinstance(found, (str, bytes, list, tuple, Tensor)):
        return cast(Any, found)
    if isinstance(found, Mapping) or hasattr(found, "columns"):
        raise TypeError(f"{name} must be a list, got a {_kind(value)}: give one of its columns")
    if isinstance(found, AbstractSet):
        raise TypeError(f"{name} must be a list, got a {_kind(value)}, which has no order")
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(found, method):
            return getattr(found, method)()
    is_collection = isinstance(found, Iterable) and isinstance(found, Sized)
    return list(cast("Iterable[Any]", found)) if is_collection else cast(Any, found)


def as_tensor(value: Any) -> Tensor:
    """`torch.as_tensor`, also for arrays of another byte order, of negative strides, or read-only: they are copied."""
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        shared = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
        value = array if shared else np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(value)


def place(value: object, length: int) -> int:
    """The index, 0 to `length` - 1, of an item of a dataset; negative ones count from the end.

    Raises:
        TypeError: no whole number.
        IndexError: there is no such item.
    """
    index = whole_number("index", value, also=" (torch.utils.data.Subset takes several)")
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for {length} items")
    return index % length


def settle(options: object, values: Mapping[str, Any]) -> None:
    """Gives the fields of a frozen dataclass new values."""
    for name, value in values.items():
        object.__setattr__(options, name, value)


class Fixed(Generic[V]):
    """An attribute that is assigned once, by the constructor. Assigning again raises AttributeError."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, holder: object, owner: type | None = None) -> V:
        if holder is None:  # read from the class
            return cast(V, self)
        if self.name not in holder.__dict__:
            raise AttributeError(f"{type(holder).__name__} has no attribute {self.name!r} yet")
        return holder.__dict__[self.name]

    def __set__(self, holder: object, value: V) -> None:
        if self.name in holder.__dict__:
            kind = type(holder).__name__
            raise AttributeError(
                f"{self.name} of a {kind} cannot be changed: make another with {self.name}={shown(value)}"
            )
        holder.__dict__[self.name] = value


def _kind(value: object) -> str:
    return type(value).__name__


def _range(
    least: float | None = None, most: float | None = None, above: float | None = None, below: float | None = None
) -> str:
    """A range in words, with a space before them."""
    words = [
        f"{word} {bound:,}" if isinstance(bound, int) and abs(bound) >= 10**4 else f"{word} {bound}"
        for word, bound in (("at least", least), ("above", above), ("at most", most), ("below", below))
        if bound is not None
    ]
    return f" {' and '.join(words)}" if words else ""
