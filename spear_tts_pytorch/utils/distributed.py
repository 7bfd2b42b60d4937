"""Tensors of several processes: rows of all of them in one tensor, with gradients that find their way back; shards.

In: this process's rows `[b, ...]`, b of any size and different in each process. Out: the rows of all, in the order of
the processes. Of weights that fully sharded training (FSDP 2) has split, whole tensors, and back. Does not know what
rows are; one process is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank_and_world() -> tuple[int, int]:
    """The number of this process and how many there are; joins the others where `accelerate launch` or torchrun say so."""
    if dist.is_available() and not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState  # slow to import

        PartialState()
    return (dist.get_rank() if num_processes() > 1 else 0), num_processes()


def wait_for_everyone() -> None:
    if num_processes() > 1:
        dist.barrier()


class _Gather(torch.autograd.Function):
    """`[...]` of each process to `[processes, ...]`; the gradient is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(num_processes())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """`[b, ...]` of each process to `[sum of b, ...]` in all of them; gradients add up over processes.

    Averaging gradients over processes, as DistributedDataParallel does, then gives those of one process with all rows.
    Waits for the device: the sizes have to be known.
    """
    if num_processes() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(num_processes())]
    dist.all_gather(counts, torch.tensor([x.shape[0]], device=x.device))
    sizes = [int(count) for count in counts]
    kind = x.dtype
    x = x.to(torch.uint8) if kind == torch.bool else x
    x = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(sizes) - x.shape[0]))  # collectives want equal shapes
    gathered = _Gather.apply(x)
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)]).to(kind)


def whole(value: Any) -> Any:
    """A tensor of which each process may hold a part, whole; anything else as it is. Collective."""
    return value.full_tensor() if isinstance(value, Tensor) and hasattr(value, "full_tensor") else value


def whole_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of whole tensors. Collective."""
    return {name: whole(value) for name, value in state.items()}


def sharded_like(value: Any, parameter: Tensor) -> Any:
    """This process's part of a tensor of a parameter's shape, where it holds a part of the parameter. Collective."""
    if not hasattr(parameter, "full_tensor") or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
