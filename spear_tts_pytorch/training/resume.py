"""What a trainer saves and how it takes it up again.

`ResumeMixin` asks the trainer for its model, optimizer, counters and `RunFolder`. A resumed run goes on as if it had
not been interrupted: weights, optimizer, random states, place in the data, records. Knows nothing of losses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, set_seed
from torch import Tensor

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.training.processes import load_optimizer, on_main, whole_optimizer
from spear_tts_pytorch.training.run import (
    RunFolder,
    load_state,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from spear_tts_pytorch.utils.distributed import whole_weights
from spear_tts_pytorch.utils.files import FolderInUseError, locked, write_whole

CHANGEABLE = "may change"  # the part of a fingerprint that a resumed run need not share
SAMPLED_ITEMS = 8  # items read to tell a dataset from others


class ResumeMixin:
    """Saving, loading and resuming for `Trainer`.

    A run resumes where its last checkpoint left it, exactly. What it trains on, how that is batched, what it trains and by
    which optimizer must be as they were, or it is refused; `grad_accum_every` and the number of processes may change as
    long as their product does not (dropout then draws other numbers). What only steers it may change, and is reported:
    learning rates and schedule, which are functions of the step (more `num_train_steps` go on, along the new curve),
    weight decay, clipping, label smoothing.
    """

    def _fingerprint(self) -> dict[str, Any]:
        """What a run must share with its checkpoints to go on from them, and what it may change."""
        scheduler = dataclasses.asdict(self.scheduler)
        return {
            "task": self.task,
            "items": len(self.ds),
            "data": self._data_hash,
            "batch_size": self.batches.batch_size,
            "batch_tokens": self.batch_tokens,
            "drop_last": self.batches.drop_last,
            "batches per update (grad_accum_every times processes)": self._batches_per_update,
            "mixture": None if self.mixture is None else list(self.mixture),
            "seed": self.seed,
            "optimizer": self.optimizer_kind,
            "trained parameters": digest(sorted(self.trainable)),
            "options of the stage": dict(self.stage_options),
            CHANGEABLE: {
                **scheduler,
                "wd": self.wd,
                "max_grad_norm": self.max_grad_norm,
                "label_smoothing": self.label_smoothing,
                "dropout": self.dropout,
                "processes": self.accelerator.num_processes,
                "precision": str(self.accelerator.mixed_precision),
            },
        }

    @property
    def _batches_per_update(self) -> int:
        return self.grad_accum_every * self.accelerator.num_processes

    @contextmanager
    def _folder_held(self) -> Iterator[None]:
        """The results folder, for this run alone. Collective."""
        with ExitStack() as stack:
            if self.run_folder.path is not None:
                on_main(self.accelerator, lambda: stack.enter_context(locked(self.run_folder.path)))
            yield

    def _open_folder(self, clear: bool) -> None:
        """Resumes the run in the results folder, or makes it ready for a new one."""
        on_main(self.accelerator, lambda: self.run_folder.check(allow_foreign=clear))
        self._data_hash = data_hash(self.ds)
        try:
            with self._folder_held():
                self._resume(clear)
        except FolderInUseError:
            raise
        except OSError as error:
            raise type(error)(
                error.errno,
                f"results_folder {self.run_folder.path} cannot be used ({error}): choose one that can be written to, or "
                "None to write nothing",
            ) from error

    def _resume(self, clear: bool) -> None:
        on_main(self.accelerator, self.run_folder.clear if clear else self.run_folder.recover)
        found = self.run_folder.latest()
        self._found = None if found is None else found.name
        seen = gather_object([self._found])
        if len(set(seen)) > 1:
            raise ValueError(
                f"the processes find different checkpoints in results_folder, {seen}: give them a folder that all share"
            )
        if found is not None:
            self.load(found, check=True)
            self.print(f"resuming from {found}, {self._step} of {self.num_train_steps} steps done")

        def make_ready() -> None:
            if found is None:
                self.run_folder.clear()  # what a run of ours left that stopped before its first checkpoint
            self.run_folder.claim(self._fingerprint())
            self.history = self.run_folder.rewind(self._step)

        if self.run_folder.path is not None:
            on_main(self.accelerator, make_ready)

    def _check_still_ours(self) -> None:
        """Raises RuntimeError if another trainer has trained in the results folder since this one opened it. Collective."""

        def check() -> None:
            latest = self.run_folder.latest()
            if (None if latest is None else latest.name) != self._found:
                raise RuntimeError(
                    f"another trainer has written {latest} since this one was made: make this one anew, which resumes from "
                    "there, or choose another results_folder"
                )

        if self.run_folder.path is not None:
            on_main(self.accelerator, check)

    def _state(self) -> dict[str, Any]:
        """All but the weights. Collective: every process calls it."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "step": self._step,
            "position": [self.position.epoch, self.position.batch],
            "optim": whole_optimizer(self.optim),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": gather_object([random_state()]),
            "running": dict(self._running),
            "best_valid_loss": self.best_valid_loss,
            "best_step": self.best_step,
            "last_valid": self._last_valid,
            "fingerprint": self._fingerprint(),
        }

    def _model_writer(self) -> tuple[dict[str, Tensor], Callable[[Path], None]]:
        """The weights as they are now, and what writes them and the model's configuration to a folder. Collective."""
        weights = whole_weights(self.model.state_dict())

        def write(folder: Path) -> None:
            self.model.write_pretrained(folder, weights)
            self.model.generate_model_card().save(folder / "README.md")

        return weights, write

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint: a folder, or for a path that ends in .pt one file. Collective."""
        path, state = Path(path), self._state()
        weights, write = self._model_writer()

        def save() -> None:
            if path.suffix != ".pt":
                return save_checkpoint(path, write, state)
            buffer = io.BytesIO()
            cpu = {name: value.cpu() for name, value in weights.items()}
            torch.save({"model": cpu, "optim": state.pop("optim"), "trainer": state}, buffer)
            write_whole(path, buffer.getvalue())

        on_main(self.accelerator, save)

    def _save_step(self) -> None:
        """Writes the checkpoint of this step into the results folder. Collective."""
        if self.run_folder.path is not None:
            state, (_, write) = self._state(), self._model_writer()
            on_main(self.accelerator, lambda: self.run_folder.save(self._step, write, state))
            self._found = f"step-{self._step}"
        self._last_saved = self._step

    def _save_once(self) -> None:
        if self._last_saved != self._step:
            self._save_step()

    def _save_best(self) -> None:
        """Writes the model as the best. Collective."""
        if self.run_folder.path is not None:
            _, write = self._model_writer()
            on_main(self.accelerator, lambda: self.run_folder.save_best(write))

    def load(self, path: str | Path, restore_optimizer: bool = True, *, check: bool = False) -> None:
        """Restores a checkpoint: a folder, a results folder (its latest), or a .pt file.

        A .pt file of a release up to 0.4.8 gives its weights only: training starts at step 0 with them.

        Args:
            restore_optimizer: also the optimizer, step, random states and place in the data.
            check: refuses a checkpoint of another run: other data, batches, trained parameters, ...

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: a checkpoint of another model, of other trained parameters or, with `check`, of another run.
        """
        path = Path(path)
        if path.is_dir():
            path = RunFolder(path).latest() or path
        state = load_state(path) if path.is_dir() and (restore_optimizer or check) else None
        if check:
            self._check_fingerprint(dict(state["fingerprint"]), path)
        package = self.model.load(path)
        if state is None and "trainer" in package:
            state = {**package["trainer"], "optim": package["optim"]}
        if restore_optimizer and state is not None:
            self._restore(state)

    def _check_fingerprint(self, there: dict[str, Any], path: Path) -> None:
        here = self._fingerprint()
        changed = _differences(there.pop(CHANGEABLE, {}), here.pop(CHANGEABLE))
        different = _differences(there, here)
        if not different and changed:
            self.print(f"the run in {path} goes on with other settings: {'; '.join(changed)}")
        if different:
            raise ValueError(
                f"results_folder holds {path}, of another run: {'; '.join(different)}. Choose another results_folder, "
                "or remove that run by force_clear_prev_results=True"
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            load_optimizer(self.optim, state["optim"])
        except ValueError as error:
            raise ValueError(f"the checkpoint trained other parameters than this trainer: {error}") from error
        if state["scaler"] is not None and getattr(self.accelerator, "scaler", None) is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._step, self.position = state["step"], Position(*state["position"])
        self.best_valid_loss, self._running = state["best_valid_loss"], dict(state["running"])
        self.best_step = state.get("best_step")
        same = len(state["rng"]) == self.accelerator.num_processes
        self._pending_rng = state["rng"][self.accelerator.process_index] if same else None
        self._begun, self._last_saved = False, self._step
        self._last_valid = state.get("last_valid", -1)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Of what both know."""
    return [
        f"{key} is {there[key]!r} there and {value!r} here"
        for key, value in here.items()
        if key in there and there[key] != value
    ]


def digest(value: Any) -> str:
    """A short hash of names, texts, ids `[n]`, or of the length of a waveform `[t]`, in lists and tuples."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = torch.as_tensor(value)
        return list(value.shape) if value.is_floating_point() else value.tolist()
    return value if isinstance(value, (str, int, float)) else type(value).__name__


def data_hash(dataset: Any) -> str:
    """A hash of a few items of a dataset, from all over it; of items that are never the same twice, nothing.

    Items that are drawn from the global random generators are drawn with a fixed seed here, which changes nothing outside.
    """
    places = {round(i * (len(dataset) - 1) / (SAMPLED_ITEMS - 1)) for i in range(SAMPLED_ITEMS)}
    before, pairs = random_state(), []
    try:
        for place in sorted(places):
            twice = []
            for _ in range(2):
                set_seed(place)
                twice.append(digest(dataset[place]))
            pairs.append(twice)
    finally:
        restore_random_state(before)
    return digest([once for once, again in pairs if once == again])
