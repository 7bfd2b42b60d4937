"""The files of a training run: checkpoints that are whole or absent, pointers to the latest and the best, metrics.

    results_folder/checkpoints/step-{n}/   a model folder and trainer.pt (optimizer, step, random states, data position)
    results_folder/best/                   a model folder
    results_folder/latest                  which checkpoint to resume from
    results_folder/metrics.jsonl           a line for each record

In: callables that write a model, and a dictionary of state. Knows nothing of what is trained.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spear_tts_pytorch.utils.files import TEMPORARY, whole_folder, write_whole

STATE_NAME = "trainer.pt"
STATE_VERSION = 1
CHECKPOINTS, BEST, LATEST, METRICS = "checkpoints", "best", "latest", "metrics.jsonl"
RUN = "run.json"  # marks a folder as a run's own
OWN_NAMES = (CHECKPOINTS, BEST, LATEST, METRICS, RUN)
_STEP = re.compile(r"step-(\d+)")


def save_checkpoint(path: Path, write_model: Callable[[Path], None], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint folder: what `write_model` puts there, and `state`."""
    with whole_folder(path, replace=True) as folder:
        write_model(folder)
        torch.save({"version": STATE_VERSION, **state}, folder / STATE_NAME)


def load_state(path: Path) -> dict[str, Any]:
    """The state in a checkpoint folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is broken, or of a later version.
    """
    file = path / STATE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it has no {STATE_NAME}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{file} is broken ({type(error).__name__}): resume from another checkpoint") from error
    if state["version"] > STATE_VERSION:
        raise ValueError(
            f"{file} has the version {state['version']}, this one reads {STATE_VERSION}: upgrade the package"
        )
    return state


def random_state() -> dict[str, Any]:
    """The states of all random generators of this process, as plain numbers and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Sets the random generators of this process to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


class RunFolder:
    """The results folder of a run; `None` for a run that writes nothing.

    Args:
        path: made when first written to.
        keep_last: checkpoints kept, the newest ones; None keeps all.
    """

    def __init__(self, path: str | Path | None, keep_last: int | None = None):
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last must be at least 1 or None, got {keep_last}")
        self.path = None if path is None else Path(path)
        self.keep_last = keep_last

    def check(self, allow_foreign: bool = False) -> None:
        """Raises ValueError if the folder holds anything but a run's own files (unless allowed), or is none."""
        if self.path is None or not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"results_folder {self.path} is a file: choose another")
        names = sorted(path.name for path in self.path.iterdir())
        names = [name for name in names if not name.startswith(".")]
        own = RUN in names or self.latest() is not None  # plots and trackers' files may stand beside a run's own
        if names and not own and not allow_foreign:
            raise ValueError(
                f"results_folder {self.path} is not empty and no training run ({names[0]} is in it): choose another, "
                "or pass force_clear_prev_results=True to start there"
            )

    def recover(self) -> None:
        """Puts things as if whoever wrote here last had not been cut off while writing."""
        for folder in () if self.path is None else (self.path, self.path / CHECKPOINTS):
            for path in folder.glob(".*") if folder.is_dir() else ():
                match = TEMPORARY.fullmatch(path.name)
                if match and match[2] == "old" and not (folder / match[1]).exists():
                    path.rename(folder / match[1])
                elif match and path.is_dir():
                    shutil.rmtree(path)
                elif match:
                    path.unlink()

    def clear(self) -> None:
        """Removes the files of an earlier run, and nothing else."""
        if self.path is None:
            return
        for name in OWN_NAMES:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def claim(self, description: Mapping[str, Any]) -> None:
        """Makes the folder and marks it as this run's."""
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / RUN, (json.dumps(description, indent=2) + "\n").encode())

    def steps(self) -> dict[int, Path]:
        """The complete checkpoints by step."""
        folder = None if self.path is None else self.path / CHECKPOINTS
        if folder is None or not folder.is_dir():
            return {}
        found = {int(match[1]): path for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))}
        return {step: path for step, path in sorted(found.items()) if (path / STATE_NAME).is_file()}

    def latest(self) -> Path | None:
        """The checkpoint to resume from, if there is one: the one `latest` names, else the newest."""
        found = self.steps()
        if not found:
            return None
        pointer = self.path / LATEST
        name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
        return next((path for path in found.values() if path.name == name), found[max(found)])

    def save(self, step: int, write_model: Callable[[Path], None], state: Mapping[str, Any]) -> Path:
        """Writes the checkpoint of a step, removes those that are too old and points `latest` to it.

        In this order: whoever is cut off before the end resumes from the one before, and does it all again.
        """
        path = self.path / CHECKPOINTS / f"step-{step}"
        save_checkpoint(path, write_model, state)
        self._prune(step)
        write_whole(self.path / LATEST, f"{path.name}\n".encode())
        return path

    def _prune(self, step: int) -> None:
        older = {number: path for number, path in self.steps().items() if number <= step}
        first = list(older)[-self.keep_last :][0] if self.keep_last else 0
        for path in (self.path / CHECKPOINTS).iterdir():
            match = _STEP.fullmatch(path.name)
            if match and int(match[1]) < first:  # or what is left of it
                (path / STATE_NAME).unlink(missing_ok=True)  # at once no checkpoint any more
                shutil.rmtree(path)

    def save_best(self, write_model: Callable[[Path], None]) -> None:
        with whole_folder(self.path / BEST, replace=True) as folder:
            write_model(folder)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to the metrics."""
        if self.path is not None:
            with open(self.path / METRICS, "a", encoding="utf-8") as file:
                finite = {key: None if _is_nan(value) else value for key, value in record.items()}
                file.write(json.dumps(finite) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """The records up to a step; later ones, of an interrupted run, leave the file."""
        if self.path is None or not (self.path / METRICS).is_file():
            return []
        records = []
        for line in (self.path / METRICS).read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the end of a line that a crash cut off
        kept = [record for record in records if record["step"] <= step]
        write_whole(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in kept).encode())
        return kept


def _is_nan(value: Any) -> bool:
    """Whether JSON has no word for it."""
    return isinstance(value, float) and not math.isfinite(value)
