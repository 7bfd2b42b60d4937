"""Settings of a model that hold for one training only: label smoothing, dropout, and which parameters train.

In: a model and values. Inside each context the model has these values; after it, also after an error, its own again.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager

from torch import nn

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic


@contextmanager
def label_smoothing(model: TextToSemantic, value: float | None) -> Generator[None]:
    """Gives the loss this label smoothing; None keeps the model's own."""
    before = model.label_smoothing
    model.label_smoothing = before if value is None else value
    try:
        yield
    finally:
        model.label_smoothing = before


@contextmanager
def dropout(model: nn.Module, value: float | None) -> Generator[None]:
    """Gives all parts of a model this dropout; None keeps their own."""
    parts = [] if value is None else list(model.modules())
    places = [(part, "p") for part in parts if isinstance(part, nn.Dropout)]
    places += [(part, "dropout") for part in parts if isinstance(getattr(part, "dropout", None), (int, float))]
    before = [getattr(part, name) for part, name in places]
    for part, name in places:
        setattr(part, name, value)
    try:
        yield
    finally:
        for (part, name), own in zip(places, before, strict=True):
            setattr(part, name, own)


def train_only(model: nn.Module, names: Collection[str]) -> None:
    """Lets the parameters with these names train and freezes the others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


@contextmanager
def trained_as_before_on_error(model: object) -> Generator[None]:
    """After an error inside, each parameter of a model trains or is frozen as before. Anything else is left alone."""
    before = [(one, one.requires_grad) for one in model.parameters()] if isinstance(model, nn.Module) else []
    try:
        yield
    except BaseException:
        for parameter, trains in before:
            parameter.requires_grad_(trains)
        raise
