"""The fingerprint of a run: what it shares with its checkpoints, so that another run cannot resume from them.

In: options, data and sizes of a run. Out: a dictionary of JSON types, for `run.json` and for checkpoints. The settings
under `CHANGEABLE` may differ in a resumed run; all others must be equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import set_seed

from spear_tts_pytorch.data.loader import SizedDataset
from spear_tts_pytorch.training.batches import TrainingBatches
from spear_tts_pytorch.training.options import TrainingOptions
from spear_tts_pytorch.training.state import random_state, restore_random_state
from spear_tts_pytorch.utils.values import as_tensor

CHANGEABLE = "may change"
SAMPLED_ITEMS = 8  # items that are hashed, from all over a dataset

Fingerprint = dict[str, Any]


def fingerprint(
    options: TrainingOptions,
    accelerator: Accelerator,
    *,
    task: str,
    batches: TrainingBatches,
    mixture: tuple[int, float] | None,
    trained: Iterable[str],
    stage_options: Mapping[str, Any],
) -> Fingerprint:
    """The fingerprint of a run.

    Args:
        task: name of the stage.
        batches: to train on; a few of their items are read.
        mixture: number of real items and their share.
        trained: names of the trained parameters.
        stage_options: options of the stage's objective.
    """
    per_update = options.grad_accum_every * accelerator.num_processes
    return {
        "task": task,
        "items": len(batches.split.train),
        "data": data_hash(batches.split.train, skip=options.on_error == "skip"),
        "batch_size": batches.sizes.batch_size,
        "batch_tokens": options.batch_tokens,
        "drop_last": options.drop_last,
        "batches per update (grad_accum_every times processes)": per_update,
        "mixture": None if mixture is None else list(mixture),
        "seed": options.seed,
        "optimizer": options.optimizer,
        "trained parameters": digest(sorted(trained)),
        "options of the stage": dict(stage_options),
        CHANGEABLE: {
            **dataclasses.asdict(options.make_schedule()),
            "wd": options.wd,
            "max_grad_norm": options.max_grad_norm,
            "label_smoothing": options.label_smoothing,
            "dropout": options.dropout,
            "on_error": options.on_error,
            "processes": accelerator.num_processes,
            "precision": str(accelerator.mixed_precision),
        },
    }


def differences(there: Fingerprint, here: Fingerprint) -> tuple[list[str], list[str]]:
    """Sentences on settings that differ between a checkpoint and a run: those that must be equal, and the others.

    A setting that only one of them has does not count: releases differ in the settings they know.
    """
    there, here = dict(there), dict(here)
    changed = _differences(there.pop(CHANGEABLE, {}), here.pop(CHANGEABLE, {}))
    return _differences(there, here), changed


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {there[key]!r} there and {value!r} here"
        for key, value in here.items()
        if key in there and there[key] != value
    ]


def digest(value: Any) -> str:
    """A short hash of names, texts and ids `[n]`, in lists and tuples. Of a waveform `[t]` only the length counts."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in cast("list[Any]", value)]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = as_tensor(value)
        return list(value.shape) if value.is_floating_point() else value.tolist()
    return value if isinstance(value, (str, int, float)) else type(value).__name__


def data_hash(dataset: SizedDataset, skip: bool = False) -> str:
    """A hash of a few items of a dataset, from all over it. Items that differ at each reading are left out.

    With `skip`, so are items that cannot be read.

    Items may draw from the global random generators. They are read with a fixed seed; the generators are set back.
    """
    places = {round(i * (len(dataset) - 1) / (SAMPLED_ITEMS - 1)) for i in range(SAMPLED_ITEMS)}
    before = random_state()
    pairs: list[list[str]] = []
    try:
        for place in sorted(places):
            twice: list[str] = []
            for _ in range(2):
                set_seed(place)
                try:
                    twice.append(digest(dataset[place]))
                except Exception:  # datasets raise errors of any type
                    if not skip:
                        raise
            pairs.append(twice)
    finally:
        restore_random_state(before)
    return digest([twice[0] for twice in pairs if len(twice) == 2 and twice[0] == twice[1]])
