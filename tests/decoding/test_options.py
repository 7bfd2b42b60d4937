"""Options of decoding: one list of names, checked once, errors that name option and value."""

import inspect
import math

import numpy as np
import pytest
import small
import torch

from spear_tts_pytorch.decoding.options import DecodingOptions, ManyKeywords, options_of
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

BEAM, SPECULATION = dict(beam_search_decode=True), dict(spec_decode=True)


def test_keywords_are_the_fields_of_the_options():
    assert set(ManyKeywords.__annotations__) == set(DecodingOptions.__dataclass_fields__)


@pytest.mark.parametrize("method", ["generate", "generate_stream", "generate_n_best", "generate_many"])
def test_signatures_show_the_options_with_their_defaults(method):
    parameters = inspect.signature(getattr(TextToSemantic, method)).parameters
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    assert parameters["source_type"].default == "text" and parameters["max_length"].default == 2048


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(source_type="song"), "source_type must be one of speech, text, got 'song'"),
        (dict(max_length=0), "max_length must be at least 1"),
        (dict(max_length=2.5), "max_length must be a whole number at least 1"),
        (dict(max_length=True), "max_length"),
        (dict(cond_scale=0.5), "cond_scale must be at least 1"),
        (dict(cond_scale=math.nan), "cond_scale"),
        (dict(cond_scale="2"), "cond_scale"),
        (dict(temperature=-0.5), "temperature must be at least 0"),
        (dict(temperature=math.inf), "temperature"),
        (dict(n_best=2), "n_best is for beam search"),
        (dict(**BEAM, **SPECULATION), "not both"),
        (dict(beam_size=0, **BEAM), "beam_size must be at least 1, got 0"),
        (dict(beam_size=2, n_best=3, **BEAM), "n_best must be between 1 and beam_size = 2, got 3"),
        (dict(length_penalty=math.nan, **BEAM), "length_penalty must be a finite number .* got nan"),
        (dict(temperature=0.0, **BEAM), "temperature must be above 0 for beam search"),
        (dict(spec_decode_gamma=0, **SPECULATION), "spec_decode_gamma must be at least 1"),
        (dict(spec_decode_lenience=0.9, **SPECULATION), "spec_decode_lenience must be at least 1"),
        (dict(spec_decode_lenience=math.inf, **SPECULATION), "spec_decode_lenience"),
        (dict(spec_decode_lenience=math.nan, **SPECULATION), "spec_decode_lenience"),
    ],
)
def test_options_out_of_range_are_named_with_their_value(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        DecodingOptions(**options)


def test_numbers_of_numpy_are_numbers():
    options = dict(temperature=np.float32(0.5), max_length=np.int64(3), cond_scale=np.float64(1))
    assert DecodingOptions(**options).max_length == 3
    assert DecodingOptions(beam_size=np.int32(2), length_penalty=np.float32(0.6), **BEAM).beam_size == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(cond_scale=2.0), "needs a model trained with cond_drop_prob > 0"),
        (dict(beam_size=99, **BEAM), "at most the 21 ids there are to choose from, got 99"),
        (dict(**SPECULATION), "spec_decode needs a model with target_early_exit_layer"),
    ],
)
def test_a_model_that_cannot_do_it_is_named(options, words):
    model = small.make_model(num_semantic_token_ids=20)
    with pytest.raises(ValueError, match=words):
        DecodingOptions(**options).check(model)


def test_methods_refuse_options_of_others():
    with pytest.raises(TypeError, match="generate_many has no argument 'beam_sise'"):
        options_of("generate_many", ManyKeywords, {"beam_sise": 3})
    model, source = small.make_model(), torch.tensor([[1, 2]])
    for method, name in (("generate", "n_best"), ("generate_stream", "beam_size"), ("generate_n_best", "spec_decode")):
        with pytest.raises(TypeError, match=f"{method} has no argument '{name}'"):
            getattr(model, method)(source, **{name: 2})
