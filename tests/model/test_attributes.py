"""Attributes of a model that are assigned later are checked and saved; sizes cannot change; whole models of release 0.5.0."""

import copy
import pickle

import pytest
import torch
from small import make_model

from spear_tts_pytorch.model.attributes import CHANGEABLE, LASTING
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

OTHER = {
    "cond_drop_prob": 0.25,
    "label_smoothing": 0.125,
    "align_reg_loss_weight": 0.5,
    "align_reg_use_logsumexp_pool": False,
    "align_reg_logsumexp_pool_temp": 0.5,
    "add_positions": True,
    "cross_attention_prior": True,
    "text_position_rate": 3.0,
    "detach_early_exit_embed": True,
    "early_exit_layer": 2,
}


def make():
    return make_model(target_depth=2, target_early_exit_layer=1)


def test_options_that_are_assigned_later_are_saved(tmp_path):
    model = make()
    assert OTHER.keys() == CHANGEABLE.keys()
    for name, value in OTHER.items():
        assert getattr(model, name) != value
        setattr(model, name, value)
    model.save_pretrained(tmp_path)
    for copied in (TextToSemantic.from_pretrained(tmp_path), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert {name: getattr(copied, name) for name in OTHER} == OTHER
        assert copied.config == model.config


@pytest.mark.parametrize("name", OTHER)
def test_wrong_options_are_refused_by_name(name):
    model = make()
    before = model.config
    for value in ("x", float("nan"), torch.zeros(2)):
        with pytest.raises((TypeError, ValueError), match=CHANGEABLE[name]):
            setattr(model, name, value)
    assert model.config == before


def test_sizes_cannot_change():
    model = make()
    for name in LASTING:
        with pytest.raises(AttributeError, match=f"{name} of a model cannot be changed to 3: build another"):
            setattr(model, name, 3)
    with pytest.raises(AttributeError, match="early_exit_layer"):
        model.early_exit_layer = None
    with pytest.raises(AttributeError, match="early_exit_layer"):
        make_model().early_exit_layer = 1


def test_a_tokenizer_that_is_assigned_later_is_no_part_of_the_weights():
    model, names = make(), set(make().state_dict())
    model.wav2vec = torch.nn.Linear(2, 2)
    assert set(model.state_dict()) == names and isinstance(model.wav2vec, torch.nn.Linear)


def as_in_050(model):
    """The state of a model that release 0.5.0 pickled: without a config, with the constructor's arguments."""
    state = dict(model.__dict__)
    arguments = {**state.pop("config").to_dict(), "use_openai_tokenizer": state.pop("use_openai_tokenizer")}
    return {**state, "arguments": arguments}


def test_a_model_that_release_050_pickled_whole(tmp_path):
    model = make().eval()
    model.cond_drop_prob = 0.25
    old = TextToSemantic.__new__(TextToSemantic)
    old.__setstate__(as_in_050(model))
    assert repr(old) == repr(model) and old.config == model.config
    old.save_pretrained(tmp_path)
    saved, options = TextToSemantic.from_pretrained(tmp_path), dict(max_length=5, temperature=0.0)
    assert torch.equal(saved.generate([[1, 2]], **options), model.generate([[1, 2]], **options))


def test_older_models_name_the_remedy():
    state = as_in_050(make())
    del state["arguments"]
    with pytest.raises(ValueError, match=r"pickled by a release before 0.5.0: .* which model.load\(path\) reads"):
        TextToSemantic.__new__(TextToSemantic).__setstate__(state)
