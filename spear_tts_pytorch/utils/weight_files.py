"""Shapes in files of weights, read before any weight is loaded, so that a model of other sizes is not built for them.

In: the path of a `.safetensors` file. Out: shapes by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from spear_tts_pytorch.utils.json_files import field, parse_object

MOST_HEADER = 100_000_000  # bytes, the bound of safetensors itself
Shapes = dict[str, tuple[int, ...]]


def read_shapes(path: Path) -> Shapes:
    """The shapes in a `.safetensors` file.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MOST_HEADER, size - 8):
                raise ValueError("its header is cut off")
            header = parse_object(file.read(length))
        shapes = {name: _shape(value) for name, value in header.items() if name != "__metadata__"}
    except ValueError as error:
        raise ValueError(f"{path} is damaged or no file of weights ({error}): copy or save it again") from error
    if sum(map(math.prod, shapes.values())) > 8 * size:
        raise ValueError(f"{path} is damaged or no file of weights (it is too short): copy or save it again")
    return shapes


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, dict):
        raise ValueError("its header is not that of safetensors")
    sizes: list[Any] = field(cast("dict[str, Any]", value), "shape", list)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("its header holds a shape that is none")
    return tuple(sizes)


def shape_problems(there: Mapping[str, Sequence[int]], here: Mapping[str, Sequence[int]], strict: bool) -> list[str]:
    """Sentences on names and shapes in a file that differ from those of a model, sorted.

    Args:
        there: shapes in the file.
        here: shapes of the model.
        strict: whether a name that only one of them has is a problem.
    """
    problems = [f"missing {key}" for key in here if key not in there] if strict else []
    problems += [f"unexpected {key}" for key in there if key not in here] if strict else []
    for key in here.keys() & there.keys():
        if tuple(here[key]) != tuple(there[key]):
            problems.append(f"{key} is {list(there[key])} there and {list(here[key])} here")
    return sorted(problems)


def shown(problems: Sequence[str], most: int = 8) -> str:
    """The first few of some problems, for a message."""
    return "; ".join(problems[:most]) + (f"; and {len(problems) - most} more" if len(problems) > most else "")
