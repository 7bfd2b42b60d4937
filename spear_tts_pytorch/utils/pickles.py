"""Looks through a pickle before it is read, without building anything from it.

In: the bytes of a pickle. Out: nothing, or a ValueError for pickles that would never end or take all memory: tuples that hold
each other many times, and bytes that are made by a number.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

MOST_VALUES = 1_000_000  # values in a tuple, with those in tuples inside it
MOST_DEPTH = 100
FORBIDDEN = ("bytearray",)  # made from a number, it takes that much memory
LEGACY_PICKLES = 5  # in one file of torch up to 1.5
_MARK, _OTHER = (-1, 0), (1, 0)
_GET, _PUT = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT")

Measure = tuple[int, int]
"""Number of values and depth of a value on the unpickler's stack; values other than tuples count as one."""


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
    stack: list[Measure] = []
    memo: dict[int, Measure] = {}
    try:
        for operation, argument, _ in pickletools.genops(file):
            _follow(operation, argument, stack, memo)
    except (IndexError, KeyError) as error:
        raise ValueError(f"it is no whole pickle ({type(error).__name__})") from error


def _follow(operation: pickletools.OpcodeInfo, argument: Any, stack: list[Measure], memo: dict[int, Measure]) -> None:
    """What an operation does to the stack and the memo."""
    name = operation.name
    if isinstance(argument, str) and any(word in argument for word in FORBIDDEN):
        raise ValueError(f"it names {argument[:60]!r}")
    if name in _GET:
        stack.append(memo[int(argument)])
    elif name in _PUT or name == "MEMOIZE":
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        taken = _take(operation, stack)
        made = _tuple(taken) if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3") else _OTHER
        stack.extend(_MARK if kind is pickletools.markobject else made for kind in operation.stack_after)


def _take(operation: pickletools.OpcodeInfo, stack: list[Measure]) -> list[Measure]:
    """Takes off the stack what an operation takes, without the mark."""
    before = operation.stack_before
    if pickletools.markobject not in before:
        return [stack.pop() for _ in before]
    taken: list[Measure] = []
    while (value := stack.pop()) != _MARK:
        taken.append(value)
    for _ in before[: before.index(pickletools.markobject)]:
        stack.pop()
    return taken


def _tuple(values: list[Measure]) -> Measure:
    """The measure of a tuple of values."""
    count, depth = 1 + sum(count for count, _ in values), 1 + max((depth for _, depth in values), default=0)
    if count > MOST_VALUES or depth > MOST_DEPTH:
        raise ValueError(f"it holds a tuple of more than {MOST_VALUES} values or {MOST_DEPTH} levels")
    return count, depth
