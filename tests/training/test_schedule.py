"""Learning rates at the points that matter, and which parameters decay."""

import pytest
import torch
from torch import nn

from spear_tts_pytorch.training.schedule import Schedule, make_optimizer, parameter_groups


def test_cosine_has_its_peak_and_its_end_exactly():
    schedule = Schedule(lr=1e-3, num_train_steps=110, num_warmup_steps=10, initial_lr=1e-5, min_lr=1e-4)
    assert schedule(0) == 1e-5
    assert schedule(5) == pytest.approx((1e-3 + 1e-5) / 2)
    assert schedule(10) == 1e-3
    assert schedule(60) == pytest.approx((1e-3 + 1e-4) / 2)
    assert schedule(110) == schedule(1000) == 1e-4
    rates = [schedule(step) for step in range(111)]
    assert max(rates) == 1e-3 and rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_other_kinds():
    inverse = Schedule(lr=1.0, num_train_steps=1000, num_warmup_steps=16, min_lr=0.2, kind="inverse_sqrt")
    assert inverse(16) == 1.0 and inverse(64) == pytest.approx(0.5) and inverse(1000) == 0.2
    assert Schedule(lr=1.0, num_train_steps=9, kind="inverse_sqrt")(4) == pytest.approx(0.5)
    constant = Schedule(lr=1.0, num_train_steps=10, num_warmup_steps=2, kind="constant")
    assert [constant(step) for step in (0, 1, 2, 10, 99)] == [0, 0.5, 1, 1, 1]


def test_no_warmup_and_only_warmup():
    assert Schedule(lr=1.0, num_train_steps=10)(0) == 1.0
    whole = Schedule(lr=1.0, num_train_steps=4, num_warmup_steps=4)
    assert [whole(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1.0]


def test_bad_schedules():
    good = dict(lr=1.0, num_train_steps=10)
    for wrong, message in [
        ({"kind": "linear"}, "schedule must be one of"),
        ({"num_train_steps": 0}, "num_train_steps"),
        ({"num_warmup_steps": 11}, "num_warmup_steps"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"min_lr": 2.0}, "min_lr"),
    ]:
        with pytest.raises(ValueError, match=message):
            Schedule(**{**good, **wrong})


def test_only_matrices_decay():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear, self.norm = nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4)
            self.start, self.frozen = nn.Parameter(torch.ones(4)), nn.Linear(4, 4).requires_grad_(False)

    model = Model()
    groups = parameter_groups(model, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [id(p) for p in groups[0]["params"]] == [id(model.linear.weight)]
    others = {id(p) for p in (model.embedding.weight, model.linear.bias, *model.norm.parameters(), model.start)}
    assert {id(p) for p in groups[1]["params"]} == others
    make_optimizer(groups, 1e-3).step()
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(model.requires_grad_(False), 0.1)
