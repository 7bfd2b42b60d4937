"""What a trainer saves and how it takes it up again.

`ResumeMixin` asks the trainer for its model, optimizer, counters and `RunFolder`. A resumed run goes on as if it had
not been interrupted: weights, optimizer, random states, place in the data, records. Knows nothing of losses.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from spear_tts_pytorch.data.files import write_whole
from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.training.checkpoint import RunFolder, load_state, random_state, save_checkpoint


class ResumeMixin:
    """Saving, loading and resuming for `Trainer`."""

    def _fingerprint(self) -> dict[str, Any]:
        """What a run must share with its checkpoints to go on from them."""
        return {
            "task": self.task,
            "items": len(self.ds),
            "batch_size": self.batch_size,
            "batch_tokens": self.batch_tokens,
            "seed": self.seed,
        }

    def _open_folder(self, clear: bool) -> None:
        """Resumes the run in the results folder, or makes it ready for a new one."""
        self.run_folder.check(allow_foreign=clear)
        self.accelerator.wait_for_everyone()
        if self.is_main and clear:
            self.run_folder.clear()
        self.accelerator.wait_for_everyone()
        found = self.run_folder.latest()
        self.accelerator.wait_for_everyone()  # nobody changes the folder before all have looked
        if found is not None:
            self.load(found, check=True)
            self.print(f"resuming from {found}, {self._step} of {self.num_train_steps} steps done")
        if self.is_main and self.run_folder.path is not None:
            if found is None:
                self.run_folder.clear()  # what a run of ours left that stopped before its first checkpoint
            self.run_folder.claim(self._fingerprint())
            self.history = self.run_folder.rewind(self._step)
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        """All but the weights. Collective: every process calls it."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "step": self._step,
            "position": [self.position.epoch, self.position.batch],
            "optim": self.optim.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": gather_object([random_state()]),
            "running": dict(self._running),
            "best_valid_loss": self.best_valid_loss,
            "last_valid": self._last_valid,
            "fingerprint": self._fingerprint(),
        }

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint: a folder, or for a path that ends in .pt one file. Collective."""
        path, state = Path(path), self._state()
        if self.is_main and path.suffix == ".pt":
            weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
            buffer = io.BytesIO()
            torch.save({"model": weights, "optim": state.pop("optim"), "trainer": state}, buffer)
            write_whole(path, buffer.getvalue())
        elif self.is_main:
            save_checkpoint(path, self.model.save_pretrained, state)
        self.accelerator.wait_for_everyone()

    def _save_step(self) -> None:
        """Writes the checkpoint of this step into the results folder. Collective."""
        if self.run_folder.path is not None:
            state = self._state()
            if self.is_main:
                self.run_folder.save(self._step, self.model.save_pretrained, state)
            self.accelerator.wait_for_everyone()
        self._last_saved = self._step

    def load(self, path: str | Path, restore_optimizer: bool = True, *, check: bool = False) -> None:
        """Restores a checkpoint: a folder, a results folder (its latest), or a .pt file.

        A .pt file of a release up to 0.4.8 gives its weights only: training starts at step 0 with them.

        Args:
            restore_optimizer: also the optimizer, step, random states and place in the data.
            check: refuses a checkpoint of another task, dataset or batch size.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: a checkpoint of another model, of other trained parameters or, with `check`, of another run.
        """
        path = Path(path)
        if path.is_dir():
            path = RunFolder(path).latest() or path
        state = load_state(path) if path.is_dir() and (restore_optimizer or check) else None
        if check:
            self._check_fingerprint(state["fingerprint"], path)
        package = self.model.load(path)
        if state is None and "trainer" in package:
            state = {**package["trainer"], "optim": package["optim"]}
        if restore_optimizer and state is not None:
            self._restore(state)

    def _check_fingerprint(self, there: Mapping[str, Any], path: Path) -> None:
        different = [
            f"{key} is {there.get(key)!r} there and {value!r} here"
            for key, value in self._fingerprint().items()
            if there.get(key) != value
        ]
        if different:
            raise ValueError(
                f"results_folder holds {path}, of another run: {'; '.join(different)}. Choose another results_folder, "
                "or remove that run by force_clear_prev_results=True"
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            self.optim.load_state_dict(state["optim"])
        except ValueError as error:
            raise ValueError(f"the checkpoint trained other parameters than this trainer: {error}") from error
        if state["scaler"] is not None and getattr(self.accelerator, "scaler", None) is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._step, self.position = state["step"], Position(*state["position"])
        self.best_valid_loss, self._running = state["best_valid_loss"], dict(state["running"])
        rank = self.accelerator.process_index
        self._pending_rng = state["rng"][rank] if rank < len(state["rng"]) else None
        self._begun, self._last_saved = False, self._step
        self._last_valid = state.get("last_valid", -1)
