"""Tensors that several processes share: rows of a batch, and weights that are split between processes.

In: this process's rows `[b, ...]`; b may differ between processes. Out: the rows of all processes in the order of their
ranks, with gradients that flow back to each process. Also work that one process does for all, and whole tensors of weights
that fully sharded training (FSDP 2) has split, and the reverse. With one process, every function returns its input.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.utils.files import locked

LONGEST_WORK, LONGEST_READING = timedelta(days=365), timedelta(minutes=1)
_works = itertools.count()


class FirstProcessError(RuntimeError):
    """The first process failed in work that it did for all. Raised in the other processes."""


def num_processes() -> int:
    """Number of processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank_and_world() -> tuple[int, int]:
    """Rank of this process, and number of processes.

    Connects to the others first if `accelerate launch` or torchrun started this process.
    """
    if dist.is_available() and not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState  # slow to import

        PartialState()
    return (dist.get_rank() if num_processes() > 1 else 0), num_processes()


def wait_for_everyone() -> None:
    """Returns when all processes have called it."""
    if num_processes() > 1:
        dist.barrier()


def common_store() -> Any:
    """The store of keys and values that all processes share; there must be several."""
    return dist.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage] # the only way


def in_first_process(work: Callable[[], object]) -> None:
    """Does some work in the first process; the others wait, however long it takes. If it fails, it fails in all. Collective.

    Raises:
        BaseException: the error of `work`; in the other processes a `FirstProcessError` with its message.
    """
    rank, world = rank_and_world()
    if world == 1:
        work()
        return
    store, key = common_store(), f"work {next(_works)} of the first process"  # all processes call this equally often
    if rank == 0:
        try:
            work()
        except BaseException as error:
            store.set(key, f"{type(error).__name__}: {error}")
            with contextlib.suppress(RuntimeError):  # this process holds the store: it may end once all have read it
                store.wait([f"{key}, read by {other}" for other in range(1, world)], LONGEST_READING)
            raise
        store.set(key, "")
    store.wait([key], LONGEST_WORK)
    if failure := store.get(key).decode():
        store.set(f"{key}, read by {rank}", "")
        raise FirstProcessError(f"the first process failed: {failure}")
    wait_for_everyone()


@contextlib.contextmanager
def locked_for_all(folder: str | Path) -> Generator[None]:
    """Inside, the folder is for these processes alone: the first one holds its lock. Collective.

    Raises:
        FolderInUseError: another run is at work in the folder; in the other processes a `FirstProcessError`.
    """
    with contextlib.ExitStack() as stack:
        in_first_process(lambda: stack.enter_context(locked(folder)))
        yield


class _Gather(torch.autograd.Function):
    """`[...]` of each process to `[processes, ...]`. The gradient is the sum of the gradients in all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(num_processes())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        gradient = grad_outputs[0].contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather_rows(x: Tensor) -> Tensor:
    """`[b, ...]` of each process to `[sum of b, ...]` in every process. Gradients are summed over processes.

    DistributedDataParallel averages gradients over processes. The result is the gradient of one process with all rows.
    Reads the number of rows on the host, so it waits for the device.
    """
    if num_processes() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(num_processes())]
    dist.all_gather(counts, torch.tensor([x.shape[0]], device=x.device))
    sizes = [int(count) for count in counts]
    kind = x.dtype
    x = x.to(torch.uint8) if kind == torch.bool else x
    x = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(sizes) - x.shape[0]))  # collectives need equal shapes
    gathered = cast(Tensor, _Gather.apply(x))  # [processes, max b, ...]
    return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)]).to(kind)


def whole(value: Any) -> Any:
    """The whole tensor if each process holds a part of `value`, else `value`. All processes must call it."""
    return value.full_tensor() if is_split(value) else value


def is_split(value: Any) -> bool:
    """Whether `value` is a tensor (DTensor) of which each process holds a part."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of whole tensors. All processes must call it."""
    return {name: whole(value) for name, value in state.items()}


def sharded_like(value: Any, parameter: Tensor) -> Any:
    """This process's part of `value`, if that has the shape of a split `parameter`; else `value`.

    All processes must call it.
    """
    if not is_split(parameter) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor  # slow to import

    split = cast(DTensor, parameter)
    return distribute_tensor(value.to(split.device), split.device_mesh, split.placements)
