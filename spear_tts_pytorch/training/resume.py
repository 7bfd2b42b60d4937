"""Checkpoints of a training: a resumed run goes on as if it had not been interrupted.

In: a model, an optimizer, the state of the run, its folder and its fingerprint. Out: checkpoints, written and loaded. They
hold weights, optimizer, random states, the place in the data and the sums since the last record.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spear_tts_pytorch.model.saving import CARD, write_files
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.training.fingerprint import CHANGEABLE, Fingerprint, differences
from spear_tts_pytorch.training.processes import gather_objects, load_optimizer, whole_optimizer
from spear_tts_pytorch.training.run import Records, RunFolder, load_state, save_checkpoint
from spear_tts_pytorch.training.state import RunState, check_state, random_state
from spear_tts_pytorch.utils.distributed import in_first_process, locked_for_all, whole_weights
from spear_tts_pytorch.utils.files import FolderInUseError, write_whole

WriteModel = Callable[[Path], None]


@contextmanager
def folder_held(folder: RunFolder) -> Generator[None]:
    """Inside, the folder is for this run alone. Collective.

    Raises:
        RuntimeError: another run is at work in the folder.
    """
    with nullcontext() if folder.path is None else locked_for_all(folder.path):
        yield


class Checkpoints:
    """Saves, loads and resumes a run. All methods are collective: every process calls them.

    A run resumes exactly where its last checkpoint was written. Its data, batches, trained parameters and optimizer must be
    the same, else it is refused. `grad_accum_every` and the number of processes may change if their product stays;
    dropout then draws other numbers. Learning rates, schedule, weight decay, clipping and label smoothing may change: the
    trainer prints the difference. More `num_train_steps` continue along the new schedule.

    Args:
        accelerator: of the processes.
        model: is saved and loaded.
        optimizer: its prepared optimizer.
        state: is saved, and set by loading.
        folder: of the run.
        records: go back to the step that a run resumes from.
        fingerprint: of the run, see `fingerprint.py`.
        tell: prints a message in the first process.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: TextToSemantic,
        optimizer: torch.optim.Optimizer,
        state: RunState,
        folder: RunFolder,
        records: Records,
        *,
        fingerprint: Fingerprint,
        tell: Callable[[str], None],
    ):
        self.accelerator, self.model, self.optimizer, self.state = accelerator, model, optimizer, state
        self.folder, self.records, self.fingerprint, self.tell = folder, records, fingerprint, tell
        self._latest: str | None = None  # name of the checkpoint that this run found or wrote last

    def open(self, clear: bool) -> None:
        """Resumes the run in the folder, or makes the folder ready for a new run.

        Args:
            clear: removes the files of an earlier run first.

        Raises:
            OSError: the folder cannot be used.
            ValueError: it holds another run, or the processes find different checkpoints.
        """
        try:
            with folder_held(self.folder):
                self._resume(clear)
        except FolderInUseError:
            raise
        except OSError as error:
            raise type(error)(
                error.errno,
                f"results_folder {self.folder.path} cannot be used ({error}): choose one that can be written to, or "
                "None to write nothing",
            ) from error

    def _resume(self, clear: bool) -> None:
        in_first_process(self.folder.clear if clear else self.folder.recover)
        found = self.folder.latest()
        self._latest = None if found is None else found.name
        seen = gather_objects(self._latest)
        if len(set(seen)) > 1:
            raise ValueError(
                f"the processes find different checkpoints in results_folder, {seen}: give them a folder that all share"
            )
        if found is not None:
            self.load(found, check=True)
            steps = self.fingerprint[CHANGEABLE]["num_train_steps"]
            self.tell(f"resuming from {found}, {self.state.step} of {steps} steps done")

        def make_ready() -> None:
            if found is None:
                self.folder.clear()  # files of a run that stopped before its first checkpoint
            self.folder.claim(self.fingerprint)
            self.records.rewind(self.state.step)

        if self.folder.path is not None:
            in_first_process(make_ready)

    def check_still_ours(self) -> None:
        """Raises RuntimeError if another trainer has trained in the folder since this one opened it."""

        def check() -> None:
            latest = self.folder.latest()
            if (None if latest is None else latest.name) != self._latest:
                raise RuntimeError(
                    f"another trainer has written {latest} since this one was made: make this one anew, which resumes from "
                    "there, or choose another results_folder"
                )

        if self.folder.path is not None:
            in_first_process(check)

    def _everything(self) -> dict[str, Any]:
        """All that a checkpoint holds except the weights."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            **self.state.to_checkpoint(),
            "optim": whole_optimizer(self.optimizer),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": gather_objects(random_state()),
            "fingerprint": self.fingerprint,
        }

    def _model_writer(self) -> tuple[dict[str, Tensor], WriteModel]:
        """The weights as they are now, and a function that writes them and the model's configuration to a folder."""
        weights = whole_weights(self.model.state_dict())

        def write(folder: Path) -> None:
            write_files(self.model, folder, weights)
            if not (folder / CARD).exists():
                self.model.generate_model_card().save(folder / CARD)

        return weights, write

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint: a folder, or one file if the path ends in .pt."""
        path, state = Path(path), self._everything()
        weights, write = self._model_writer()

        def save() -> None:
            if path.suffix != ".pt":
                return save_checkpoint(path, write, state)
            buffer = io.BytesIO()
            cpu = {name: value.cpu() for name, value in weights.items()}
            torch.save({"model": cpu, "optim": state.pop("optim"), "trainer": state}, buffer)
            write_whole(path, buffer.getvalue())

        in_first_process(save)

    def save_step(self) -> None:
        """Writes the checkpoint of this step into the folder of the run."""
        step = self.state.step
        if self.folder.path is not None:
            state, (_, write) = self._everything(), self._model_writer()
            in_first_process(lambda: self.folder.save(step, write, state))
            self._latest = f"step-{step}"
        self.state.saved_step = step

    def save_best(self) -> None:
        """Writes the model as the best one."""
        if self.folder.path is not None:
            _, write = self._model_writer()
            in_first_process(lambda: self.folder.save_best(write))

    def load(self, path: str | Path, restore_optimizer: bool = True, *, check: bool = False) -> None:
        """Restores a checkpoint: a folder, a results folder (its latest checkpoint), or a .pt file.

        A .pt file of a release up to 0.4.8 gives its weights only: training starts with them at step 0.

        Args:
            path: of the checkpoint.
            restore_optimizer: whether to restore the optimizer, step, random states and place in the data, too.
            check: refuses a checkpoint of another run: other data, batches, trained parameters, ...

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: a checkpoint of another model, of other trained parameters or, with `check`, of another run.
        """
        path = Path(path)
        if path.is_dir():
            path = RunFolder(path).latest() or path
        state = load_state(path) if path.is_dir() and (restore_optimizer or check) else None
        if check and state is not None:
            self._check_fingerprint(state["fingerprint"], path)
        package = self.model.load(path)
        if state is None and "trainer" in package:
            try:
                state = {**package["trainer"], "optim": package.get("optim")}
                check_state(state)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} is broken ({error}): resume from another checkpoint") from error
        if restore_optimizer and state is not None:
            self._restore(state, path)

    def _check_fingerprint(self, there: Fingerprint, path: Path) -> None:
        different, changed = differences(there, self.fingerprint)
        if different:
            raise ValueError(
                f"results_folder holds {path}, of another run: {'; '.join(different)}. Choose another results_folder, "
                "or remove that run by force_clear_prev_results=True"
            )
        if changed:
            self.tell(f"the run in {path} goes on with other settings: {'; '.join(changed)}")

    def _restore(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        try:
            load_optimizer(self.optimizer, checkpoint["optim"])
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"the checkpoint {path} trained other parameters than this trainer ({error}): resume from another one"
            ) from error
        scaler: Any = getattr(self.accelerator, "scaler", None)
        if checkpoint["scaler"] is not None and scaler is not None:
            scaler.load_state_dict(checkpoint["scaler"])
        same = len(checkpoint["rng"]) == self.accelerator.num_processes
        self.state.restore(checkpoint, checkpoint["rng"][self.accelerator.process_index] if same else None)
