# pyright: reportUnknownVariableType=false
# The reason: accelerate leaves many of its functions without types.
"""Work that several processes share: failures, sums over all, and whole optimizer states in checkpoints.

In: keywords of `accelerate.Accelerator`, tensors, and optimizers that may hold parts of tensors. Out: the same
result in every process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn

from spear_tts_pytorch.training.schedule import OptimizerKind
from spear_tts_pytorch.utils.distributed import common_store, sharded_like, whole

T = TypeVar("T")
_WHOLE = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # of AdamW; Adafactor keeps rows and columns
_trainings = itertools.count()


def make_accelerator(options: Mapping[str, Any]) -> Accelerator:
    """Makes an `Accelerator`. Others in this process may use another precision.

    Raises:
        TypeError, ValueError: keywords that accelerate refuses; fully sharded training of version 1, in which parameters
            lose their shapes.
    """
    state = AcceleratorState._shared_state  # pyright: ignore[reportPrivateUsage] # accelerate has no other way
    wanted = options.get("mixed_precision")
    if state and state.get("_mixed_precision") != (wanted or "no"):
        AcceleratorState._shared_state = {}  # pyright: ignore[reportPrivateUsage] # the others keep theirs
    handlers = list(options.get("kwargs_handlers") or [])
    if not any(isinstance(handler, DistributedDataParallelKwargs) for handler in handlers):
        # Each stage leaves some parameters unused (text tables in pretraining, heads that have no loss).
        handlers.append(DistributedDataParallelKwargs(find_unused_parameters=True))
    keywords: dict[str, Any] = {**options, "kwargs_handlers": handlers}
    try:
        accelerator = Accelerator(**keywords)
    except TypeError as error:
        raise TypeError(f"accelerate_kwargs {sorted(options)} cannot be used: {error}") from error
    for name in ("project_dir", "logging_dir"):  # trackers open them later, perhaps in another working folder
        folder = getattr(accelerator.project_configuration, name)
        if folder is not None:
            setattr(accelerator.project_configuration, name, os.path.abspath(folder))
    plugin = options.get("fsdp_plugin")
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:  # accelerate ignores it there
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    if accelerator.distributed_type == DistributedType.FSDP and not getattr(accelerator, "is_fsdp2", False):
        raise ValueError(
            "fully sharded training needs version 2: FullyShardedDataParallelPlugin(fsdp_version=2), or fsdp_version: 2 in "
            "the configuration of accelerate"
        )
    return accelerator


@contextmanager
def sharing_failures(accelerator: Accelerator) -> Generator[None]:
    """If one process fails inside, the others, which then lose the connection to it, fail with its message.

    Raises:
        RuntimeError: another process failed.
    """
    store, key = cast(Any, None), f"failure of training {next(_trainings)}"  # all processes train equally often
    if accelerator.num_processes > 1 and torch.distributed.is_initialized():
        store = common_store()
    try:
        yield
    except Exception as error:
        if store is not None:
            _tell_failure(store, key, accelerator.process_index, error)
        raise


def _tell_failure(store: Any, key: str, rank: int, error: Exception) -> None:
    """Tells the other processes of an error; raises RuntimeError if another told of one first."""
    try:
        first: str = store.compare_set(key, "", f"process {rank} failed: {type(error).__name__}: {error}").decode()
    except RuntimeError:  # the process that holds the store is gone
        return
    if not first.startswith(f"process {rank} "):
        raise RuntimeError(first) from error


def sum_over_processes(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on the device. Collective."""
    total = accelerator.reduce(value.to(accelerator.device, non_blocking=True), reduction="sum")
    return cast(Tensor, total)


def read_sums(accelerator: Accelerator, value: Tensor) -> list[float]:
    """The sums of numbers `[n]` over all processes, as the host reads them. Collective; waits for the device."""
    return cast("list[float]", sum_over_processes(accelerator, value).tolist())


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in their order. Collective."""
    return gather_object([value])


def prepared(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module and its optimizer, prepared for the processes and the device. Collective."""
    return cast("tuple[nn.Module, torch.optim.Optimizer]", accelerator.prepare(module, optimizer))


def check_optimizer(kind: OptimizerKind, accelerator: Accelerator) -> None:
    """Raises ValueError for an optimizer that cannot train the parts of weights that each process holds."""
    if kind == "adafactor" and is_fully_sharded(accelerator):
        raise ValueError("optimizer='adafactor' needs whole weights, which fully sharded training has not: use 'adamw'")


def is_fully_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds only a part of every weight."""
    return accelerator.distributed_type == DistributedType.FSDP


@contextmanager
def tracked(accelerator: Accelerator, task: str, config: Mapping[str, Any]) -> Generator[None]:
    """Starts the trackers of an accelerator and finishes them, also after an error.

    Otherwise those of several trainers in one process would write one run.
    """
    accelerator.init_trackers(task, config=dict(config))
    try:
        yield
    finally:
        for tracker in cast(
            "list[GeneralTracker]", accelerator.trackers
        ):  # `end_training` would also end the process group of other trainers
            tracker.finish()
        accelerator.trackers = []


def whole_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer with whole tensors. It does not depend on the number of processes. Collective."""
    state = optimizer.state_dict()
    return {**state, "state": {key: {k: whole(v) for k, v in own.items()} for key, own in state["state"].items()}}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restores the state dict that `whole_optimizer` returned; rates and other options stay this optimizer's. Collective.

    Raises:
        ValueError: it is of other parameters, or damaged.
    """
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
        raise ValueError("the number of parameters differs")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _check_state(state["state"], parameters)
    shards = {
        key: {name: sharded_like(value, parameters[key]) for name, value in own.items()}
        for key, own in state["state"].items()
    }
    optimizer.load_state_dict({"state": shards, "param_groups": groups})


def _check_state(state: Mapping[int, Mapping[str, Any]], parameters: Sequence[Tensor]) -> None:
    """Raises ValueError unless states hold tensors of numbers, in the shapes of their parameters and under equal names."""
    names = {frozenset(own) for own in state.values()}
    uneven = len(names) > 1 and any(own <= set(_WHOLE) for own in names)
    if uneven or not state.keys() <= set(range(len(parameters))):
        raise ValueError("its states are not those of the parameters")
    for key, own in state.items():
        for name, value in own.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise ValueError(f"{name} of parameter {key} is no tensor of numbers")
            if value.shape != (() if name == "step" else parameters[key].shape) and name in _WHOLE:
                raise ValueError(f"{name} of parameter {key} has the shape {list(value.shape)}")
