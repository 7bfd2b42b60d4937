"""Options of a training: one list of names, defaults and words; checks; signatures and help of the trainers."""

import dataclasses
import inspect
import pydoc
import re
from typing import get_args, get_origin, get_type_hints

import pytest
from typing_extensions import Required

from spear_tts_pytorch.training.options import TrainingKeywords, TrainingOptions, described_options
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
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, or None for the model's own, got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0 and below 1, .* got -0.1"),
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


def test_a_bad_option_leaves_the_model_as_it_was():
    from training_setup import make_model, make_pairs

    model = make_model()
    with pytest.raises(ValueError, match="valid_frac"):
        SemanticToTextTrainer(model, dataset=make_pairs(), valid_frac=2.0, **GOOD)
    assert all(parameter.requires_grad for parameter in model.parameters())
