"""What several processes do together: one writes for all, and the optimizer's state is whole in checkpoints.

In: options of accelerate, an optimizer that may hold parts of tensors only. Knows nothing of files or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast_object_list

from spear_tts_pytorch.utils.distributed import sharded_like, whole


def make_accelerator(options: dict[str, Any]) -> Accelerator:
    """An accelerator that does not mind others with other precisions in this process.

    Raises:
        ValueError: fully sharded training of version 1, whose parameters have lost their shapes.
    """
    state = AcceleratorState._shared_state
    wanted = options.get("mixed_precision")
    if state and state.get("_mixed_precision") != (wanted or "no"):
        AcceleratorState._shared_state = {}  # the others keep theirs
    handlers = list(options.get("kwargs_handlers") or [])
    if not any(isinstance(handler, DistributedDataParallelKwargs) for handler in handlers):
        # Each stage leaves some parts out (text tables in pretraining, heads not asked for).
        handlers.append(DistributedDataParallelKwargs(find_unused_parameters=True))
    accelerator = Accelerator(**{**options, "kwargs_handlers": handlers})
    plugin = options.get("fsdp_plugin")
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:  # accelerate passes these over
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    if accelerator.distributed_type == DistributedType.FSDP and not getattr(accelerator, "is_fsdp2", False):
        raise ValueError(
            "fully sharded training needs version 2: FullyShardedDataParallelPlugin(fsdp_version=2), or fsdp_version: 2 in "
            "the configuration of accelerate"
        )
    return accelerator


def on_main(accelerator: Accelerator, action: Callable[[], Any]) -> None:
    """The first process does something, the others wait for it; if it fails, it fails in all. Collective.

    Raises:
        What `action` raises; in the other processes a RuntimeError that tells it.
    """
    failure = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    if accelerator.num_processes > 1:
        told = broadcast_object_list([None if failure is None else f"{type(failure).__name__}: {failure}"])[0]
        if told is not None and failure is None:
            raise RuntimeError(f"the first process failed: {told}")
    if failure is not None:
        raise failure


def whole_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict of whole tensors: the same, however many processes share it. Collective."""
    state = optimizer.state_dict()
    return {**state, "state": {key: {k: whole(v) for k, v in own.items()} for key, own in state["state"].items()}}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restores what `whole_optimizer` returned, but for weight decay, which stays this optimizer's. Collective.

    Raises:
        ValueError: it is of other parameters.
    """
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    decay = [group["weight_decay"] for group in groups]
    shards = {
        key: {name: sharded_like(value, parameters[key]) for name, value in own.items()}
        for key, own in state["state"].items()
        if key < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": shards})
    for group, own in zip(optimizer.param_groups, decay, strict=True):
        group["weight_decay"] = own
