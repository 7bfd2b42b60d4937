"""Looks through a pickle before it is read, without building anything from it.

In: the bytes of a pickle. Out: nothing, or a ValueError for pickles that would take all memory or never end: tuples that hold
each other many times, bytes that are made by a number, and large values that are copied again and again.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MOST_VALUES = 1_000_000  # values in a tuple, with those in tuples inside it
MOST_DEPTH = 100
LEAST_COPIES, MOST_COPIES = 1_000_000, 4  # values that may be copied or hashed: this many, and so many an operation
FORBIDDEN = (
    "bytearray",
    "punycode",
    "idna",
)  # made from a number, it takes that much memory; codecs that take for ever
REBUILT = ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")  # others may copy what views repeat
LEGACY_PICKLES = 5  # in one file of torch up to 1.5
_GET, _PUT = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_ADD, _KEYED = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"), ("SETITEM", "SETITEMS")
_COPY = ("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "FROZENSET", "ADDITEMS")


@dataclass
class Value:
    """A value on the unpickler's stack: the number of values in it, itself included, and the depth of its tuples."""

    count: int = 1
    depth: int = 0


_MARK = Value()


def check_file(path: Path) -> None:
    """Checks the pickles in a file that `torch.save` wrote, and that its archive is no larger inside than outside.

    Raises:
        ValueError: they would take too much memory or time.
    """
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                    raise ValueError("its archive holds more than the file has bytes")
                for name in archive.namelist():
                    if name.endswith("/data.pkl") or name == "data.pkl":
                        with archive.open(name) as inner:
                            check_pickle(inner)
        else:
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                if not _starts(file):
                    return
                check_pickle(file)


def _starts(file: IO[bytes]) -> bool:
    place, byte = file.tell(), file.read(1)
    file.seek(place)
    return byte == b"\x80"


def check_pickle(file: IO[bytes] | bytes) -> None:
    """Reads a pickle's operations up to its end.

    Raises:
        ValueError: it would take too much memory or time, or is damaged.
    """
    stack: list[Value] = []
    memo: dict[int, Value] = {}
    copied = 0
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
            copied += _follow(operation, argument, stack, memo)
            if copied > LEAST_COPIES + MOST_COPIES * number:
                raise ValueError("it copies the same values too many times")
    except (IndexError, KeyError) as error:
        raise ValueError(f"it is no whole pickle ({type(error).__name__})") from error


def _follow(operation: pickletools.OpcodeInfo, argument: Any, stack: list[Value], memo: dict[int, Value]) -> int:
    """What an operation does to the stack and the memo. Returns how many values it copies or hashes."""
    name = operation.name
    _check_argument(name, argument)
    if name in _GET:
        stack.append(memo[int(argument)])
    elif name in _PUT:
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name == "DUP":
        stack.append(stack[-1])
    elif name in _ADD or name == "BUILD":
        taken = _take_down_to_mark(stack) if name in ("APPENDS", "SETITEMS", "ADDITEMS") else []
        taken = taken or [
            stack.pop() for _ in range(2 if name == "SETITEM" else 1 if name in ("APPEND", "BUILD") else 0)
        ]
        stack[-1].count += sum(value.count for value in taken)
        return sum(value.count for value in (taken[1::2] if name in _KEYED else taken if name in _COPY else []))
    else:
        taken = _take(operation, stack)
        made = _tuple(taken) if name.startswith("TUPLE") else Value(1 + sum(value.count for value in taken))
        made.count += len(argument) // 64 if isinstance(argument, (str, bytes)) else 0
        stack.extend(_MARK if kind is pickletools.markobject else made for kind in operation.stack_after)
        return made.count if name in _COPY else 0
    return 0


def _check_argument(name: str, argument: Any) -> None:
    """Raises ValueError for names of functions that take too much memory or time, and numbers of thousands of digits."""
    if name == "LONG4" or (isinstance(argument, int) and argument.bit_length() > 4096):
        raise ValueError("it holds a number of more than 1000 digits")
    if not isinstance(argument, str):
        return
    if "bytearray" in argument or argument.lower() in FORBIDDEN:
        raise ValueError(f"it names {argument[:60]!r}")
    if name == "GLOBAL" and " _rebuild_" in argument and argument.split(" _rebuild_")[-1] not in REBUILT:
        raise ValueError(f"it names {argument[:60]!r}")


def _take_down_to_mark(stack: list[Value]) -> list[Value]:
    """Takes off the values above a mark, and the mark. The last value comes first."""
    taken: list[Value] = []
    while (value := stack.pop()) is not _MARK:
        taken.append(value)
    return taken


def _take(operation: pickletools.OpcodeInfo, stack: list[Value]) -> list[Value]:
    """Takes off the stack what an operation takes, without the mark."""
    before = operation.stack_before
    if pickletools.markobject not in before:
        return [stack.pop() for _ in before]
    taken = _take_down_to_mark(stack)
    for _ in before[: before.index(pickletools.markobject)]:
        stack.pop()
    return taken


def _tuple(values: list[Value]) -> Value:
    """A tuple of values."""
    made = Value(1 + sum(value.count for value in values), 1 + max((value.depth for value in values), default=0))
    if made.count > MOST_VALUES or made.depth > MOST_DEPTH:
        raise ValueError(f"it holds a tuple of more than {MOST_VALUES} values or {MOST_DEPTH} levels")
    return made
