"""Settings of one training: the model has them inside, and its own afterwards, also after an error."""

import pytest
from torch import nn
from training_setup import make_model

from spear_tts_pytorch.training.settings import dropout, label_smoothing, train_only


def test_label_smoothing():
    model = make_model(label_smoothing=0.3)
    with label_smoothing(model, None):
        assert model.label_smoothing == 0.3
    with pytest.raises(KeyError), label_smoothing(model, 0.1):
        assert model.label_smoothing == 0.1
        raise KeyError
    assert model.label_smoothing == 0.3


def shares(model):
    found = {part.p for part in model.modules() if isinstance(part, nn.Dropout)}
    return found | {layer.attention.dropout for layer in model.source_transformer.layers}


def test_dropout():
    model = make_model(ff_dropout=0.3, attn_dropout=0.3, emb_dropout=0.3)
    with dropout(model, None):
        assert shares(model) == {0.3}
    with pytest.raises(KeyError), dropout(model, 0.0):
        assert shares(model) == {0.0}
        raise KeyError
    assert shares(model) == {0.3}


def test_train_only():
    model = make_model()
    train_only(model, {"start_token.text"})
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["start_token.text"]
