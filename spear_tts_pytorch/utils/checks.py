"""Run-time type checks of public constructors and entry points, and the mode switch they share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Protocol

from beartype import BeartypeConf, beartype
from torch import nn

typechecked = beartype(conf=BeartypeConf(violation_type=TypeError, is_pep484_tower=True))
"""Checks annotated arguments at each call; a wrong type is a TypeError naming the argument."""


class Switchable(Protocol):
    """A module, as far as its mode is concerned."""

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> object: ...


@contextmanager
def evaluating(module: Switchable) -> Generator[None]:
    """Evaluation mode inside; after, also after an exception, the former mode of every part."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
