"""Reads pickled files without running code from them: tensors, arrays, numbers and strings only.

In: the path of a file that `torch.save` or `joblib.dump` wrote. Out: its contents. Objects of named libraries, which such
files contain and this package does not need, become stand-ins that do nothing. A file that names any other object is
refused, with the name in the error.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from spear_tts_pytorch.utils.arrays import most_bytes
from spear_tts_pytorch.utils.pickles import LEAST_COPIES, MOST_COPIES, MOST_DEPTH, MOST_VALUES, check_file

ADVICE = (
    "Weights only load failed"  # torch's message also advises a way to load that runs code from the file; we cut it
)
REASON = re.compile(r"WeightsUnpickler error:\s*([^\n]+)")
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # torch's name of the object that it refuses
NUMBERS = re.compile(r"[biufc]\d{1,2}")  # NumPy's codes of numeric types
DAMAGED = (  # errors that readers raise on a damaged file
    *(pickle.UnpicklingError, struct.error, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError),
    *(AttributeError, OverflowError, MemoryError, AssertionError, ImportError, RecursionError),
)


class RefusedError(ValueError):
    """A file cannot be read without importing or calling something that it names."""


class StandIn:
    """Stands for an object of a library that is not needed: accepts any arguments and items, and does nothing."""

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
    """The contents of a file that `torch.save` wrote, read by `torch.load(weights_only=True)`.

    Args:
        stand_ins: modules, such as "fairseq", whose objects are replaced by stand-ins.

    Raises:
        FileNotFoundError: there is no such file.
        RefusedError: it names an object other than data.
        ValueError: it is damaged, or of another kind.
    """
    path = _existing(path)
    try:
        check_file(path)
    except PermissionError:
        raise
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged or no file of weights ({_first_line(error)}): copy or save it again"
        ) from error
    known = _numpy_scalars(path)
    made: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(made.values())):
                return _checked(torch.load(path, map_location="cpu", weights_only=True), path.stat().st_size)
        except (RefusedError, PermissionError):
            raise
        except DAMAGED as error:
            found = GLOBAL.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
            name = found[1] if found else ""
            if name and name not in made and (name in known or _expected(name, stand_ins)):
                made[name] = known.get(name) or _stand_in(name)  # then try again
            elif name:
                raise RefusedError(_refusal(path, name)) from None  # torch's error advises to run the file's code
            else:
                raise ValueError(
                    f"{path} is damaged or no file of weights ({_first_line(error)}): copy or save it again"
                ) from None


def load_joblib(path: str | Path, *, stand_ins: tuple[str, ...] = ()) -> Any:
    """The contents of a file that `joblib.dump` wrote, compressed or not. Arguments and errors are as in `load_tensors`.

    A stand-in has the attributes of the object that was saved.
    """
    path = _existing(path)
    try:
        return _ArrayUnpickler(path, (*stand_ins, "numpy.random")).load()
    except (RefusedError, PermissionError):
        raise
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged or not written by joblib ({_first_line(error)}): save it again") from error


class _Type(StandIn):
    """A pickled NumPy dtype. It must be numeric. Of its state only the byte order is read: the rest can be forged."""

    def __init__(self, code: str = "", *rest: Any) -> None:
        self.code: Any = code  # from the file, so possibly not a string
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        parts = cast("tuple[Any, ...]", state) if isinstance(state, tuple) else ()
        if len(parts) > 1 and parts[1] in ("<", ">", "|", "="):
            self.order = str(parts[1])

    def made(self, path: Path) -> np.dtype[Any]:
        """The dtype itself."""
        if not isinstance(self.code, str) or not NUMBERS.fullmatch(self.code):
            raise RefusedError(
                f"{path} holds an array of Python objects ({self.code!r}), not of numbers: save numbers only"
            )
        return np.dtype(self.order + self.code)


def _numpy_scalars(path: Path) -> dict[str, Any]:
    """By their names, functions that make NumPy numbers from bytes. NumPy's own functions trust the file."""

    def scalar(kind: Any, data: Any) -> np.generic:
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise RefusedError(f"{path} holds a {type(data).__name__} as a number of NumPy: save numbers only")
        return np.frombuffer(data, kind.made(path))[0]

    found: dict[str, Any] = {"numpy.dtype": type("dtype", (_Type,), {"__module__": "numpy", "__qualname__": "dtype"})}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):

        def own(kind: Any, data: Any) -> np.generic:
            return scalar(kind, data)

        own.__module__, own.__qualname__ = module, "scalar"  # torch finds it by this name
        found[f"{module}.scalar"] = own
    return found


class _Array(StandIn):
    """joblib's mark in the pickle: the bytes of an array follow."""


_PythonUnpickler = cast(Any, pickle)._Unpickler  # the C one cannot stop after a mark to read the array's bytes


def _tuple_loader(code: int) -> Callable[[Any], None]:
    """The unpickler's own way to make a tuple, and then the check of `_ArrayUnpickler`."""
    load = _PythonUnpickler.dispatch[code]

    def checked(unpickler: Any) -> None:
        load(unpickler)
        unpickler.check_tuple()

    return checked


class _ArrayUnpickler(_PythonUnpickler):
    """Reads a pickle of joblib; `stack` is the unpickler's own."""

    stack: list[Any]

    def __init__(self, path: Path, stand_ins: tuple[str, ...]):
        self.sizes: dict[int, tuple[int, int]] = {}
        self.tuples: list[tuple[Any, ...]] = []
        self.path, self.stand_ins, self.file = path, stand_ins, _decompressed(path)
        self.left = LEAST_COPIES + MOST_COPIES * path.stat().st_size
        self.made: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "joblib.numpy_pickle.NumpyArrayWrapper": _Array,
            "numpy.ndarray": _stand_in("numpy.ndarray"),
            "_codecs.encode": _latin1,  # old pickles write bytes as encoded text
            **_numpy_scalars(path),
        }
        _PythonUnpickler.__init__(self, self.file)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self.made:
            if not _expected(full, self.stand_ins):
                raise RefusedError(_refusal(self.path, full))
            self.made[full] = _stand_in(full)
        return self.made[full]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], StandIn):
            raise RefusedError(_refusal(self.path, f"a state for a {type(self.stack[-2]).__name__}"))
        self.spend([self.stack[-1]])
        _PythonUnpickler.load_build(self)
        if isinstance(self.stack[-1], _Array):
            self.stack.append(self.array(cast("dict[str, Any]", vars(self.stack.pop()))))

    def array(self, note: dict[str, Any]) -> npt.NDArray[Any]:
        """The array whose bytes follow; `note` has its dtype, shape and order."""
        kind: np.dtype[Any] = note["dtype"].made(self.path)
        if note.get("numpy_array_alignment_bytes") is not None:
            self.file.read(int.from_bytes(self.file.read(1), "little"))
        shape = note["shape"]
        if not isinstance(shape, tuple) or not all(isinstance(n, int) for n in cast("tuple[Any, ...]", shape)):
            raise RefusedError(f"{self.path} holds an array whose shape is not of integers: save it again")
        size = math.prod(cast("tuple[int, ...]", shape)) * kind.itemsize
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError("it ends within an array")
        flat = cast(Any, np.frombuffer(data, kind))  # numpy's types allow no order that is not a literal
        return flat.reshape(note["shape"], order=note["order"]).copy()

    def check_tuple(self) -> None:
        """Bounds the tuples in the tuple that was just made: to hash it takes a step for each value, however often it comes."""
        made = cast("tuple[Any, ...]", self.stack[-1])
        parts = [self.sizes.get(id(part), (0, 0)) for part in made]
        count, depth = len(made) + sum(count for count, _ in parts), 1 + max((depth for _, depth in parts), default=0)
        if count > MOST_VALUES or depth > MOST_DEPTH:
            raise RefusedError(f"{self.path} holds tuples in tuples without an end: save it again")
        self.sizes[id(made)] = count, depth
        self.tuples.append(made)  # kept, so that no other object gets its id

    def spend(self, values: list[Any]) -> None:
        """Bounds how often values are copied or hashed: a small pickle can ask for it without an end."""
        for value in values:
            parts = cast("tuple[Any, ...]", value) if isinstance(value, (tuple, list, dict, str, bytes)) else ()
            self.left -= max(1, len(parts), self.sizes.get(id(parts), (0, 0))[0])
        if self.left < 0:
            raise RefusedError(f"{self.path} copies the same values too many times: save it again")

    def load_reduce(self) -> None:
        self.spend(list(self.stack[-1]))
        _PythonUnpickler.load_reduce(self)

    def load_setitem(self) -> None:
        self.spend([self.stack[-2]])
        _PythonUnpickler.load_setitem(self)

    def load_setitems(self) -> None:
        self.spend(self.stack[::2])  # after a mark, the stack holds keys and values
        _PythonUnpickler.load_setitems(self)

    def load_set(self) -> None:
        raise RefusedError(_refusal(self.path, "set"))

    def load_long4(self) -> None:
        raise RefusedError(f"{self.path} holds a number of more than 500 digits: save it again")

    def load_bytearray(self) -> None:
        raise RefusedError(_refusal(self.path, "bytearray"))  # it takes memory before its bytes are read

    dispatch = {
        **_PythonUnpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray,
        pickle.REDUCE[0]: load_reduce,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_set,
        pickle.FROZENSET[0]: load_set,
        pickle.LONG4[0]: load_long4,
        **{code[0]: _tuple_loader(code[0]) for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)},
    }


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


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
    """The contents of a file, decompressed; raises ValueError if they are far larger than numbers can become."""
    data = path.read_bytes()
    most = most_bytes(len(data))
    for magic, opened in (
        (b"\x1f\x8b", gzip.GzipFile),
        (b"BZh", bz2.BZ2File),
        (b"\xfd7zXZ", lzma.LZMAFile),
        (b"\x5d\x00\x00", lzma.LZMAFile),
    ):
        if data.startswith(magic):
            source: Any = io.BytesIO(data)
            with opened(fileobj=source) if opened is gzip.GzipFile else opened(source) as file:
                return _bounded(file.read(most + 1), most)
    if data.startswith(b"\x78"):
        inner = zlib.decompressobj()
        return _bounded(inner.decompress(data, most + 1) + (inner.flush() if not inner.unconsumed_tail else b""), most)
    return io.BytesIO(data)


def _bounded(data: bytes, most: int) -> io.BytesIO:
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB when decompressed, far more than its numbers need")
    return io.BytesIO(data)


def _checked(value: Any, size: int) -> Any:
    """Returns contents of a file of `size` bytes whose tensors have all their numbers.

    Raises:
        ValueError: a tensor repeats some, or has none. It takes no memory in the file, and all memory where it is copied.
    """
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            held = one.untyped_storage().nbytes() if one.layout is torch.strided and one.device.type == "cpu" else 0
            if one.numel() * one.element_size() > held or held > size:
                raise ValueError("it holds a tensor that is larger than its numbers")
        elif isinstance(one, dict):
            waiting.extend(cast("dict[Any, Any]", one).values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(cast("list[Any]", one))
    return value


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    return path


def without_advice(error: BaseException) -> str:
    """The message of an error, without torch's advice to load the file in a way that runs code from it."""
    text = str(error)
    if ADVICE in text:
        reason = REASON.search(text)
        return reason[1] if reason else "it is no file of weights"
    return text


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {without_advice(error)}".split("\n")[0]
