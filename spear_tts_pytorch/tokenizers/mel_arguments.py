"""Checks the arguments of `MelKmeans`: tensors of finite numbers, statistics and names of speakers.

In: what a user gave. Out: the same, of known types; else an error that names the argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from spear_tts_pytorch.utils.values import instance, shown


def finite_tensor(name: str, values: object, shape: tuple[int | None, ...]) -> Tensor:
    """A tensor of finite numbers of a shape; None in it stands for any length of at least 1.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape, or numbers that are not finite.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else shown(values)
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    fits = len(shape) == values.ndim and all(b in (None, a) for a, b in zip(values.shape, shape, strict=True))
    if not fits or values.numel() == 0:
        expected = ", ".join("K" if one is None else str(one) for one in shape)
        raise ValueError(f"{name} must have the shape [{expected}], got {list(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity: fit the tokenizer again")
    return values


def checked_stats(stats: object, dim: int) -> dict[str, Tensor]:
    """The argument `speaker_stats`, checked."""
    if stats is None:
        return {}
    if not isinstance(stats, Mapping):
        raise TypeError(f"speaker_stats must be a dictionary of tensors [2, {dim}] by name, got {shown(stats)}")
    found = cast("Mapping[object, object]", stats)
    return {
        instance("names in speaker_stats", name, str): finite_tensor(f"speaker_stats[{name!r}]", value, (2, dim))
        for name, value in found.items()
    }


def names_of_speakers(speakers: object) -> list[str | None]:
    """The argument `speakers`: a name or None for each clip.

    Raises:
        TypeError: something else.
    """
    if isinstance(speakers, Sequence) and not isinstance(speakers, (str, bytes)):
        names = list(cast("Sequence[object]", speakers))
        if all(isinstance(name, str | None) for name in names):
            return cast("list[str | None]", names)
    raise TypeError(f"speakers must be a list of names, or None where unknown, got {shown(cast(object, speakers))}")
