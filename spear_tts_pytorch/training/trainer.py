"""One training loop for all stages: accumulation, clipping, schedule, records, and when to validate, save and stop.

In: a model, a module with the stage's loss, a dataset and a collate; a subclass says in `run_step` how a batch becomes
a loss. Out: trained weights, `history`, and the files of `checkpoint.py`. One process with accumulated batches and many
processes do the same. Knows nothing of what is being learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import Collate, Position
from spear_tts_pytorch.tokens import Modality, append_eos, valid_mask
from spear_tts_pytorch.training.batches import Mixture, TrainingBatches, rows_per_process, split_dataset
from spear_tts_pytorch.training.plots import SeeingMixin
from spear_tts_pytorch.training.processes import make_accelerator
from spear_tts_pytorch.training.resume import ResumeMixin
from spear_tts_pytorch.training.run import RunFolder, random_state, restore_random_state
from spear_tts_pytorch.training.schedule import (
    OptimizerKind,
    Schedule,
    ScheduleKind,
    make_optimizer,
    parameter_groups,
)
from spear_tts_pytorch.training.signals import StopSignals, stop
from spear_tts_pytorch.training.update import UpdateMixin
from spear_tts_pytorch.training.validation import ValidationMixin

NOTHING_YET = {"loss": 0.0, "updates": 0, "tokens": 0, "seconds": 0.0}  # sums since the last record


def noop(*args: Any, **kwargs: Any) -> None:
    pass


class Trainer(UpdateMixin, ValidationMixin, ResumeMixin, SeeingMixin):
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
        label_smoothing, dropout: of the model during this training; None leaves the model's own.
        log_every, save_results_every, save_model_every: updates between records, validations and checkpoints; 0 or None
            for never (but for the end, where the model is saved).
        keep_last: newest checkpoints kept; None keeps all.
        results_folder: where files go; None writes nothing. A folder with checkpoints of the same run is resumed, see
            `ResumeMixin`; it is for one run at a time.
        force_clear_prev_results: removes an earlier run's files from it and starts anew.
        accelerate_kwargs: for `accelerate.Accelerator`.
        drop_last: leaves out the last, smaller batch of an epoch (`batch_size` only).
        seed: of dropout, corruption and order; None leaves the random generators alone, and is 0 for the others.
        num_workers: processes that load data.
        progress: shows a bar, on terminals.
        optimizer: "adamw" or "adafactor", see `make_optimizer`.
        compile: compiles the training forward by `torch.compile`, which needs a C++ compiler; names in state dicts stay.
        valid_generate: how many validation items to generate at each validation, for their error rate; needs jiwer.

    Attributes:
        history: the records also found in metrics.jsonl: `step`, and `loss`, `lr`, `tokens_per_second` or what `validate`
            found.

    Raises:
        ValueError: an empty dataset, a bad option, or a results folder with something else in it.
        RuntimeError: another run is at work in the results folder.
    """

    task = "trainer"
    source: Modality | None = None
    target: Modality = "speech"
    wav2vec: Any = None  # tokenizer of waveforms, if not the model's
    stage_options: dict[str, Any] = {}  # of the objective; a run is resumed with the same ones  # noqa: RUF012
    mixture: tuple[int, float] | None = None  # of how many items the first kind is, and its share; set by a stage

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
        optimizer: OptimizerKind = "adamw",
        compile: bool = False,
        valid_generate: int = 0,
        dropout: float | None = None,
    ):
        if dropout is not None and not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, or None for the model's own, got {dropout}")
        if grad_accum_every < 1:
            raise ValueError(f"grad_accum_every must be at least 1, got {grad_accum_every}")
        self.scheduler = Schedule(lr, num_train_steps, num_warmup_steps, initial_lr, min_lr, schedule)
        self.accelerator = make_accelerator(accelerate_kwargs)
        self.model, self.collate = model, collate
        self.num_train_steps, self.num_warmup_steps = num_train_steps, num_warmup_steps
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.lr, self.initial_lr, self.grad_accum_every = lr, initial_lr, grad_accum_every
        self.max_grad_norm, self.label_smoothing, self.seed = max_grad_norm, label_smoothing, seed
        self.dropout, self.log_every, self.progress = dropout, log_every, progress
        self.save_results_every, self.save_model_every = save_results_every, save_model_every
        self.optimizer_kind, self.wd, self.compile, self.valid_generate = optimizer, wd, compile, valid_generate
        tokenizer = model.wav2vec if self.wav2vec is None else self.wav2vec
        self.samples_per_token = int(getattr(tokenizer, "downsample_factor", None) or 320)

        self._step, self.position, self.best_valid_loss, self.best_step = 0, Position(), None, None
        self._check_validation()
        if optimizer == "adafactor" and self.accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(
                "optimizer='adafactor' needs whole weights, which fully sharded training has not: use 'adamw'"
            )
        self._signals, self._stop = StopSignals(), None
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
            places=None if self.ds is dataset else self.ds.indices,
            draw=None if self.mixture is None else Mixture.of(self.ds, dataset, *self.mixture),
            seed=seed or 0,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            samples_per_token=self.samples_per_token,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
        )
        self.trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        model.to(self.device)
        self.optim = make_optimizer(parameter_groups(model, wd), lr, optimizer)
        if compile:
            train_wrapper.compile(dynamic=True)
        self.train_wrapper, self.optim = self.accelerator.prepare(train_wrapper, self.optim)
        self.run_folder = RunFolder(results_folder, keep_last)
        self.results_folder = self.run_folder.path
        self._open_folder(force_clear_prev_results is True)

    # what a stage adds

    def run_step(self, wrapper: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The loss of a prepared batch, a mean over its target ids, and logits; `wrapper` is the train wrapper to call."""
        raise NotImplementedError

    def targets(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The target ids `[b, n]` that logits `[b, n, v]` are of; None if they are of something else."""
        ids, modality = batch["text" if self.target == "text" else "semantic"], self.target
        if not self.model.autoset_eos_id[modality]:
            return ids
        return append_eos(ids, self.model.eos_id[modality], self.model.pad_id[modality])

    def _weight(self, batch: dict[str, Tensor]) -> float:
        """What the mean loss of a batch counts for: its target ids."""
        return float(valid_mask(self.targets(batch), self.model.pad_id[self.target]).sum())

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

    @contextmanager
    def _own_dropout(self) -> Iterator[None]:
        """The dropout of this training inside, the model's afterwards."""
        parts = [] if self.dropout is None else list(self.model.modules())
        places = [(part, "p") for part in parts if isinstance(part, nn.Dropout)]
        places += [(part, "dropout") for part in parts if isinstance(getattr(part, "dropout", None), (int, float))]
        before = [getattr(part, name) for part, name in places]
        for part, name in places:
            setattr(part, name, self.dropout)
        try:
            yield
        finally:
            for (part, name), value in zip(places, before, strict=True):
                setattr(part, name, value)

    def train_step(self) -> dict[str, Any]:
        """One update and what is due after it: a record, validation, a checkpoint. Returns `step`, `loss` and `lr`."""
        if not self._begun:
            self._begin()
        start = time.perf_counter()
        self.model.train()
        self.train_wrapper.train()
        lr = self.scheduler(self._step)
        before = random_state()
        try:
            with self._smoothing(self.label_smoothing), self._own_dropout():
                loss, tokens = self._update(lr)
        except BaseException:
            self._pending_rng, self._begun = before, False  # whoever goes on begins with the same batches
            raise
        self._step += 1
        self.position = self.position.advance(self.batches.sampler, self._batches_per_update)
        seconds = time.perf_counter() - start
        for key, value in (("loss", loss), ("updates", 1), ("tokens", tokens), ("seconds", seconds)):
            self._running[key] += value
        logs = {"step": self._step, "loss": loss, "lr": lr}
        self.accelerator.log({"train_loss": loss, "lr": lr}, step=self._step)
        if self._due(self.log_every):
            self._log(lr)
        is_last = self._step == self.num_train_steps
        if self._due(self.save_results_every) or (is_last and self.save_results_every):
            logs["valid_loss"] = self.validate()
            self._share_stop()  # it may have taken long
        if self._due(self.save_model_every) or is_last:
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

    def _shown(self, logs: dict[str, Any]) -> dict[str, str]:
        speeds = (record["tokens_per_second"] for record in reversed(self.history) if "tokens_per_second" in record)
        return {
            "loss": f"{logs['loss']:.3f}", "lr": f"{logs['lr']:.1e}", "tokens/s": f"{next(speeds, 0):,}"
        }  # fmt: skip

    def train(self, log_fn: Callable[[dict[str, Any]], None] = noop) -> None:
        """Trains to the end, then validates and saves once more. `log_fn` gets what `train_step` returns.

        SIGINT and SIGTERM end it after the step at hand, with a checkpoint of it, in all processes.

        Raises:
            FloatingPointError: a loss that is not finite; the weights and checkpoints before it stay.
            KeyboardInterrupt, SystemExit: after SIGINT and SIGTERM.
            RuntimeError: another run is at work in the results folder.
        """
        with self._folder_held(), self._signals.noted():
            self._check_still_ours()
            with self._tracked():
                self._train(log_fn)

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """Trackers at work, which finish also after an error: those of several trainers would be one run otherwise."""
        config = {"num_train_steps": self.num_train_steps, "learning_rate": self.lr}
        self.accelerator.init_trackers(self.task, config=config)
        try:
            yield
        finally:
            for (
                tracker
            ) in self.accelerator.trackers:  # not end_training, which takes the other trainers' processes along
                tracker.finish()
            self.accelerator.trackers = []

    def _train(self, log_fn: Callable[[dict[str, Any]], None]) -> None:
        self._apply_trainable()
        hidden = None if self.progress and self.is_main else True
        with tqdm(total=self.num_train_steps, initial=self._step, desc=self.task, disable=hidden) as bar:
            while self._step < self.num_train_steps:
                logs = self.train_step()
                log_fn(logs)
                bar.update()
                bar.set_postfix(self._shown(logs), refresh=False)
                if self._stop is not None:
                    break
        self._save_once()
        self._share_stop()
        # the loader's processes end; whoever calls train again goes on from here
        self._pending_rng, self._begun, self.dl_iter = random_state(), False, None
        if self._stop is not None:
            raise stop(self._stop)
