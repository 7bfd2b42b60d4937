"""Run-time type checks of public constructors and entry points, and evaluation mode."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar, cast

from beartype import BeartypeConf, beartype
from torch import nn

typechecked = beartype(conf=BeartypeConf(violation_type=TypeError, is_pep484_tower=True))
"""Checks annotated arguments at each call; a wrong type is a TypeError naming the argument."""


M = TypeVar("M")


def in_evaluation(module: M) -> M:
    """A module in evaluation mode that shares weights, buffers and hooks with `module`, which keeps its mode.

    So a thread may generate with a model that another thread trains. Attributes that are set on the result do not change
    `module`. Making it costs some microseconds for each part of the module.
    """
    return cast(M, _view(cast(nn.Module, module), {}))


def _view(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """A shallow copy of a module and its parts; a part that stands in several places is copied once."""
    if id(module) not in made:
        view = made[id(module)] = object.__new__(type(module))
        held = module.__dict__
        parts = {name: None if part is None else _view(part, made) for name, part in held["_modules"].items()}
        # a compiled forward pass belongs to the module as it is: the view runs its own
        view.__dict__.update(held, _modules=parts, training=False, _compiled_call_impl=None)
    return made[id(module)]


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Evaluation mode inside, for the thread that trains; after, also after an exception, the former mode of every part."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
