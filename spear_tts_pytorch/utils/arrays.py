"""Arrays of NumPy in `.npy` and `.npz` files, read within bounds: no Python objects, and no more memory than the file may need.

In: the path of a file. Out: an array, or arrays by name.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

Array = npt.NDArray[Any]


def most_bytes(size: int) -> int:
    """Bytes to which a file of this size may be decompressed: far more than real numbers need."""
    return 64 * 2**20 + 32 * size


def load_arrays(path: Path) -> Array | dict[str, Array]:
    """The array in a `.npy` file, or the arrays in a `.npz` file by name.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: it is damaged, holds something else than numbers, or would take too much memory.
    """
    data = path.read_bytes()
    try:
        return _zipped(data) if path.suffix == ".npz" else _array(data)
    except Exception as error:  # archives and headers that are damaged raise errors of many types
        raise ValueError(
            f"{path} is damaged, or holds Python objects instead of numbers ({error}): save one matrix of numbers again"
        ) from error


def _zipped(data: bytes) -> dict[str, Array]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        infos = file.infolist()
        if sum(info.file_size for info in infos) > most_bytes(len(data)):
            raise ValueError("it would be far larger decompressed")
        names = [info.filename for info in infos if info.filename.endswith(".npy")]
        return {name.removesuffix(".npy"): _array(file.read(name)) for name in names}


def _array(data: bytes) -> Array:
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    start = file.tell()
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, not numbers")
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"its length does not fit an array of the shape {list(shape)}")
    flat = np.frombuffer(data, dtype, offset=start)
    return cast("Array", flat.reshape(shape, order="F" if fortran else "C").copy())
