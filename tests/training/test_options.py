"""Options of a training: one list of names, defaults and words; checks; signatures and help of the trainers."""

import dataclasses
import inspect
import pydoc
import re
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
from training_setup import make_model, make_pairs
from typing_extensions import Required

from spear_tts_pytorch.training.options import (
    NUMBERS,
    WHOLE_NUMBERS,
    TrainingKeywords,
    TrainingOptions,
    described_options,
)
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer

TRAINERS = [SpeechSpeechPretrainer, SemanticToTextTrainer, TextToSemanticTrainer]
FIELDS = {option.name: option for option in dataclasses.fields(TrainingOptions)}
DOCUMENTED = re.compile(r"^ *(\w+) \((required|default (.+?))\): \S", re.MULTILINE)


def default(option):
    return option.default if option.default_factory is dataclasses.MISSING else option.default_factory()


def test_keywords_are_the_fields():
    keywords, fields = get_type_hints(TrainingKeywords, include_extras=True), get_type_hints(TrainingOptions)
    required = {name for name, kind in keywords.items() if get_origin(kind) is Required}
    plain = {name: get_args(kind)[0] if name in required else kind for name, kind in keywords.items()}
    assert list(plain.items()) == list(fields.items())
    assert required == {name for name, option in FIELDS.items() if default(option) is dataclasses.MISSING}


def test_every_option_is_described_with_its_default():
    found = DOCUMENTED.findall(described_options())
    assert [name for name, _, _ in found] == list(FIELDS)
    for name, _, words in found:
        value = default(FIELDS[name])
        assert words == ("" if value is dataclasses.MISSING else repr(value)), name


@pytest.mark.parametrize("trainer", TRAINERS)
def test_signature_and_help_of_a_trainer_show_every_argument(trainer):
    parameters = inspect.signature(trainer).parameters
    assert set(FIELDS) < set(parameters)
    for name, option in FIELDS.items():
        value = default(option)
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == (inspect.Parameter.empty if value is dataclasses.MISSING else value)
    documented = {name: words for name, _, words in DOCUMENTED.findall(inspect.getdoc(trainer))}
    assert list(documented) == list(parameters)
    for name, words in documented.items():
        value = parameters[name].default
        assert words == ("" if value is inspect.Parameter.empty else repr(value)), name
    shown = pydoc.plain(pydoc.render_doc(trainer))
    assert "see `Trainer`" not in shown and "batch_tokens: int | None = None" in shown
    assert "**training" not in shown.partition("Methods defined here")[0]


GOOD = dict(num_train_steps=10, num_warmup_steps=2, batch_size=4)


def test_options_are_frozen_and_by_keyword():
    options = TrainingOptions(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.lr = 1.0
    with pytest.raises(TypeError):
        TrainingOptions(10, 2)
    with pytest.raises(TypeError, match="warmup"):
        TrainingOptions(**GOOD, warmup=3)
    assert options.accelerate_kwargs == {} and options.make_schedule()(10) == 0.0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1 or None, got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 1 or None, got -0.1"),
        ({"valid_frac": 1.0}, "valid_frac must be at least 0 and below 1, got 1.0"),
        ({"grad_accum_every": 0}, "grad_accum_every must be at least 1, got 0"),
        ({"valid_generate": -1}, "valid_generate must be at least 0, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1 or None, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1 or None, got 0"),
        ({"keep_last": 0}, "keep_last must be at least 1 or None, got 0"),
        ({"batch_size": None}, "batch_size or batch_tokens must be given"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adafactor, got 'sgd'"),
        ({"schedule": "linear"}, "schedule must be one of cosine, inverse_sqrt, constant, got 'linear'"),
        ({"num_warmup_steps": 11}, r"num_warmup_steps must be 0 to num_train_steps \(10\), got 11"),
    ],
)
def test_each_option_is_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**{**GOOD, **wrong})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", [*WHOLE_NUMBERS, *NUMBERS])
def test_each_number_is_checked_by_name_and_value(name):
    words = ["x", True, 2.5] if name in WHOLE_NUMBERS else ["x", True]
    for value in words:
        with pytest.raises(TypeError, match=f"^{name} must be a .*, got {re.escape(repr(value))}$"):
            TrainingOptions(**{**GOOD, name: value})
    for value in [] if name == "random_split_seed" else [-1] if name in WHOLE_NUMBERS else [-1.0, NAN, INF, -INF]:
        with pytest.raises(ValueError, match=f"^{name} must be .*, got {value}$"):
            TrainingOptions(**{**GOOD, name: value})


def test_no_number_is_left_out_of_the_checks():
    numbers = {int, int | None, float, float | None}
    found = {name for name, kind in get_type_hints(TrainingOptions).items() if kind in numbers}
    assert found == {*WHOLE_NUMBERS, *NUMBERS}


def test_none_is_checked_where_it_is_no_choice():
    for name, kind in get_type_hints(TrainingOptions).items():
        if kind in (int, float):
            with pytest.raises(TypeError, match=f"^{name} must be a .*, got None$"):
                TrainingOptions(**{**GOOD, name: None})
    TrainingOptions(**{**GOOD, **{name: np.int64(3) for name in ("num_train_steps", "seed")}, "lr": np.float32(0.1)})
    with pytest.raises(ValueError, match="seed must be at least 0 and at most 4,294,967,295 or None, got 4294967296"):
        TrainingOptions(**GOOD, seed=2**32)
    with pytest.raises(ValueError, match="max_grad_norm must be above 0 or None, got 0"):
        TrainingOptions(**GOOD, max_grad_norm=0)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_keyword_that_is_mistyped_or_missing_is_named_with_the_trainer(trainer):
    with pytest.raises(TypeError, match=f"^{trainer.__name__} has no argument 'learning_rate'$"):
        trainer(make_model(), dataset=make_pairs(), learning_rate=1, **GOOD)
    with pytest.raises(TypeError, match=f"^{trainer.__name__} needs num_train_steps and num_warmup_steps"):
        trainer(make_model(), dataset=make_pairs(), batch_size=2)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("frozen", [True, False])
def test_an_error_in_the_constructor_leaves_the_model_as_it_was(trainer, frozen, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model = make_model()
    model.requires_grad_(not frozen)
    next(model.parameters()).requires_grad_(frozen)
    before = [parameter.requires_grad for parameter in model.parameters()]
    causes = [
        {"valid_frac": 2.0},
        {"dataset": None},
        {"dataset": []},
        {"valid_dataset": []},
        {"foo": 1},
        {"accelerate_kwargs": {"mixed_precision": "none"}},
        {"results_folder": tmp_path},
        {"results_folder": tmp_path / "notes.txt"},
    ]
    if trainer is TextToSemanticTrainer:
        causes += [{"real_share": 2.0}, {"train_encoder_layers": 9}, {"freeze": "all"}]
    for cause in causes:
        with pytest.raises((TypeError, ValueError)):
            trainer(model, **{"dataset": make_pairs(), "results_folder": None, **GOOD, **cause})
        assert [parameter.requires_grad for parameter in model.parameters()] == before, cause
    with pytest.raises(TypeError, match="model"):
        trainer("model", dataset=make_pairs(), **GOOD)
