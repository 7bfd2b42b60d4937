"""The files of a training run: checkpoints that are complete or absent, pointers to the latest and the best, metrics.

    results_folder/checkpoints/step-{n}/   a model folder and trainer.pt (optimizer, step, random states, data position)
    results_folder/best/                   a model folder
    results_folder/latest                  the name of the checkpoint to resume from
    results_folder/metrics.jsonl           a line for each record
    results_folder/run.json                a description of the run, see `fingerprint.py`

In: functions that write a model into a folder, dictionaries of state, records. Out: the files.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from spear_tts_pytorch.model.saving import CARD
from spear_tts_pytorch.model.saving import NAMES as MODEL_FILES
from spear_tts_pytorch.training.state import check_state
from spear_tts_pytorch.utils.files import clear_leftovers, write_whole
from spear_tts_pytorch.utils.json_files import field, parse_object, word_of
from spear_tts_pytorch.utils.replacing import replaced, whole
from spear_tts_pytorch.utils.restricted import load_tensors
from spear_tts_pytorch.utils.values import absolute_path, whole_number

STATE_NAME = "trainer.pt"
STATE_VERSION = 1
CHECKPOINTS, BEST, LATEST, METRICS = "checkpoints", "best", "latest", "metrics.jsonl"
RUN = "run.json"  # marks a folder as one of a training run
OWN_NAMES = (CHECKPOINTS, BEST, LATEST, METRICS, RUN)
_STEP = re.compile(r"step-(\d+)")


def save_checkpoint(path: Path, write_model: Callable[[Path], None], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint folder: the files of `write_model`, and `state`. An edited model card and files of others stay.

    Raises:
        OSError: a file cannot be written, for example on a full disk. A former checkpoint stays.
    """
    with replaced(path, (*MODEL_FILES, STATE_NAME), keep=(CARD,)) as folder:
        write_model(folder)
        try:
            torch.save({"version": STATE_VERSION, **state}, folder / STATE_NAME)
        except RuntimeError as error:  # torch's word for a full disk
            reason = str(error).partition("\n")[0]
            raise OSError(
                f"{path / STATE_NAME} cannot be written ({reason}): make room, or choose another folder"
            ) from error


def load_state(path: Path) -> dict[str, Any]:
    """The state in a checkpoint folder.

    Raises:
        FileNotFoundError: the folder holds no state.
        ValueError: the state is broken, or of a later version.
    """
    file = whole(path, MODEL_FILES[0]) / STATE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it has no {STATE_NAME}")
    try:
        state = load_tensors(file)
        if not isinstance(state, dict):
            raise ValueError(f"it holds {word_of(state)}")
        found = cast("dict[str, Any]", state)
        version = field(found, "version", int)
        if version <= STATE_VERSION:
            check_state(found)
    except ValueError as error:
        raise ValueError(f"{file} is broken ({error}): resume from another checkpoint") from error
    if version > STATE_VERSION:
        raise ValueError(f"{file} has the version {version}, this package reads {STATE_VERSION}: upgrade the package")
    return found


class RunFolder:
    """The results folder of a run.

    Args:
        path: is made at the first write; None for a run that writes nothing.
        keep_last: newest checkpoints that are kept; None keeps all.

    Raises:
        TypeError, ValueError: `path` is no path, or `keep_last` no whole number of at least 1.
    """

    def __init__(self, path: str | Path | None, keep_last: int | None = None):
        self.path = None if path is None else absolute_path("results_folder", path, also=" or None")
        self.keep_last = None if keep_last is None else whole_number("keep_last", keep_last, 1, also=" or None")

    def check(self, allow_foreign: bool = False) -> None:
        """Raises ValueError if `path` is a file, or (unless `allow_foreign`) a folder with files but without a run."""
        if self.path is None or not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"results_folder {self.path} is a file: choose another")
        names = sorted(path.name for path in self.path.iterdir())
        names = [name for name in names if not name.startswith(".")]
        own = RUN in names or self.latest() is not None  # plots and files of trackers may stand beside
        if names and not own and not allow_foreign:
            raise ValueError(
                f"results_folder {self.path} is not empty and no training run ({names[0]} is in it): choose another, "
                "or pass force_clear_prev_results=True to start there"
            )

    def recover(self) -> None:
        """Repairs interrupted writes: moves the old copy back if the new one is missing, deletes temporary files."""
        for folder in () if self.path is None else (self.path, self.path / CHECKPOINTS):
            clear_leftovers(folder, alone=True)

    def clear(self) -> None:
        """Removes the files of an earlier run and leaves all others."""
        if self.path is None:
            return
        for name in OWN_NAMES:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def claim(self, description: Mapping[str, Any]) -> None:
        """Makes the folder and writes the description of its run, `run.json`."""
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
        """The checkpoint to resume from: the one that `latest` names, else the newest; None if there is none."""
        found = self.steps()
        if self.path is None or not found:
            return None
        pointer = self.path / LATEST
        name = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
        return next((path for path in found.values() if path.name == name), found[max(found)])

    def save(self, step: int, write_model: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Writes the checkpoint of a step, removes checkpoints that are too old, and then points `latest` to the new one.

        A run that is cut off before the end resumes from the former checkpoint and does these again.
        """
        if self.path is None:
            return
        path = self.path / CHECKPOINTS / f"step-{step}"
        if path.is_symlink():
            path.unlink()  # the link; its target belongs to somebody else
        save_checkpoint(path, write_model, state)
        self._prune(path.parent, step)
        write_whole(self.path / LATEST, f"{path.name}\n".encode())

    def _prune(self, folder: Path, step: int) -> None:
        older = [number for number in self.steps() if number <= step]
        first = older[-self.keep_last :][0] if self.keep_last else 0
        for path in folder.iterdir():
            match = _STEP.fullmatch(path.name)
            if match and int(match[1]) < first and path.is_symlink():
                path.unlink()  # the link; its target belongs to somebody else
            elif match and int(match[1]) < first:  # also the rest of one that was removed in part
                (path / STATE_NAME).unlink(missing_ok=True)  # from now on it is no checkpoint
                shutil.rmtree(path)

    def save_best(self, write_model: Callable[[Path], None]) -> None:
        """Writes the best model, in place of the former one."""
        if self.path is not None:
            path = self.path / BEST
            if path.is_symlink():
                path.unlink()  # as in `save`
            with replaced(path, MODEL_FILES, keep=(CARD,)) as folder:
                write_model(folder)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to the metrics."""
        if self.path is not None:
            with open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps({key: _as_json(value) for key, value in record.items()}) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """The records up to a step. Later ones, of an interrupted run, are removed from the file.

        Raises:
            ValueError: a line of the file is no record.
        """
        if self.path is None or not (self.path / METRICS).is_file():
            return []
        records = _read_records(self.path / METRICS)
        kept = [record for record in records if record["step"] <= step]
        write_whole(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in kept).encode())
        return kept


class Records:
    """The records of a run, in memory and in the file of its folder.

    Args:
        folder: its `metrics.jsonl` gets every record.
        writes: whether this process writes; one process does.

    Attributes:
        history: the records from the first on.
    """

    def __init__(self, folder: RunFolder, writes: bool = True):
        self.folder, self.writes = folder, writes
        self.history: list[dict[str, Any]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record."""
        self.history.append(record)
        if self.writes:
            self.folder.append(record)

    def rewind(self, step: int) -> None:
        """Takes the records of the file up to a step and removes the others."""
        self.history = self.folder.rewind(step)


def _read_records(path: Path) -> list[dict[str, Any]]:
    """The records in a file of metrics, without the last one if a crash cut it off."""
    *lines, rest = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_object(line)
            field(record, "step", int)
        except ValueError as error:
            raise ValueError(
                f"{path} line {number} is no record of a training ({error}): remove the line, or move the file away"
            ) from error
        records.append(record)
    if rest.strip():  # a line without its end
        with contextlib.suppress(ValueError):
            record = parse_object(rest)
            field(record, "step", int)
            records.append(record)
    return records


def _as_json(value: Any) -> Any:
    """None for NaN and infinity, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
