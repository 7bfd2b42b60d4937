"""One update: its batches, over all processes and accumulated, are one mean loss, whose gradient is clipped and applied.

`UpdateMixin` asks the trainer for batches, `run_step`, weights of batches and the optimizer. Out: the loss. Two processes
do what one does with twice the rows. Knows nothing of what is being learned, nor of files.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from accelerate.utils import gather_object
from torch import Tensor

from spear_tts_pytorch.data.loader import count_tokens
from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform
from spear_tts_pytorch.training.signals import SIGNALS
from spear_tts_pytorch.utils.distributed import whole
from spear_tts_pytorch.utils.noise import row_keys


class UpdateMixin:
    """Updates, for `Trainer`."""

    @torch.no_grad()
    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device, its speech as `semantic` ids `[b, n]`.

        Raises:
            ValueError: it is waveforms, and there is no tokenizer for them.
        """
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        if "wave" in batch:
            tokenizer = self.model.wav2vec if self.wav2vec is None else self.wav2vec
            if tokenizer is None:
                raise ValueError("the dataset gives waveforms, which the model cannot tokenize: pass it wav2vec")
            wave, lengths = batch.pop("wave"), batch.pop("wave_lengths")
            batch["semantic"] = tokenize_waveform(tokenizer, wave, lengths).to(self.device)
        return batch

    def _next_batches(self) -> tuple[list[dict[str, Tensor]], list[list[int]]]:
        """The batches of an update, and the numbers of their items.

        The noise of a row depends on seed, step and item, and not on which rows it shares a batch with.
        """
        batches, items = [], []
        for _ in range(self.grad_accum_every):
            batch = next(self.dl_iter)
            number = batch.pop("number")
            items.append(number.tolist())
            batches.append(self.prepare({**batch, "row_keys": row_keys(number, self.seed or 0, self._step)}))
        return batches, items

    def _update(self, lr: float) -> tuple[float, int]:
        """One update; its loss, and its ids over all processes.

        Batches weigh by their target ids, so that the gradient is that of a single batch of all of them.
        """
        self.optim.zero_grad()  # what a failed update left
        batches, items = self._next_batches()
        weights = [self._weight(batch) for batch in batches]
        tokens = sum(count_tokens(batch, self.model.pad_id) for batch in batches)
        total, tokens = self._sum(torch.tensor([sum(weights), tokens], dtype=torch.float32)).tolist()
        world = self.accelerator.num_processes
        for group in self.optim.param_groups:
            group["lr"] = lr
        loss_sum, losses = torch.zeros((), device=self.device), []
        for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            more = number + 1 < len(batches)
            with self.accelerator.no_sync(self.train_wrapper) if more else nullcontext():
                loss = self._loss(batch)
                self.accelerator.backward(loss * (weight * world / total))
            losses.append(loss.detach())
            loss_sum += loss.detach() * (weight / total)
        loss_value = self._share_news(loss_sum)
        norm = self._clip()
        scaled = getattr(self.accelerator, "scaler", None) is not None  # a scaler skips such updates by itself
        if not math.isfinite(loss_value) or not (scaled or math.isfinite(norm)):
            self.optim.zero_grad()
            bad = [own for own, loss in zip(items, losses, strict=True) if not torch.isfinite(loss)]
            self._stop_at_nan(loss_value, sum(bad if not math.isfinite(loss_value) else items, []))
        self.optim.step()
        self.optim.zero_grad()
        return loss_value, int(tokens)

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        try:
            return self.run_step(self.train_wrapper, batch)[0]
        except Exception as error:
            if self.compile and type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"compile=True failed ({reason}): torch.compile needs a C++ compiler, such as g++; leave compile out to "
                    "train without"
                ) from error
            raise

    def _share_news(self, loss: Tensor) -> float:
        """The loss over all processes; whether one of them was asked to stop comes with it."""
        loss_value, *asked = self._sum(torch.stack([loss.float(), *self._asked().to(loss.device)])).tolist()
        self._stop = _first(asked)
        return loss_value

    def _share_stop(self) -> None:
        """Whether a process was asked to stop. Collective."""
        self._stop = _first(self._sum(self._asked()).tolist())

    def _asked(self) -> Tensor:
        return torch.tensor([float(self._signals.received == number) for number in SIGNALS])

    def _clip(self) -> float:
        """Clips the gradients; their norm before, 0 where they are not clipped."""
        if self.max_grad_norm is None:
            return 0.0
        parameters = [parameter for group in self.optim.param_groups for parameter in group["params"]]
        return float(whole(self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm)))

    def _stop_at_nan(self, loss: float, numbers: list[int]) -> None:
        items, saved = gather_object(sorted(self.batches.names(numbers))), self.run_folder.latest()
        raise FloatingPointError(
            f"the loss is {loss}, or its gradient not finite, at step {self._step} (epoch {self.position.epoch}, batch "
            f"{self.position.batch}: items {items} of the dataset); the weights are those before it"
            + (f", the last checkpoint is {saved}" if saved else "")
            + ". Lower lr, warm up for longer, or look at these items"
        )

    def _sum(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value.to(self.device), reduction="sum")


def _first(asked: list[float]) -> int | None:
    """The first of the signals that somebody received."""
    return next((number for number, count in zip(SIGNALS, asked, strict=True) if count), None)
