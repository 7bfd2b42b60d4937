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
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),  # how old pickles spell bytes
}
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # its names before and since 2.0
for _module in NUMPY:
    ALLOWED[f"{_module}.scalar"] = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar
    ALLOWED[f"{_module}._reconstruct"] = lambda kind, shape, code: np.ndarray((0,))
DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
DAMAGED = (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError)
DAMAGED += (AttributeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError)


class RefusedError(ValueError):
    """A file holds something that would have to be called or imported to be read."""


class StandIn:
    """An object of a library that is not needed: takes whatever a pickle gives it, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any):
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: list[Any] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


def load_tensors(path: str | Path, *, stand_ins: tuple[str, ...] = ()) -> Any:
    """What `torch.save` wrote to `path`.

    Args:
        stand_ins: modules, such as "fairseq", whose objects are replaced by stand-ins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind; as RefusedError, it holds a name that is not of data.
    """
    path = _existing(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("constants.pkl") for name in names):
            raise RefusedError(f"{path} is a TorchScript program, not a file of weights: save its state_dict() instead")
    elif tarfile.is_tarfile(path):
        raise RefusedError(f"{path} is a tar archive, not a file that torch.save writes today: save it again")
    find_class = _finder(path, stand_ins)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return find_class(module, name)

    def load(file: Any, **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    reader = SimpleNamespace(Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError, __name__=__name__)
    try:
        return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except RefusedError:
        raise
    except DAMAGED as error:
        raise ValueError(
            f"{path} is damaged or no file of weights ({_first_line(error)}): copy or save it again"
        ) from error


def load_joblib(path: str | Path, *, stand_ins: tuple[str, ...] = ()) -> Any:
    """What `joblib.dump` or `pickle.dump` wrote to `path`, compressed or not; arguments and errors as `load_tensors`.

    An object of a stand-in has the attributes it was saved with.
    """
    path = _existing(path)
    try:
        return _ArrayUnpickler(path, _finder(path, (*stand_ins, "numpy.random"))).load()
    except RefusedError:
        raise
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged or not written by joblib ({_first_line(error)}): save it again") from error


class _Array(StandIn):
    """joblib's note in the pickle that the bytes of an array follow."""

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype
    numpy_array_alignment_bytes: int | None = None

    def read(self, file: io.BufferedIOBase, path: Path) -> np.ndarray:
        if self.dtype.hasobject:
            raise RefusedError(f"{path} holds an array of Python objects, pickles in the pickle: save numbers only")
        if self.numpy_array_alignment_bytes is not None:
            file.read(int.from_bytes(file.read(1), "little"))
        data = file.read(int(np.prod(self.shape)) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order=self.order).copy()


class _ArrayUnpickler(pickle._Unpickler):  # the one in Python: an array is read right after the note on it
    def __init__(self, path: Path, find_class: Callable[[str, str], Any]):
        self.path, self.file, self.find = path, _decompressed(path), find_class
        super().__init__(self.file)

    def find_class(self, module: str, name: str) -> Any:
        return _Array if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper") else self.find(module, name)

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _Array):
            self.stack.append(self.stack.pop().read(self.file, self.path))

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _finder(path: Path, stand_ins: tuple[str, ...]) -> Callable[[str, str], Any]:
    made: dict[str, type] = {}

    def find_class(module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ALLOWED or full in DTYPES:
            return ALLOWED.get(full, DTYPES.get(full))
        if any(full.startswith(f"{prefix}.") for prefix in stand_ins):
            return made.setdefault(full, type(name, (StandIn,), {}))
        raise RefusedError(
            f"{path} holds {full!r}, which is code, not data: nothing of it was run. If you trust the file, load it with "
            "the library that wrote it and save its tensors as .safetensors"
        )

    return find_class


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


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]
