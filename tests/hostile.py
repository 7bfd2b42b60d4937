"""Values that no argument or few arguments may have, and what may come of them, for tests of constructors and calls."""

import inspect
from pathlib import Path

import numpy as np
import torch

NAN, INF = float("nan"), float("inf")
HOSTILE = [
    *(None, True, False, -1, 0, 1, 2, 10**9, 2**31, 2**63, -(2**63), 10**30),
    *(0.0, 0.5, 1.0, 1.5, -0.5, NAN, INF, -INF, 1e-320, 1e300, 1 + 2j),
    *("", "x", "3", "nan", b"x", "a\0b", "caf\udce9", Path("x"), Path("no/such/folder")),
    *([], [1], (1, 2), [NAN], [[1], [1, 2]], {}, {"a": 1}, {1}, range(3)),
    *(np.int64(2), np.float32(0.5), np.bool_(True), np.array(2), np.array([1, 2]), np.float64(NAN), np.str_("x")),
    *(torch.tensor(2), torch.tensor(0.5), torch.tensor(True), torch.tensor([1.0, 2.0]), torch.tensor(NAN)),
    *(len, int, object(), iter([1]), torch.nn.Linear(1, 1)),
    *([None], [[]], [[1], [2, [3]]], ["a", 1], ["a", None], [[1.5, NAN]], np.array([[1, 2]]), np.array(["a"])),
    *(torch.tensor([1.5]), torch.tensor([[True]]), torch.tensor([[1, 40]]), torch.full((1, 9), NAN)),
    *(np.array([], dtype=np.float32), torch.zeros(0, 3, dtype=torch.long), torch.zeros(2, 2, 2)),
]
ERRORS = (TypeError, ValueError, FileNotFoundError, NotADirectoryError, ImportError)


def arguments_of(function, but=()):
    """Names of the arguments of a function."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", *but)]


def outcome(make, names, folder=None):
    """What a call returned, or None after an error that names an argument; fails for any other error.

    Args:
        make: constructs, or computes something.
        names: the arguments that have hostile values.
        folder: where it might write; after an error nothing new is in it.
    """
    before = sorted(folder.rglob("*")) if folder else []
    try:
        return make()
    except ERRORS as error:
        assert any(name in str(error) for name in names), f"{names}: {type(error).__name__}: {error}"
        assert not folder or sorted(folder.rglob("*")) == before, f"{names}: written before the error"
        return None
