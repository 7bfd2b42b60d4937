"""How far a training is: its step, its place in the data, sums since the last record, the best loss, random generators.

In: the results of updates and validations. Out: plain numbers and tensors, which checkpoints hold.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.utils.json_files import REQUIRED
from spear_tts_pytorch.utils.json_files import field as checked_field

RandomState = dict[str, Any]
_NUMBER_OR_NONE = (float, type(None))
_KINDS: dict[str, Any] = {
    "step": int,
    "position": (list, tuple),
    "running": dict,
    "best_valid_loss": _NUMBER_OR_NONE,
    "best_step": (int, type(None)),
    "optim": dict,
    "scaler": (dict, type(None)),
    "rng": list,
    "fingerprint": dict,
}
_RANDOM = {"torch", "cuda", "python", "numpy"}
_SUMS = {"loss", "updates", "tokens", "seconds", "left_out"}


@dataclass
class RunningSums:
    """Sums over the updates since the last record.

    Attributes:
        loss: of their losses.
        updates: how many there were.
        tokens: ids that they used, over all processes.
        seconds: that they took.
        left_out: items that could not be used, over all processes.
    """

    loss: float = 0.0
    updates: int = 0
    tokens: int = 0
    seconds: float = 0.0
    left_out: int = 0

    def add(self, loss: float, tokens: int, seconds: float, left_out: int = 0) -> None:
        """Adds one update."""
        self.loss += loss
        self.updates += 1
        self.tokens += tokens
        self.seconds += seconds
        self.left_out += left_out

    def as_record(self, step: int, lr: float) -> dict[str, Any]:
        """The record of these updates: their mean loss, ids per second, and how many items were left out, if any."""
        speed = round(self.tokens / max(self.seconds, 1e-9))
        record = {"step": step, "loss": self.loss / self.updates, "lr": lr, "tokens_per_second": speed}
        return {**record, "left_out": self.left_out} if self.left_out else record


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        step: updates done.
        position: the place in the stream of batches.
        sums: over the updates since the last record.
        best_valid_loss, best_step: the lowest finite validation loss and its step; None before the first.
        random: random state of this process to restore before the next update; None if there is none to restore.
        begun: whether the stream of batches stands at `position`, and the random generators are set.
        saved_step: step of the last checkpoint; -1 before the first.
    """

    step: int = 0
    position: Position = Position()
    sums: RunningSums = field(default_factory=RunningSums)
    best_valid_loss: float | None = None
    best_step: int | None = None
    random: RandomState | None = None
    begun: bool = False
    saved_step: int = -1

    def pause(self, random_state: RandomState) -> None:
        """Stops the stream of batches; the next update begins at `position` with these random states."""
        self.random, self.begun = random_state, False

    def see_valid_loss(self, loss: float) -> bool:
        """Whether this validation loss is finite and the lowest so far; then it is kept as the best."""
        is_best = math.isfinite(loss) and (self.best_valid_loss is None or loss < self.best_valid_loss)
        if is_best:
            self.best_valid_loss, self.best_step = loss, self.step
        return is_best

    def to_checkpoint(self) -> dict[str, Any]:
        """The numbers that a checkpoint holds of this."""
        return {
            "step": self.step,
            "position": [self.position.epoch, self.position.batch],
            "running": asdict(self.sums),
            "best_valid_loss": self.best_valid_loss,
            "best_step": self.best_step,
        }

    def restore(self, checkpoint: Mapping[str, Any], random_state: RandomState | None) -> None:
        """Goes back to what `to_checkpoint` returned, also in releases that kept fewer or other numbers."""
        self.step, self.position = checkpoint["step"], Position(*checkpoint["position"])
        self.sums = RunningSums(**checkpoint["running"])
        self.best_valid_loss, self.best_step = checkpoint["best_valid_loss"], checkpoint.get("best_step")
        self.saved_step = self.step
        self.random, self.begun = random_state, False


def check_state(state: Mapping[str, Any]) -> None:
    """Checks what a checkpoint holds beside the weights, field by field.

    Raises:
        ValueError: a field is missing, of another type or out of range.
    """
    for name in (
        "step",
        "position",
        "running",
        "best_valid_loss",
        "best_step",
        "optim",
        "scaler",
        "rng",
        "fingerprint",
    ):
        checked_field(state, name, _KINDS[name], None if name in ("best_step", "scaler") else REQUIRED)
    numbers: list[Any] = [state["step"], *state["position"]]
    if len(numbers) != 3 or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("step and position must be integers of 0 or more")
    running: Mapping[str, Any] = state["running"]
    for name, kind in (("loss", float), ("updates", int), ("tokens", int), ("seconds", float), ("left_out", int)):
        value = running.get(name, 0 if name == "left_out" else None)  # releases up to 0.5.0 left out no items
        if not isinstance(value, (int, float) if kind is float else kind) or not set(running) <= _SUMS:
            raise ValueError(f"running must hold the numbers {', '.join(sorted(_SUMS))}")
    for name in ("state", "param_groups"):
        checked_field(cast("dict[str, Any]", state["optim"]), name, (dict, list))
    for random_state in cast("list[object]", state["rng"]):
        if not isinstance(random_state, dict) or not _RANDOM <= set(cast("dict[str, Any]", random_state)):
            raise ValueError(f"rng must hold the states of {', '.join(sorted(_RANDOM))}")
        try:
            _set_random_state(
                cast("dict[str, Any]", random_state), torch.Generator(), random.Random(), np.random.RandomState()
            )
        except Exception as error:  # the generators raise errors of many types
            raise ValueError(f"rng holds a state that no random generator takes ({error})") from error


def random_state() -> RandomState:
    """The states of all random generators of this process, as plain numbers and tensors."""
    numpy_state = cast("tuple[str, npt.NDArray[np.uint32], int, int, float]", np.random.get_state())
    kind, keys, position, has_gauss, gauss = numpy_state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Sets the random generators of this process to the states that `random_state` returned."""
    _set_random_state(state, torch.default_generator, random, np.random)
    if len(state["cuda"]) and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _set_random_state(state: Mapping[str, Any], torch_generator: torch.Generator, python: Any, numpy: Any) -> None:
    """Sets three random generators, those of `random`, `numpy.random` or others with their methods."""
    torch_generator.set_state(state["torch"])
    version, internal, gauss = state["python"]
    python.setstate((version, tuple(internal), gauss))
    kind, keys, place, *rest = state["numpy"]
    if not 0 <= place <= len(keys):  # numpy reads there unchecked
        raise ValueError(f"its place {place} is not among {len(keys)} numbers")
    numpy.set_state((kind, keys.numpy().astype(np.uint32), place, *rest))
