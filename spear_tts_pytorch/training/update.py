"""One update: its batches, accumulated and over all processes, are one mean loss; its gradient is clipped and applied.

In: prepared batches and a learning rate. Out: the loss, after one step of the optimizer. Two processes do the same as one
with twice the rows. The host reads the device once: loss, gradient norm, ids, and requests to stop. Three cases read it more
often: the scaler of fp16 reads whether gradients overflowed, several processes wait for each other, and torch's CTC loss
reads the lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.training.batches import PreparedBatch
from spear_tts_pytorch.training.processes import sum_over_processes
from spear_tts_pytorch.training.signals import StopSignals
from spear_tts_pytorch.utils.distributed import whole


class NotFiniteError(FloatingPointError):
    """The loss or its gradient is not finite.

    Attributes:
        loss: over all processes.
        numbers: of the items in this process's batches with such a loss, or of all items if the loss is finite.
    """

    def __init__(self, loss: float, numbers: list[int]):
        super().__init__(f"the loss is {loss}, or its gradient not finite")
        self.loss, self.numbers = loss, numbers

    def located(self, step: int, position: Position, items: Sequence[Sequence[int]], saved: Path | None) -> str:
        """The message with the place of the update: `items` of each process in the user's dataset, the last checkpoint."""
        listed = [item for part in items for item in part]
        return (
            f"{self}, at step {step} (epoch {position.epoch}, batch {position.batch}: items {listed} of the dataset); the "
            "weights are those before it"
            + (f", the last checkpoint is {saved}" if saved else "")
            + ". Lower lr, warm up for longer, or look at these items"
        )


@dataclass(frozen=True)
class UpdateResult:
    """An update that was made: its `loss`, the `tokens` (ids) of its batches and the items `left_out`, in all processes."""

    loss: float
    tokens: int
    left_out: int = 0


class Update:
    """Makes updates. Collective: every process calls it with equally many batches.

    Args:
        accelerator: of the processes.
        wrapper: the prepared train wrapper.
        optimizer: the prepared optimizer of its parameters.
        signals: all processes agree on a signal at each update.
        max_grad_norm: gradients are clipped to this norm; None clips nothing.
        compiled: whether the wrapper is compiled, for the message of an error.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        wrapper: nn.Module,
        optimizer: torch.optim.Optimizer,
        signals: StopSignals,
        max_grad_norm: float | None = None,
        compiled: bool = False,
    ):
        self.accelerator, self.wrapper, self.optimizer = accelerator, wrapper, optimizer
        self.signals, self.max_grad_norm, self.compiled = signals, max_grad_norm, compiled

    def __call__(self, batches: Sequence[PreparedBatch], lr: float) -> UpdateResult:
        """Makes one update with a learning rate.

        Batches weigh by their target ids, so the gradient is that of one batch with all rows.

        Raises:
            NotFiniteError: the loss or its gradient is not finite; the weights stay.
        """
        self.optimizer.zero_grad()  # gradients of a failed update
        weights = torch.tensor([batch.weight for batch in batches], dtype=torch.float32)
        counts = [sum(batch.tokens for batch in batches), sum(batch.left_out for batch in batches)]
        counted = torch.tensor(counts, dtype=torch.float32)
        totals = sum_over_processes(self.accelerator, torch.cat((weights.sum()[None], counted)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # A number divided by a tensor would be rounded twice.
        shares = weights.to(totals.device, non_blocking=True) / totals[0]
        loss_sum, losses = self._backward(batches, shares)
        asked = torch.tensor(self.signals.asked()).to(totals.device, non_blocking=True)
        shared = sum_over_processes(self.accelerator, torch.cat((loss_sum[None], asked)))
        read = cast("list[float]", torch.cat((shared, totals[1:], self._clip()[None])).tolist())
        loss, norm = read[0], read[-1]
        self.signals.agree(read[1:-3])
        scaled = getattr(self.accelerator, "scaler", None) is not None  # a scaler leaves out such updates itself
        if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
            self.optimizer.zero_grad()
            raise NotFiniteError(loss, _suspects(batches, losses, loss))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return UpdateResult(loss, int(read[-3]), int(read[-2]))

    def _backward(self, batches: Sequence[PreparedBatch], shares: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Adds up the gradients of all batches.

        Args:
            shares: `[batches]`, the share of each in the loss of all processes.

        Returns:
            The part of the loss that these batches are, and each batch's own loss.
        """
        loss_sum = torch.zeros((), device=shares.device)
        losses: list[Tensor] = []
        for batch, share in zip(batches, shares, strict=True):
            more = batch is not batches[-1]
            with self.accelerator.no_sync(self.wrapper) if more else nullcontext():
                loss = self._loss(batch.inputs)
                # Processes average their gradients, but these are to add up.
                self.accelerator.backward(loss * (share * self.accelerator.num_processes))
            losses.append(loss.detach())
            loss_sum += losses[-1].float() * share
        return loss_sum, losses

    def _loss(self, inputs: dict[str, Any]) -> Tensor:
        try:
            return self.wrapper(**inputs)[0]
        except Exception as error:
            if self.compiled and type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"compile=True failed ({reason}): torch.compile needs a C++ compiler, such as g++; leave compile out to "
                    "train without"
                ) from error
            raise

    def _clip(self) -> Tensor:
        """Clips the gradients. Returns their norm before that; 0 if they are not clipped."""
        if self.max_grad_norm is None:
            return torch.zeros((), device=self.accelerator.device)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = whole(self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm))
        return cast(Tensor, norm).float()


def _suspects(batches: Sequence[PreparedBatch], losses: Sequence[Tensor], loss: float) -> list[int]:
    """The numbers of the items that may have made the loss, or only its gradient, not finite."""
    blamed = list(batches)
    if not math.isfinite(loss):
        blamed = [batch for batch, own in zip(batches, losses, strict=True) if not torch.isfinite(own)]
    return [number for batch in blamed for number in batch.numbers]
