"""What a notebook user sees: names that completion offers, arguments in docstrings, a short repr."""

import importlib
import inspect
import re
import typing

import pytest

import spear_tts_pytorch


def public_classes():
    """Classes at the root that users construct: protocols are left out."""
    found = [getattr(spear_tts_pytorch, name) for name in spear_tts_pytorch.__all__ if name != "__version__"]
    return [one for one in found if not getattr(one, "_is_protocol", False)]


def constructor_arguments(cls):
    """Names of all arguments; a `**options: Unpack[...]` stands for the keys of its TypedDict."""
    names = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.append(name)
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = eval(annotation, vars(importlib.import_module(cls.__init__.__module__)))
        names += typing.get_args(annotation)[0].__annotations__ if typing.get_args(annotation) else [name]
    return names


def test_completion_offers_the_public_names():
    assert dir(spear_tts_pytorch) == sorted(spear_tts_pytorch.__all__)


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_every_constructor_argument_is_in_the_docstring(cls):
    text = "\n".join(filter(None, (cls.__doc__, cls.__init__.__doc__ if "__init__" in vars(cls) else None)))
    assert len(text) > 40
    missing = [name for name in constructor_arguments(cls) if not re.search(rf"\b{name}\b", text)]
    assert missing == []
