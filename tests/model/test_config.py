"""The constructor's arguments: hostile values give a model or an error that names the argument; NumPy's numbers count."""

import numpy as np
import pytest
import small
import torch
from hostile import HOSTILE, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_tts_pytorch.model.config import ModelConfig

NAMES = [*ModelConfig.__dataclass_fields__, "tokenizer_encode", "wav2vec", "use_openai_tokenizer"]


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True),
    values=st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=2),
)
def test_each_outcome_is_a_model_or_names_the_argument(names, values):
    arguments = dict(zip(names, values, strict=False))

    model = outcome(lambda: small.make_model(**arguments), names)
    if model is not None:
        loss = model(torch.tensor([[1]]), torch.tensor([[0]]), return_loss=True, **small.TEXT_TO_SPEECH)
        kinds = {type(value) for value in model.config.to_dict().values()}
        assert bool(torch.isfinite(loss)) and kinds <= {int, float, bool, type(None)}


def test_numbers_of_numpy_and_torch_are_kept_as_pythons():
    model = small.make_model(
        dim=np.int64(8),
        heads=torch.tensor(1),
        ff_mult=np.float32(2),
        ctc=np.bool_(True),
        num_text_token_ids=np.array(9),
    )
    assert model.config == small.make_model(dim=8, heads=1, ff_mult=2.0, ctc=True, num_text_token_ids=9).config
    assert all(type(value) in (int, float, bool, type(None)) for value in model.arguments.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(source_depth=10**6), "source_depth"),
        (dict(dim=2**20, dim_head=2**10), "dim 1048576"),
        (dict(ff_mult=0.01), "ff_mult"),
        (dict(align_reg_loss_weight=-1.0), "align_reg_loss_weight"),
        (dict(tokenizer_encode="characters"), "tokenizer_encode must be callable or None"),
        (dict(wav2vec=3), "wav2vec must be callable"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        small.make_model(**arguments)
