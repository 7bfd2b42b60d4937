"""The learning rate as a pure function of the step, and the optimizer with its groups of parameters.

In: a step, counted in updates from 0. Out: a learning rate. The schedule has no state, so resumed runs and runs over more
processes have the same learning rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

ScheduleKind = Literal["cosine", "inverse_sqrt", "constant"]
OptimizerKind = Literal["adamw", "adafactor"]


@dataclass(frozen=True)
class Schedule:
    """`schedule(step)` is the learning rate of update number `step`, from 0.

    It rises linearly from `initial_lr`, and is `lr` at `num_warmup_steps`. After that, "cosine" falls and is `min_lr` from
    `num_train_steps` on. "inverse_sqrt" is `lr` times the square root of warm-up over step, but at least `min_lr`.
    "constant" stays at `lr`.

    Raises:
        ValueError: an unknown kind, a negative number, or a warm-up longer than the training.
    """

    lr: float
    num_train_steps: int
    num_warmup_steps: int = 0
    initial_lr: float = 0.0
    min_lr: float = 0.0
    kind: ScheduleKind = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScheduleKind):
            raise ValueError(f"schedule must be one of {', '.join(get_args(ScheduleKind))}, got {self.kind!r}")
        if self.num_train_steps < 1:
            raise ValueError(f"num_train_steps must be at least 1, got {self.num_train_steps}")
        if not 0 <= self.num_warmup_steps <= self.num_train_steps:
            raise ValueError(
                f"num_warmup_steps must be 0 to num_train_steps ({self.num_train_steps}), got {self.num_warmup_steps}"
            )
        if self.lr <= 0 or self.initial_lr < 0 or not 0 <= self.min_lr <= self.lr:
            raise ValueError(
                f"lr must be positive, initial_lr not negative and min_lr between 0 and lr; "
                f"got {self.lr}, {self.initial_lr} and {self.min_lr}"
            )

    def warmup(self, step: int) -> float:
        """The learning rate of the warm-up alone, which is `lr` after it."""
        if step >= self.num_warmup_steps:
            return self.lr
        return self.initial_lr + (self.lr - self.initial_lr) * step / self.num_warmup_steps

    def __call__(self, step: int) -> float:
        if step < self.num_warmup_steps or self.kind == "constant":
            return self.warmup(step)
        if self.kind == "inverse_sqrt":
            start = max(1, self.num_warmup_steps)
            return max(self.min_lr, self.lr * math.sqrt(start / max(start, step)))
        length = self.num_train_steps - self.num_warmup_steps
        progress = min(1.0, (step - self.num_warmup_steps) / length) if length else 0.0
        if progress == 1.0:
            return self.min_lr
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters as groups for an optimizer: matrices decay, vectors and embeddings do not.

    Raises:
        ValueError: no parameter is trainable.
    """
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for module in model.modules():
        matrices = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (decay if matrices and name == "weight" else keep).append(parameter)
    if not decay and not keep:
        raise ValueError("the model has no trainable parameter: unfreeze some, for example by model.unfreeze_all()")
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(groups: list[dict[str, Any]], lr: float, kind: OptimizerKind = "adamw") -> torch.optim.Optimizer:
    """AdamW, in its fused form where there is one, or Adafactor (Shazeer and Stern 2018).

    Adafactor keeps only sums of rows and columns of second moments. Its steps are the root mean square of each parameter
    times `lr`, or times 1 / sqrt(updates) if that is less. So it needs a larger `lr` than AdamW, such as 1e-2, and the
    schedule "inverse_sqrt".

    Raises:
        ValueError: `kind` is another word.
    """
    if kind not in get_args(OptimizerKind):
        raise ValueError(f"optimizer must be one of {', '.join(get_args(OptimizerKind))}, got {kind!r}")
    if kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-8, fused=fused)
