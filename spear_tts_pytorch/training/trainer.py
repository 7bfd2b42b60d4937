"""The training loop of all stages: updates, records, and when to validate, save and stop.

In: a model, the objective of a stage, a dataset, a collate, and `TrainingOptions`. Out: trained weights, `history`, and the
files of `run.py`. One process with accumulated batches does the same as many processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import DistributedType, set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import Collate, Position, SizedDataset
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.training import processes, settings
from spear_tts_pytorch.training.batches import BatchSizes, Objective, Preparation, TrainingBatches
from spear_tts_pytorch.training.fingerprint import fingerprint
from spear_tts_pytorch.training.mixture import Mixture, Split, split_dataset
from spear_tts_pytorch.training.options import FixedOption, TrainingOptions
from spear_tts_pytorch.training.plots import alignment_of, plot_run
from spear_tts_pytorch.training.resume import Checkpoints, folder_held
from spear_tts_pytorch.training.run import Records, RunFolder
from spear_tts_pytorch.training.schedule import make_optimizer, parameter_groups
from spear_tts_pytorch.training.signals import StopSignals, stop
from spear_tts_pytorch.training.state import RunningSums, RunState, random_state, restore_random_state
from spear_tts_pytorch.training.update import NotFiniteError, Update, UpdateResult
from spear_tts_pytorch.training.validation import Validation, check_generation
from spear_tts_pytorch.utils.distributed import in_first_process

Logs = dict[str, Any]


def noop(logs: Logs) -> None:
    """Does nothing with the logs of a step."""


class Trainer:
    """The loop of all trainers. A subclass is a stage of the recipe: it gives the objective and the items.

    Args:
        model: its parameters with `requires_grad` are trained.
        objective: the loss.
        dataset: items for `collate`, at least one.
        collate: items to a batch.
        options: all other choices.
        wav2vec: tokenizer of waveforms; the model's own if None.
        mixture: number of real items, which come first in `dataset`, and their share in an epoch.
        stage_options: options of the objective, which a resumed run must share.

    Attributes:
        steps: updates done, int64 `[1]`.
        history: the records also found in metrics.jsonl: `step`, and `loss`, `lr`, `tokens_per_second` or the results of
            `validate`.
        ds, valid_ds: the datasets to train and to validate on.
        dl, valid_dl: their loaders.
        optim, scheduler: the optimizer, and the learning rate as a function of the step.
        train_wrapper: the module with the loss, which holds `model`.
        results_folder: folder of the files; None if there are none.
        batches, update, validation, checkpoints, signals, state: the parts of this trainer.

    Raises:
        ValueError: an empty dataset, options that do not fit together, or a results folder with other files.
        RuntimeError: another run is at work in the results folder.
    """

    task: ClassVar[str] = "trainer"
    num_warmup_steps, lr, initial_lr = FixedOption[int](), FixedOption[float](), FixedOption[float]()
    batch_size, batch_tokens = FixedOption[int | None](), FixedOption[int | None]()
    max_grad_norm = FixedOption[float | None]()

    def __init__(
        self,
        model: TextToSemantic,
        objective: Objective,
        dataset: SizedDataset | None,
        collate: Collate,
        options: TrainingOptions,
        *,
        wav2vec: Any = None,
        mixture: tuple[int, float] | None = None,
        stage_options: Mapping[str, Any] | None = None,
    ):
        self.options, self.model, self.collate, self.wav2vec = options, model, collate, wav2vec
        self.num_train_steps = options.num_train_steps
        self.grad_accum_every, self.seed, self.progress = options.grad_accum_every, options.seed, options.progress
        self.label_smoothing, self.dropout, self.log_every = options.label_smoothing, options.dropout, options.log_every
        self.save_results_every, self.save_model_every = options.save_results_every, options.save_model_every
        self.stage_options, self.mixture = dict(stage_options or {}), mixture
        self.scheduler = options.make_schedule()
        self.accelerator = processes.make_accelerator(options.accelerate_kwargs)
        check_generation(options.valid_generate, objective.source, objective.target, model, self.accelerator)
        processes.check_optimizer(options.optimizer, self.accelerator)
        self.state, self.signals = RunState(), StopSignals()
        split = split_dataset(dataset, options.valid_dataset, options.valid_frac, options.random_split_seed)
        self.ds, self.valid_ds = split.train, split.valid
        self.batches = self._make_batches(split, objective)
        self.trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        model.to(self.device)
        optimizer = make_optimizer(parameter_groups(model, options.wd), options.lr, options.optimizer)
        if options.compile:
            objective.wrapper.compile(dynamic=True)
        self.train_wrapper, self.optim = processes.prepared(self.accelerator, objective.wrapper, optimizer)
        trained = self.accelerator, self.train_wrapper, self.optim, self.signals
        self.update = Update(*trained, options.max_grad_norm, options.compile)
        validated = self.accelerator, model, self.train_wrapper, self.batches
        self.validation = Validation(*validated, collate, options.valid_generate)
        self.run_folder = RunFolder(options.results_folder, options.keep_last)
        self.results_folder = self.run_folder.path
        self.records = Records(self.run_folder, self.is_main)
        self.checkpoints = self._open_folder(clear=options.force_clear_prev_results is True)

    def _make_batches(self, split: Split, objective: Objective) -> TrainingBatches:
        prepare = Preparation(self.model, objective, self.device, self.wav2vec)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        sizes = BatchSizes.of(self.options, getattr(prepare.tokenizer, "downsample_factor", None), world)
        draw = None if self.mixture is None else Mixture.of(split, *self.mixture)
        return TrainingBatches(split, self.collate, prepare, sizes, rank, world, draw=draw)

    def _open_folder(self, clear: bool) -> Checkpoints:
        """Resumes the run in the results folder, or makes it ready for a new one."""
        in_first_process(lambda: self.run_folder.check(allow_foreign=clear))
        described = fingerprint(
            self.options,
            self.accelerator,
            task=self.task,
            batches=self.batches,
            mixture=self.mixture,
            trained=self.trainable,
            stage_options=self.stage_options,
        )
        parts = self.accelerator, self.model, self.optim, self.state, self.run_folder, self.records
        checkpoints = Checkpoints(*parts, fingerprint=described, tell=self.print)
        checkpoints.open(clear)
        return checkpoints

    # what users read

    @property
    def steps(self) -> Tensor:
        """Updates done, int64 `[1]`."""
        return torch.tensor([self.state.step])

    @property
    def history(self) -> list[Logs]:
        """All records, from the first step on."""
        return self.records.history

    @property
    def position(self) -> Position:
        """The place in the stream of batches."""
        return self.state.position

    @property
    def best_valid_loss(self) -> float | None:
        """The lowest validation loss so far."""
        return self.state.best_valid_loss

    @property
    def best_step(self) -> int | None:
        """The step of the lowest validation loss so far."""
        return self.state.best_step

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the first of all."""
        return self.accelerator.is_main_process

    @property
    def is_local_main(self) -> bool:
        """Whether this process is the first on its machine."""
        return self.accelerator.is_local_main_process

    @property
    def is_distributed(self) -> bool:
        """Whether several processes train."""
        return self.accelerator.distributed_type != DistributedType.NO or self.accelerator.num_processes > 1

    @property
    def dl(self) -> DataLoader[Any] | None:
        """The loader of training batches; None before training."""
        return self.batches.dl

    @property
    def dl_iter(self) -> Iterator[dict[str, Tensor]] | None:
        """The endless iterator over training batches; None outside training."""
        return self.batches.dl_iter

    @dl_iter.setter
    def dl_iter(self, batches: Iterator[dict[str, Tensor]] | None) -> None:
        self.batches.dl_iter = batches

    @property
    def valid_dl(self) -> DataLoader[Any]:
        """The loader of validation batches."""
        return self.batches.valid_dl

    def __repr__(self) -> str:
        place = "no results folder" if self.results_folder is None else str(self.results_folder)
        step = f"step {self.state.step} of {self.num_train_steps}"
        return f"{type(self).__name__}({step}, {len(self.ds)} items, {place})"

    def print(self, msg: str) -> None:
        """Prints in the first process, if `progress`."""
        if self.progress:
            self.accelerator.print(msg)

    def warmup(self, step: int) -> float:
        """The learning rate of the warm-up alone."""
        return self.scheduler.warmup(step)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model's `generate`."""
        return self.model.generate(*args, **kwargs)

    # training

    def train(self, log_fn: Callable[[Logs], None] = noop) -> None:
        """Trains to the end, then validates and saves once more.

        SIGINT and SIGTERM end it in all processes after the current step, with a checkpoint of that step.

        Args:
            log_fn: gets the result of each `train_step`.

        Raises:
            FloatingPointError: a loss that is not finite; the weights and checkpoints before it stay.
            KeyboardInterrupt, SystemExit: after SIGINT and SIGTERM.
            RuntimeError: another run is at work in the results folder, or another process failed.
        """
        config = {"num_train_steps": self.num_train_steps, "learning_rate": self.lr}
        with processes.sharing_failures(self.accelerator), folder_held(self.run_folder), self.signals.noted():
            self.checkpoints.check_still_ours()
            with processes.tracked(self.accelerator, self.task, config):
                self._train(log_fn)

    def _train(self, log_fn: Callable[[Logs], None]) -> None:
        settings.train_only(self.model, self.trainable)
        hidden = None if self.progress and self.is_main else True
        with tqdm(total=self.num_train_steps, initial=self.state.step, desc=self.task, disable=hidden) as bar:
            while self.state.step < self.num_train_steps:
                logs = self.train_step()
                log_fn(logs)
                bar.update()
                bar.set_postfix(self._shown(logs), refresh=False)
                if self.signals.agreed is not None:
                    break
        if self.state.saved_step != self.state.step:
            self.checkpoints.save_step()
        self._share_stop()
        self.batches.end()
        self.state.pause(random_state())  # for another call of `train`
        if self.signals.agreed is not None:
            raise stop(self.signals.agreed)

    def train_step(self) -> Logs:
        """One update, and then a record, a validation and a checkpoint, if they are due.

        Returns:
            `step`, `loss`, `lr` and, after a validation, `valid_loss`.
        """
        if not self.state.begun:
            self._begin()
        start = time.perf_counter()
        lr = self.scheduler(self.state.step)
        result = self._update(lr)
        self.state.step += 1
        per_update = self.grad_accum_every * self.accelerator.num_processes
        self.state.position = self.state.position.advance(self.batches.sampler, per_update)
        self.state.sums.add(result.loss, result.tokens, time.perf_counter() - start, result.left_out)
        logs: Logs = {"step": self.state.step, "loss": result.loss, "lr": lr}
        self.accelerator.log({"train_loss": result.loss, "lr": lr}, step=self.state.step)
        if self._due(self.log_every):
            self.records.add(self.state.sums.as_record(self.state.step, lr))
            self.state.sums = RunningSums()
        is_last = self.state.step == self.num_train_steps
        if self._due(self.save_results_every) or (is_last and self.save_results_every):
            logs["valid_loss"] = self.validate()
            self._share_stop()  # a validation may take long
        if self._due(self.save_model_every) or is_last:
            self.checkpoints.save_step()
        return logs

    def _begin(self) -> None:
        """Prepares the first update after construction, loading or an interruption: other trainers may have run since."""
        settings.train_only(self.model, self.trainable)
        if self.state.random is not None:
            restore_random_state(self.state.random)
        elif self.seed is not None:
            set_seed(self.seed + self.state.step, device_specific=True)
        self.state.random, self.state.begun = None, True
        self.batches.begin(self.state.position)

    def _update(self, lr: float) -> UpdateResult:
        self.model.train()
        self.train_wrapper.train()
        before = random_state()
        try:
            batches = self.batches.take(self.grad_accum_every, self.state.step)
            smoothing = settings.label_smoothing(self.model, self.label_smoothing)
            with smoothing, settings.dropout(self.model, self.dropout):
                return self.update(batches, lr)
        except NotFiniteError as error:
            self.state.pause(before)
            items = processes.gather_objects(sorted(self.batches.names(error.numbers)))
            message = error.located(self.state.step, self.position, items, self.run_folder.latest())
            raise FloatingPointError(message) from error
        except BaseException:
            self.state.pause(before)  # another call of `train_step` begins with the same batches
            raise

    def _due(self, every: int | None) -> bool:
        return bool(every) and self.state.step % every == 0

    def _shown(self, logs: Logs) -> dict[str, str]:
        speeds = (record["tokens_per_second"] for record in reversed(self.history) if "tokens_per_second" in record)
        return {"loss": f"{logs['loss']:.3f}", "lr": f"{logs['lr']:.1e}", "tokens/s": f"{next(speeds, 0):,}"}

    def _share_stop(self) -> None:
        """Lets all processes know of a request to stop that one of them received. Collective."""
        self.signals.agree(processes.read_sums(self.accelerator, torch.tensor(self.signals.asked())))

    # validation and files

    def validate(self) -> float:
        """Validates, records the result, and writes the model to `best/` if its loss is the lowest so far. Collective.

        The record holds `accuracy`, the share of target ids with the highest logit (where logits are of targets), and with
        `valid_generate` the error rate of generated ids or characters in percent.

        Returns:
            The mean loss per target id, without label smoothing, over the whole validation set and all processes.
        """
        record = self.validation.measure()
        loss = record["valid_loss"]
        is_best = self.state.see_valid_loss(loss)
        if is_best:
            self.checkpoints.save_best()
        elif self.best_valid_loss is not None:
            self.print(
                f"step {self.state.step}: validation loss {loss:.4f} is not below the {self.best_valid_loss:.4f} of step "
                f"{self.best_step}, whose model stays the best"
            )
        self.records.add({"step": self.state.step, **record, "best": is_best, "best_step": self.best_step})
        self.accelerator.log(record, step=self.state.step)
        return loss

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint: a folder, or one file if the path ends in .pt. Collective."""
        self.checkpoints.save(path)

    def load(self, path: str | Path, restore_optimizer: bool = True, *, check: bool = False) -> None:
        """Restores a checkpoint: a folder, a results folder (its latest checkpoint), or a .pt file. Collective.

        Args:
            path: of the checkpoint. A .pt file of a release up to 0.4.8 gives its weights only.
            restore_optimizer: whether to restore all the rest, too: optimizer, step, random states, place in the data.
            check: refuses a checkpoint of another run: other data, batches, trained parameters, ...

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: a checkpoint of another model, of other trained parameters or, with `check`, of another run.
        """
        self.checkpoints.load(path, restore_optimizer, check=check)

    def plot(self, path: str | Path | None = None) -> list[Path]:
        """Draws `curves.png` (losses, accuracies, learning rate) and `alignment.png` (cross-attention). Collective.

        The cross-attention is that of the first validation item, averaged over layers and heads. Text runs to the right
        and speech upwards. In pretraining the source runs to the right and the target upwards.

        Args:
            path: folder for the files, made if need be; the results folder by default.

        Returns:
            The paths of the files; the first process writes them, and in others the list is empty.

        Raises:
            ValueError: no `path` and no results folder, or no records.
            ImportError: matplotlib is not installed.
        """
        folder = self.results_folder if path is None else Path(path)
        if folder is None:
            raise ValueError("path is missing: give plot a folder, since this run has no results_folder")
        alignment = alignment_of(self.model, self.validation.wrapper, self.batches.first_valid())
        if not self.is_main:
            return []
        return plot_run(folder, f"{self.task}, step {self.state.step}", self.history, alignment)
