"""Keywords that are declared once: a function takes `**options: Unpack[Keywords]`, a dataclass holds their defaults.

Editors and type checkers read the TypedDict. `show_keywords` lets `help()` and `inspect.signature` show the same names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def show_keywords(keywords: type, options: type) -> Callable[[F], F]:
    """Shows the names in `keywords` in the signature of a function that takes them as `**options`.

    Args:
        keywords: a TypedDict.
        options: a dataclass that has fields of these names; their types and defaults are shown.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        parameters = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {one.name for one in parameters}
        for one in fields(options):
            if one.name in keywords.__annotations__ and one.name not in taken:
                default = inspect.Parameter.empty if one.default is MISSING else one.default
                parameters.append(
                    inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=one.type)
                )
        setattr(function, "__signature__", own.replace(parameters=parameters))  # noqa: B010 (functions declare no such name)
        return function

    return decorate


def check_keywords(name: str, keywords: type, given: Mapping[str, Any]) -> None:
    """Raises TypeError if `given` has a keyword that the function called `name` does not take, or lacks a required one."""
    for keyword in given:
        if keyword not in keywords.__annotations__:
            raise TypeError(f"{name} has no argument {keyword!r}")
    for keyword in sorted(getattr(keywords, "__required_keys__", ())):
        if keyword not in given:
            raise TypeError(f"{name} needs the argument {keyword!r}")
