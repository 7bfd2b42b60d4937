"""Functions of torch that its stubs leave untyped or hide, under types of our own. They are torch's own objects.

Arguments and results are as torch documents them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

private = cast(Any, torch)  # for modules and functions of torch that begin with an underscore

vector_norm = cast("Callable[..., Tensor]", torch.linalg.vector_norm)
"""`torch.linalg.vector_norm`."""

attention_kernels = cast("Callable[[list[SDPBackend]], AbstractContextManager[Any]]", sdpa_kernel)
"""`torch.nn.attention.sdpa_kernel`: allows only some kernels of scaled dot product attention."""

int8_product = cast("Callable[[Tensor, Tensor, Tensor], Tensor]", private._weight_int8pack_mm)
"""bfloat16 `[rows, in]`, int8 weight `[out, in]` and bfloat16 scales `[out]` to bfloat16 `[rows, out]`, on a CPU."""
