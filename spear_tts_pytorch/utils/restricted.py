"""Files that were pickled, read without running what they say: tensors, arrays, numbers and strings only.

In: a path. Out: what was saved, with inert stand-ins for objects of libraries that are expected in such files and are
of no use here. Any other name in a file is refused, and named. Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import re
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

ADVICE = "Weights only load failed"  # and the way to run what is in the file, in torch's words
REASON = re.compile(r"WeightsUnpickler error:\s*([^\n]+)")
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # how torch names what it refuses
NUMBERS = re.compile(r"[biufc]\d{1,2}")  # NumPy's codes of types that are numbers
DAMAGED = (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError)
DAMAGED += (AttributeError, OverflowError, MemoryError, AssertionError, ImportError, struct.error, zlib.error)
DAMAGED += (lzma.LZMAError,)


class RefusedError(ValueError):
    """A file holds something that would have to be called or imported to be read."""


class StandIn:
    """An object of a library that is not needed: takes whatever a pickle gives it, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any):
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


def load_tensors(path: str | Path, *, stand_ins: tuple[str, ...] = ()) -> Any:
    """What `torch.save` wrote to `path`, read by torch's own reader of weights alone.

    Args:
        stand_ins: modules, such as "fairseq", whose objects are replaced by stand-ins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind; as RefusedError, it holds a name that is not of data.
    """
    path = _existing(path)
    known = _numpy_scalars(path)
    made: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(made.values())):
                return torch.load(path, map_location="cpu", weights_only=True)
        except RefusedError:
            raise
        except DAMAGED as error:
            found = GLOBAL.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
            name = found[1] if found else ""
            if name and name not in made and (name in known or _expected(name, stand_ins)):
                made[name] = known.get(name) or _stand_in(name)  # and once more
            elif name:
                raise RefusedError(_refusal(path, name)) from None  # torch's error advises to run what is there
            else:
                raise ValueError(
                    f"{path} is damaged or no file of weights ({_first_line(error)}): copy or save it again"
                ) from None


def load_joblib(path: str | Path, *, stand_ins: tuple[str, ...] = ()) -> Any:
    """What `joblib.dump` wrote to `path`, compressed or not; arguments and errors as `load_tensors`.

    An object of a stand-in has the attributes it was saved with.
    """
    path = _existing(path)
    try:
        return _ArrayUnpickler(path, (*stand_ins, "numpy.random")).load()
    except RefusedError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged or not written by joblib ({_first_line(error)}): save it again") from error


class _Type(StandIn):
    """NumPy's note of a type: numbers only, and of its state the byte order only, for the rest can be forged."""

    def __init__(self, code: str = "", *rest: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def made(self, path: Path) -> np.dtype:
        if not isinstance(self.code, str) or not NUMBERS.fullmatch(self.code):
            raise RefusedError(
                f"{path} holds an array of Python objects ({self.code!r}), not of numbers: save numbers only"
            )
        return np.dtype(self.order + self.code)


def _numpy_scalars(path: Path) -> dict[str, Any]:
    """By name, what makes numbers of NumPy from their bytes, in place of NumPy's own, which trusts what it is told."""

    def scalar(kind: Any, data: Any) -> np.generic:
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise RefusedError(f"{path} holds a {type(data).__name__} as a number of NumPy: save numbers only")
        return np.frombuffer(data, kind.made(path))[0]

    found: dict[str, Any] = {"numpy.dtype": type("dtype", (_Type,), {"__module__": "numpy", "__qualname__": "dtype"})}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):

        def own(kind: Any, data: Any) -> np.generic:
            return scalar(kind, data)

        own.__module__, own.__qualname__ = module, "scalar"  # by which torch finds it
        found[f"{module}.scalar"] = own
    return found


class _Array(StandIn):
    """joblib's note in the pickle that the bytes of an array follow."""


class _ArrayUnpickler(pickle._Unpickler):  # the one in Python: an array is read right after the note on it
    def __init__(self, path: Path, stand_ins: tuple[str, ...]):
        self.path, self.stand_ins, self.file = path, stand_ins, _decompressed(path)
        self.made: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "joblib.numpy_pickle.NumpyArrayWrapper": _Array,
            "numpy.ndarray": _stand_in("numpy.ndarray"),
            "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),  # how old pickles spell bytes
            **_numpy_scalars(path),
        }
        super().__init__(self.file)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self.made:
            if not _expected(full, self.stand_ins):
                raise RefusedError(_refusal(self.path, full))
            self.made[full] = _stand_in(full)
        return self.made[full]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], StandIn):
            raise RefusedError(_refusal(self.path, f"a state for {self.stack[-2]!r}"))
        super().load_build()
        if isinstance(self.stack[-1], _Array):
            self.stack.append(self.array(vars(self.stack.pop())))

    def array(self, note: dict[str, Any]) -> np.ndarray:
        kind = note["dtype"].made(self.path)
        if note.get("numpy_array_alignment_bytes") is not None:
            self.file.read(int.from_bytes(self.file.read(1), "little"))
        size = int(np.prod(note["shape"])) * kind.itemsize
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError("it ends within an array")
        return np.frombuffer(data, kind).reshape(note["shape"], order=note["order"]).copy()

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _expected(name: str, stand_ins: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in stand_ins)


def _stand_in(name: str) -> type:
    module, _, own = name.rpartition(".")
    return type(own, (StandIn,), {"__module__": module, "__qualname__": own})


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path} holds {name!r}, which is code, not data: nothing of it was run. If you trust the file, load it with the "
        "library that wrote it and save its tensors as .safetensors"
    )


def _decompressed(path: Path) -> io.BytesIO:
    data = path.read_bytes()
    for magic, decompress in (
        (b"\x1f\x8b", gzip.decompress),
        (b"BZh", bz2.decompress),
        (b"\xfd7zXZ", lzma.decompress),
        (b"\x5d\x00\x00", lzma.decompress),
        (b"\x78", zlib.decompress),
    ):
        if data.startswith(magic):
            return io.BytesIO(decompress(data))
    return io.BytesIO(data)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    return path


def without_advice(error: BaseException) -> str:
    """What an error says, without torch's advice to load files in the way that runs what they hold."""
    text = str(error)
    if ADVICE in text:
        reason = REASON.search(text)
        return reason[1] if reason else "it is no file of weights"
    return text


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {without_advice(error)}".split("\n")[0]
