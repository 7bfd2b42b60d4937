"""The options that all trainers share: names, defaults, checks and their description.

In: a trainer's keywords. Out: a frozen `TrainingOptions` that has checked itself, and the signatures and docstrings of the
trainers, which list every option. `TrainingKeywords` names the same options for editors and type checkers.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_args, get_type_hints

from typing_extensions import Required, TypedDict

from spear_tts_pytorch.data.loader import SizedDataset
from spear_tts_pytorch.training.schedule import OptimizerKind, Schedule, ScheduleKind
from spear_tts_pytorch.training.settings import trained_as_before_on_error
from spear_tts_pytorch.utils.arguments import check_keywords

MOST_SEED = 2**32 - 1  # of NumPy's global generator
# Whole numbers: the least value (None: there is none), and whether None is allowed.
WHOLE_NUMBERS: Mapping[str, tuple[int | None, bool]] = {
    "num_train_steps": (1, False),
    "num_warmup_steps": (0, False),
    "batch_size": (1, True),
    "grad_accum_every": (1, False),
    "random_split_seed": (None, False),
    "log_every": (0, True),
    "save_results_every": (0, True),
    "save_model_every": (0, True),
    "batch_tokens": (1, True),
    "seed": (0, True),
    "num_workers": (0, False),
    "keep_last": (1, True),
    "valid_generate": (0, False),
}
# Finite numbers: whether they must be above 0 (else at least 0), and whether None is allowed.
NUMBERS: Mapping[str, tuple[bool, bool]] = {
    "lr": (True, False),
    "initial_lr": (False, False),
    "wd": (False, False),
    "max_grad_norm": (True, True),
    "min_lr": (False, False),
}
# Shares, at least 0 and below 1: the words for None, where it is allowed.
SHARES: Mapping[str, str] = {
    "valid_frac": "",
    "label_smoothing": ", or None for the model's own",
    "dropout": ", or None for the model's own",
}


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

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises TypeError or ValueError for an option of a wrong kind or out of range: its name, its value, what it may be."""
        for name, (least, optional) in WHOLE_NUMBERS.items():
            _check_whole(name, getattr(self, name), least, optional)
        if self.seed is not None and self.seed > MOST_SEED:
            raise ValueError(f"seed must be at most {MOST_SEED} or None, got {self.seed}")
        if self.batch_size is None and self.batch_tokens is None:
            raise ValueError("batch_size or batch_tokens must be given")
        for name, (positive, optional) in NUMBERS.items():
            _check_number(name, getattr(self, name), positive, optional)
        for name, alternative in SHARES.items():
            _check_share(name, getattr(self, name), alternative)
        if self.optimizer not in get_args(OptimizerKind):
            raise ValueError(f"optimizer must be one of {', '.join(get_args(OptimizerKind))}, got {self.optimizer!r}")
        self.make_schedule()

    def make_schedule(self) -> Schedule:
        """The learning rate as a function of the step."""
        steps = self.num_train_steps, self.num_warmup_steps
        return Schedule(self.lr, *steps, self.initial_lr, self.min_lr, self.schedule)


def _check_whole(name: str, value: object, least: int | None, optional: bool) -> None:
    if value is None and optional:
        return
    words = ("" if least is None else f" at least {least}") + (" or None" if optional else "")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number{words}, got {value!r}")
    if least is not None and int(value) < least:
        raise ValueError(f"{name} must be{words}, got {value}")


def _check_number(name: str, value: object, positive: bool, optional: bool) -> None:
    if value is None and optional:
        return
    words = ("above 0" if positive else "at least 0") + (" or None" if optional else "")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number {words}, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(f"{name} must be a finite number {words}, got {value}")


def _check_share(name: str, value: object, alternative: str) -> None:
    if value is None and alternative:
        return
    words = f"at least 0 and below 1{alternative}"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number {words}, got {value!r}")
    if not 0 <= float(value) < 1:
        raise ValueError(f"{name} must be {words}, got {value}")


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
