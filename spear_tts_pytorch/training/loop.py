"""One training loop for all stages: accumulation, clipping, schedule, validation, checkpoints, metrics, resuming.

In: a model, a module with the stage's loss, a dataset and a collate; a subclass says in `run_step` how a batch becomes
a loss. Out: trained weights, `history`, and the files of `checkpoint.py`. Knows nothing of what is being learned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import Collate, Position, count_targets, count_tokens
from spear_tts_pytorch.tokens import Modality
from spear_tts_pytorch.training.batches import TrainingBatches, rows_per_process, split_dataset
from spear_tts_pytorch.training.checkpoint import RunFolder, restore_random_state
from spear_tts_pytorch.training.resume import ResumeMixin
from spear_tts_pytorch.training.schedule import Schedule, ScheduleKind, make_optimizer, parameter_groups
from spear_tts_pytorch.training.seeing import SeeingMixin

VALID_SEED = 0  # corruption of the validation set is the same at every check
NOTHING_YET = {"loss": 0.0, "updates": 0, "tokens": 0, "seconds": 0.0}  # sums since the last record


def noop(*args: Any, **kwargs: Any) -> None:
    pass


class Trainer(ResumeMixin, SeeingMixin):
    """What all trainers do; a subclass is a stage of the recipe.

    Args:
        model: what is trained: its parameters with `requires_grad`.
        train_wrapper: module holding `model`, called by `run_step`.
        dataset: items for `collate`; any number from 1 on.
        collate: items to a batch, a dictionary of tensors.
        num_train_steps, num_warmup_steps: updates, and those of them with a rising learning rate.
        batch_size: items per batch and process; per batch of all processes together with `split_batches`.
        batch_tokens: ids per batch and process instead, padding included; `batch_size` is then the most items.
        lr, initial_lr, min_lr, schedule: see `Schedule`.
        grad_accum_every: batches per update.
        wd: weight decay.
        max_grad_norm: gradients are clipped to this norm; None does not.
        valid_dataset: validated on; without it a share `valid_frac` of `dataset`, drawn with `random_split_seed`, or
            `dataset` itself where that share is nothing.
        label_smoothing: of the model during this training; None leaves the model's own.
        log_every, save_results_every, save_model_every: updates between records, validations and checkpoints; 0 or None
            for never (but for the end, where the model is saved).
        keep_last: newest checkpoints kept; None keeps all.
        results_folder: where files go; None writes nothing. A folder with checkpoints of the same run is resumed.
        force_clear_prev_results: removes an earlier run's files from it and starts anew.
        accelerate_kwargs: for `accelerate.Accelerator`.
        drop_last: leaves out the last, smaller batch of an epoch (`batch_size` only).
        seed: of weights' noise, corruption and order; None leaves the random generators alone.
        num_workers: processes that load data.
        progress: shows a bar, on terminals.

    Attributes:
        history: the records also found in metrics.jsonl: `step`, and `loss`, `lr`, `tokens_per_second` or `valid_loss`.

    Raises:
        ValueError: an empty dataset, a bad option, or a results folder with something else in it.
    """

    task = "trainer"
    target: Modality = "speech"

    def __init__(
        self,
        model: Any,
        train_wrapper: nn.Module,
        dataset: Dataset | None,
        collate: Collate,
        *,
        num_train_steps: int,
        num_warmup_steps: int,
        batch_size: int | None = None,
        lr: float = 3e-4,
        initial_lr: float = 1e-5,
        grad_accum_every: int = 1,
        wd: float = 0.0,
        max_grad_norm: float | None = 0.5,
        valid_frac: float = 0.05,
        random_split_seed: int = 42,
        log_every: int = 10,
        save_results_every: int | None = 100,
        save_model_every: int | None = 1000,
        results_folder: str | Path | None = "./results",
        accelerate_kwargs: dict[str, Any] = {},  # noqa: B006 (never changed)
        split_batches: bool = False,
        drop_last: bool = False,
        force_clear_prev_results: bool | None = None,
        batch_tokens: int | None = None,
        label_smoothing: float | None = None,
        min_lr: float = 0.0,
        schedule: ScheduleKind = "cosine",
        valid_dataset: Dataset | None = None,
        seed: int | None = 42,
        num_workers: int = 0,
        progress: bool = True,
        keep_last: int | None = 3,
    ):
        if grad_accum_every < 1:
            raise ValueError(f"grad_accum_every must be at least 1, got {grad_accum_every}")
        self.scheduler = Schedule(lr, num_train_steps, num_warmup_steps, initial_lr, min_lr, schedule)
        self.accelerator = make_accelerator(accelerate_kwargs)
        self.model, self.collate = model, collate
        self.num_train_steps, self.num_warmup_steps = num_train_steps, num_warmup_steps
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.lr, self.initial_lr, self.grad_accum_every = lr, initial_lr, grad_accum_every
        self.max_grad_norm, self.label_smoothing, self.seed = max_grad_norm, label_smoothing, seed
        self.log_every, self.progress = log_every, progress
        self.save_results_every, self.save_model_every = save_results_every, save_model_every
        self.samples_per_token = int(getattr(model.wav2vec, "downsample_factor", None) or 320)

        self._step, self.position, self.best_valid_loss = 0, Position(), None
        self._running = dict(NOTHING_YET)
        self._last_valid, self._last_saved = -1, -1
        self._pending_rng, self._begun = None, False
        self.history: list[dict[str, Any]] = []

        self.ds, self.valid_ds = split_dataset(dataset, valid_dataset, valid_frac, random_split_seed)
        self.batches = TrainingBatches(
            self.ds,
            self.valid_ds,
            collate,
            batch_size=rows_per_process(batch_size, self.accelerator.num_processes if split_batches else 1),
            batch_tokens=batch_tokens,
            drop_last=drop_last,
            seed=seed or 0,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            samples_per_token=self.samples_per_token,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
        )
        self.trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        model.to(self.device)
        self.optim = make_optimizer(parameter_groups(model, wd), lr)
        self.train_wrapper, self.optim = self.accelerator.prepare(train_wrapper, self.optim)
        self.run_folder = RunFolder(results_folder, keep_last)
        self.results_folder = self.run_folder.path
        self._open_folder(force_clear_prev_results is True)
        self.accelerator.init_trackers(self.task, config={"num_train_steps": num_train_steps, "learning_rate": lr})

    # what a stage adds

    def run_step(self, wrapper: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, a mean over its target ids; `wrapper` is the train wrapper to call."""
        raise NotImplementedError

    # what other code reads

    @property
    def steps(self) -> Tensor:
        """Updates done, int64 `[1]`."""
        return torch.tensor([self._step])

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def is_local_main(self) -> bool:
        return self.accelerator.is_local_main_process

    @property
    def is_distributed(self) -> bool:
        return self.accelerator.distributed_type != DistributedType.NO or self.accelerator.num_processes > 1

    @property
    def dl(self) -> DataLoader | None:
        """The loader of training batches, once training has begun."""
        return self.batches.dl

    @property
    def valid_dl(self) -> DataLoader:
        return self.batches.valid_dl

    def print(self, msg: str) -> None:
        """Prints on the first process, if `progress`."""
        if self.progress:
            self.accelerator.print(msg)

    def warmup(self, step: int) -> float:
        return self.scheduler.warmup(step)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `generate`."""
        return self.model.generate(*args, **kwargs)

    # training

    def _begin(self) -> None:
        """Before the first update here, however long after construction: other trainers may have run in between."""
        self._apply_trainable()
        if self._pending_rng is not None:
            restore_random_state(self._pending_rng)
        elif self.seed is not None:
            set_seed(self.seed + self._step, device_specific=True)
        self._pending_rng, self._begun = None, True
        self.dl_iter = self.batches.iterate(self.position)

    def _apply_trainable(self) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.trainable)

    @contextmanager
    def _smoothing(self, label_smoothing: float | None) -> Iterator[None]:
        """A label smoothing for the model inside, its own afterwards."""
        before = self.model.label_smoothing
        self.model.label_smoothing = before if label_smoothing is None else label_smoothing
        try:
            yield
        finally:
            self.model.label_smoothing = before

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _weight(self, batch: dict[str, Tensor]) -> int:
        """What the mean loss of a batch counts for: its target ids."""
        return count_targets(batch, self.target, self.model.pad_id, self.samples_per_token)

    def _update(self, lr: float) -> tuple[float, int]:
        """One update; its loss, and its ids over all processes.

        Batches weigh by their target ids, so that the gradient is that of a single batch of all of them, where the loss
        is a mean over these ids: not quite so for CTC, nor for pretraining on the deleted ids alone.
        """
        batches = [next(self.dl_iter) for _ in range(self.grad_accum_every)]
        weights = [self._weight(batch) for batch in batches]
        tokens = sum(count_tokens(batch, self.model.pad_id, self.samples_per_token) for batch in batches)
        total, tokens = self._sum(torch.tensor([sum(weights), tokens])).tolist()
        world = self.accelerator.num_processes
        for group in self.optim.param_groups:
            group["lr"] = lr
        loss_sum = torch.zeros((), device=self.device)
        for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            more = number + 1 < len(batches)
            with self.accelerator.no_sync(self.train_wrapper) if more else nullcontext():
                loss = self.run_step(self.train_wrapper, self._to_device(batch))
                self.accelerator.backward(loss * (weight * world / total))
            loss_sum += loss.detach() * (weight / total)
        loss_value = float(self._sum(loss_sum[None]))
        norm = None
        if self.max_grad_norm is not None:
            parameters = [parameter for group in self.optim.param_groups for parameter in group["params"]]
            norm = self.accelerator.clip_grad_norm_(parameters, self.max_grad_norm)
        scaled = getattr(self.accelerator, "scaler", None) is not None  # a scaler skips such updates by itself
        if not math.isfinite(loss_value) or (norm is not None and not scaled and not math.isfinite(float(norm))):
            self.optim.zero_grad()
            self._stop_at_nan(loss_value)
        self.optim.step()
        self.optim.zero_grad()
        return loss_value, tokens

    def _stop_at_nan(self, loss: float) -> None:
        saved = self.run_folder.latest()
        raise FloatingPointError(
            f"the loss is {loss}, or its gradient not finite, at step {self._step} (epoch {self.position.epoch}, batch "
            f"{self.position.batch}); the weights are those before it"
            + (f", the last checkpoint is {saved}" if saved else "")
            + ". Lower lr, warm up for longer, or look at that batch"
        )

    def _sum(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value.to(self.device), reduction="sum")

    def train_step(self) -> dict[str, Any]:
        """One update and what is due after it: a record, validation, a checkpoint. Returns `step`, `loss` and `lr`."""
        if not self._begun:
            self._begin()
        start = time.perf_counter()
        self.model.train()
        self.train_wrapper.train()
        lr = self.scheduler(self._step)
        with self._smoothing(self.label_smoothing):
            loss, tokens = self._update(lr)
        self._step += 1
        used = self.grad_accum_every * self.accelerator.num_processes
        self.position = self.position.advance(self.batches.sampler, used)
        seconds = time.perf_counter() - start
        for key, value in (("loss", loss), ("updates", 1), ("tokens", tokens), ("seconds", seconds)):
            self._running[key] += value
        logs = {"step": self._step, "loss": loss, "lr": lr}
        self.accelerator.log({"train_loss": loss, "lr": lr}, step=self._step)
        if self._due(self.log_every):
            self._log(lr)
        if self._due(self.save_results_every):
            logs["valid_loss"] = self.validate()
        if self._due(self.save_model_every):
            self._save_step()
        return logs

    def _due(self, every: int | None) -> bool:
        return bool(every) and self._step % every == 0

    def _record(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        if self.is_main:
            self.run_folder.append(record)

    def _log(self, lr: float) -> None:
        """Records the mean loss since the last record."""
        running = self._running
        speed = running["tokens"] / max(running["seconds"], 1e-9)
        self._record(
            {
                "step": self._step,
                "loss": running["loss"] / running["updates"],
                "lr": lr,
                "tokens_per_second": round(speed),
            }
        )
        self._running = dict(NOTHING_YET)

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss per target id, without label smoothing, over the whole validation set and all processes.

        Where it is the lowest so far, the model goes to `best/`.
        """
        wrapper = self.accelerator.unwrap_model(self.train_wrapper)
        was_training = wrapper.training
        wrapper.eval()
        totals = torch.zeros(2, dtype=torch.float64, device="cpu")
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self._smoothing(0.0):
            for number, batch in enumerate(self.batches.valid_dl):
                # Each batch has noise of its own, whichever process takes it.
                place = number * self.accelerator.num_processes + self.accelerator.process_index
                torch.manual_seed(VALID_SEED + place)
                loss, weight = float(self.run_step(wrapper, self._to_device(batch))), self._weight(batch)
                totals += torch.tensor([loss * weight, weight], dtype=torch.float64)
        wrapper.train(was_training)
        loss_sum, weight = self._sum(totals.float()).tolist()
        valid_loss = loss_sum / weight
        is_best = self.best_valid_loss is None or valid_loss < self.best_valid_loss
        self._record({"step": self._step, "valid_loss": valid_loss, "best": is_best})
        self.accelerator.log({"valid_loss": valid_loss}, step=self._step)
        if is_best:
            self.best_valid_loss = valid_loss
            if self.is_main and self.run_folder.path is not None:
                self.run_folder.save_best(self.model.save_pretrained)
        self._last_valid = self._step
        return valid_loss

    def _shown(self, logs: dict[str, Any]) -> dict[str, str]:
        speeds = (record["tokens_per_second"] for record in reversed(self.history) if "tokens_per_second" in record)
        return {
            "loss": f"{logs['loss']:.3f}", "lr": f"{logs['lr']:.1e}", "tokens/s": f"{next(speeds, 0):,}"
        }  # fmt: skip

    def train(self, log_fn: Callable[[dict[str, Any]], None] = noop) -> None:
        """Trains to the end, then validates and saves once more. `log_fn` gets what `train_step` returns.

        Raises:
            FloatingPointError: a loss that is not finite; the weights and checkpoints before it stay.
        """
        self._apply_trainable()
        hidden = None if self.progress and self.is_main else True
        with tqdm(total=self.num_train_steps, initial=self._step, desc=self.task, disable=hidden) as bar:
            while self._step < self.num_train_steps:
                logs = self.train_step()
                log_fn(logs)
                bar.update()
                bar.set_postfix(self._shown(logs), refresh=False)
        if self._last_valid != self._step and self.save_results_every:
            self.validate()
        if self._last_saved != self._step:
            self._save_step()
        for tracker in self.accelerator.trackers:  # not end_training, which takes the other trainers' processes along
            tracker.finish()


def make_accelerator(options: dict[str, Any]) -> Accelerator:
    """An accelerator that does not mind others with other precisions in this process."""
    state = AcceleratorState._shared_state
    wanted = options.get("mixed_precision")
    if state and state.get("_mixed_precision") != (wanted or "no"):
        AcceleratorState._shared_state = {}  # the others keep theirs
    handlers = list(options.get("kwargs_handlers") or [])
    if not any(isinstance(handler, DistributedDataParallelKwargs) for handler in handlers):
        # Each stage leaves some parts out (text tables in pretraining, heads not asked for).
        handlers.append(DistributedDataParallelKwargs(find_unused_parameters=True))
    return Accelerator(**{**options, "kwargs_handlers": handlers})
