"""The options that all trainers share: names, defaults, checks and their description.

In: a trainer's keywords. Out: a frozen `TrainingOptions` that has checked itself, and the signatures and docstrings of the
trainers, which list every option. `TrainingKeywords` names the same options for editors and type checkers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, get_args, get_type_hints

from typing_extensions import Required, TypedDict

from spear_tts_pytorch.data.loader import SizedDataset
from spear_tts_pytorch.training.schedule import OptimizerKind, Schedule, ScheduleKind
from spear_tts_pytorch.training.settings import trained_as_before_on_error
from spear_tts_pytorch.utils.arguments import check_keywords
from spear_tts_pytorch.utils.values import (
    absolute_path,
    number_of_items,
    one_of,
    real_number,
    shown,
    switch,
    whole_number,
)

OnError = Literal["raise", "skip"]
MOST_SEED = 2**32 - 1  # of NumPy's global generator
MOST_NUMBER = 2**63 - 1  # of steps and of ids, as tensors hold them
MOST_WORKERS = 4096
# Whole numbers: the least and the highest value (None: there is none), and whether None is allowed.
WHOLE_NUMBERS: Mapping[str, tuple[int | None, int | None, bool]] = {
    "num_train_steps": (1, MOST_NUMBER, False),
    "num_warmup_steps": (0, MOST_NUMBER, False),
    "batch_size": (1, MOST_NUMBER, True),
    "grad_accum_every": (1, MOST_NUMBER, False),
    "random_split_seed": (-(2**63), 2**64 - 1, False),  # of torch's generators
    "log_every": (0, None, True),
    "save_results_every": (0, None, True),
    "save_model_every": (0, None, True),
    "batch_tokens": (1, MOST_NUMBER, True),
    "seed": (0, MOST_SEED, True),
    "num_workers": (0, MOST_WORKERS, False),
    "keep_last": (1, None, True),
    "valid_generate": (0, None, False),
}
# Numbers: bounds as keywords of `real_number`, and whether None is allowed.
NUMBERS: Mapping[str, tuple[Mapping[str, float], bool]] = {
    "lr": ({"above": 0}, False),
    "initial_lr": ({"least": 0}, False),
    "wd": ({"least": 0}, False),
    "max_grad_norm": ({"above": 0}, True),
    "min_lr": ({"least": 0}, False),
    "valid_frac": ({"least": 0, "below": 1}, False),
    "label_smoothing": ({"least": 0, "below": 1}, True),
    "dropout": ({"least": 0, "below": 1}, True),
}
SWITCHES = ("split_batches", "drop_last", "progress", "compile")


class TrainingKeywords(TypedDict, total=False):
    """The keywords of `TrainingOptions`, for `**training: Unpack[TrainingKeywords]`."""

    num_train_steps: Required[int]
    num_warmup_steps: Required[int]
    batch_size: int | None
    lr: float
    initial_lr: float
    grad_accum_every: int
    wd: float
    max_grad_norm: float | None
    valid_frac: float
    random_split_seed: int
    log_every: int | None
    save_results_every: int | None
    save_model_every: int | None
    results_folder: str | Path | None
    accelerate_kwargs: Mapping[str, Any]
    split_batches: bool
    drop_last: bool
    force_clear_prev_results: bool | None
    batch_tokens: int | None
    label_smoothing: float | None
    min_lr: float
    schedule: ScheduleKind
    valid_dataset: SizedDataset | None
    seed: int | None
    num_workers: int
    progress: bool
    keep_last: int | None
    optimizer: OptimizerKind
    compile: bool
    valid_generate: int
    dropout: float | None
    on_error: OnError


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What all trainers let you choose.

    Args:
        num_train_steps (required): updates of the whole training.
        num_warmup_steps (required): first updates, in which the learning rate rises; 0 to `num_train_steps`.
        batch_size (default None): items in a batch of one process. Give it, or `batch_tokens`, or both.
        lr (default 0.0003): learning rate at the end of the warm-up.
        initial_lr (default 1e-05): learning rate of the first update, if there is a warm-up.
        grad_accum_every (default 1): batches in an update of one process.
        wd (default 0.0): weight decay of matrices; vectors and embeddings have none.
        max_grad_norm (default 0.5): gradients are clipped to this norm; None clips nothing.
        valid_frac (default 0.05): share of `dataset` to validate on, at least 0 and below 1. If it is less than one item,
            the trainer validates on `dataset` itself.
        random_split_seed (default 42): draws that share.
        log_every (default 10): updates between two records of loss, learning rate and speed; 0 or None for no records.
        save_results_every (default 100): updates between two validations; 0 or None for none.
        save_model_every (default 1000): updates between two checkpoints; 0 or None for one at the end only.
        results_folder (default './results'): folder of all files; None writes nothing. A folder with checkpoints of the
            same run is resumed. It is for one run at a time.
        accelerate_kwargs (default {}): keywords of `accelerate.Accelerator`, such as `{"mixed_precision": "bf16"}`.
        split_batches (default False): whether all processes share a batch of `batch_size` items.
        drop_last (default False): whether to leave out the last, smaller batch of an epoch; for `batch_size` alone.
        force_clear_prev_results (default None): True removes the files of an earlier run from `results_folder` and starts
            anew.
        batch_tokens (default None): ids in a batch of one process, padding included. Items of similar length stand
            together; `batch_size` is then the most items.
        label_smoothing (default None): of the loss in this training, at least 0 and below 1; None keeps the model's own.
        min_lr (default 0.0): learning rate that the schedule falls to.
        schedule (default 'cosine'): learning rate after the warm-up: 'cosine', 'inverse_sqrt' or 'constant', see
            `Schedule`.
        valid_dataset (default None): items to validate on, instead of a share of `dataset`.
        seed (default 42): of dropout, corruption and order. None leaves the random generators as they are, and is 0 for
            corruption and order.
        num_workers (default 0): processes that load data; 0 loads in the process that trains.
        progress (default True): whether to print messages and show a bar.
        keep_last (default 3): newest checkpoints that are kept; None keeps all.
        optimizer (default 'adamw'): 'adamw' or 'adafactor', see `make_optimizer`.
        compile (default False): whether to compile the training forward pass by `torch.compile`, which needs a C++
            compiler. Names in state dicts stay.
        valid_generate (default 0): validation items for which ids are generated at each validation, to record their
            error rate in percent; needs pairs, and jiwer for texts.
        dropout (default None): of all parts of the model in this training, at least 0 and below 1; None keeps the
            model's own.
        on_error (default 'raise'): 'raise' stops at an item that cannot be read or used, such as a silent clip, and names
            it. 'skip' leaves such items out, warns of the first five, and counts them as `left_out` in the records;
            `trainer.batches.items.skipped` has all reasons. If no item can be used, or none of 1,000 in a row, that is an
            error.

    Raises:
        TypeError: a number is of another kind.
        ValueError: an option is out of range.
    """

    num_train_steps: int
    num_warmup_steps: int
    batch_size: int | None = None
    lr: float = 3e-4
    initial_lr: float = 1e-5
    grad_accum_every: int = 1
    wd: float = 0.0
    max_grad_norm: float | None = 0.5
    valid_frac: float = 0.05
    random_split_seed: int = 42
    log_every: int | None = 10
    save_results_every: int | None = 100
    save_model_every: int | None = 1000
    results_folder: str | Path | None = "./results"
    accelerate_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    split_batches: bool = False
    drop_last: bool = False
    force_clear_prev_results: bool | None = None
    batch_tokens: int | None = None
    label_smoothing: float | None = None
    min_lr: float = 0.0
    schedule: ScheduleKind = "cosine"
    valid_dataset: SizedDataset | None = None
    seed: int | None = 42
    num_workers: int = 0
    progress: bool = True
    keep_last: int | None = 3
    optimizer: OptimizerKind = "adamw"
    compile: bool = False
    valid_generate: int = 0
    dropout: float | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Makes each option a plain Python value.

        Raises:
            TypeError, ValueError: an option of a wrong kind or out of range: its name, its value, what it may be.
        """
        for name, (least, most, optional) in WHOLE_NUMBERS.items():
            self._set(name, optional, whole_number, least=least, most=most)
        for name, (bounds, optional) in NUMBERS.items():
            self._set(name, optional, real_number, **bounds)
        for name in SWITCHES:
            self._set(name, False, switch)
        self._set("force_clear_prev_results", True, switch)
        self._set("results_folder", True, absolute_path)
        if self.batch_size is None and self.batch_tokens is None:
            raise ValueError("batch_size or batch_tokens must be given")
        one_of("optimizer", self.optimizer, get_args(OptimizerKind))
        one_of("schedule", self.schedule, get_args(ScheduleKind))
        one_of("on_error", self.on_error, get_args(OnError))
        if self.valid_dataset is not None:
            number_of_items("valid_dataset", self.valid_dataset)
        keywords = self.accelerate_kwargs
        if not isinstance(cast(object, keywords), Mapping) or not all(isinstance(one, str) for one in keywords):
            raise TypeError(f"accelerate_kwargs must be keywords of Accelerator by name, got {shown(keywords)}")
        self.make_schedule()

    def _set(self, name: str, optional: bool, check: Callable[..., object], **bounds: float | None) -> None:
        """Checks an option and keeps what `check` returns."""
        value: object = getattr(self, name)
        if value is not None or not optional:
            also = {"also": " or None"} if optional else {}
            object.__setattr__(self, name, check(name, value, **bounds, **also))

    def make_schedule(self) -> Schedule:
        """The learning rate as a function of the step."""
        steps = self.num_train_steps, self.num_warmup_steps
        return Schedule(self.lr, *steps, self.initial_lr, self.min_lr, self.schedule)


def options_of(trainer: object, training: Mapping[str, Any]) -> TrainingOptions:
    """The options that a trainer's keywords give.

    Raises:
        TypeError: a keyword that the trainer does not take, or a required one is missing.
        ValueError: as `TrainingOptions`.
    """
    name = type(trainer).__name__
    check_keywords(name, TrainingKeywords, training)
    missing = [
        option.name for option in fields(TrainingOptions) if option.name not in training and _is_required(option)
    ]
    if missing:
        raise TypeError(f"{name} needs {' and '.join(missing)}: give each a number of updates")
    return TrainingOptions(**training)


T = TypeVar("T")
V = TypeVar("V")


class HasOptions(Protocol):
    """A trainer, as far as its options are concerned."""

    options: TrainingOptions


class FixedOption(Generic[V]):
    """An attribute of a trainer that reads an option of the same name. Assigning to it raises AttributeError."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, trainer: HasOptions, owner: type | None = None) -> V:
        return getattr(trainer.options, self.name)

    def __set__(self, trainer: HasOptions, value: V) -> None:
        raise AttributeError(f"{self.name} cannot be changed in a trainer: make another one with {self.name}={value!r}")


def with_training_options(trainer: type[T]) -> type[T]:
    """Prepares a trainer whose constructor takes a model first and the training options as `**training`.

    Its signature and its docstring list the options. After an error in the constructor, the model's parameters train or
    are frozen as before.
    """
    init: Any = trainer.__init__

    @functools.wraps(init)
    def kept(self: T, *args: Any, **keywords: Any) -> None:
        with trained_as_before_on_error(args[0] if args else keywords.get("model")):
            init(self, *args, **keywords)

    own = inspect.signature(init, eval_str=True)
    shown = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    hints = get_type_hints(TrainingOptions)
    shown += [
        inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=_default(option), annotation=hints[option.name]
        )
        for option in fields(TrainingOptions)
    ]
    setattr(kept, "__signature__", own.replace(parameters=shown))  # noqa: B010 (functions declare no such name)
    trainer.__init__ = kept
    if trainer.__doc__ is not None:  # there are none under `python -OO`
        trainer.__doc__ = (
            f"{inspect.cleandoc(trainer.__doc__)}\n\nTraining options, for all trainers:\n{described_options()}\n"
        )
    return trainer


def described_options() -> str:
    """The part of `TrainingOptions`'s docstring that describes each option."""
    return inspect.cleandoc(TrainingOptions.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]


def _is_required(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _default(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return inspect.Parameter.empty if option.default is MISSING else option.default
