"""What a checkpoint holds beside the weights, changed: the run goes on with finite weights, or one error has the path."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_setup import make_trainer, same, weights

from spear_tts_pytorch.training.state import check_state
from spear_tts_pytorch.utils.restricted import load_tensors

HOSTILE = [
    None,
    True,
    "x",
    -1,
    2**40,
    10**30,
    -1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    (),
    [1],
    torch.zeros(3),
    torch.zeros(0).long(),
]


def places(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, inner in list(items)[:8]:  # the states of random generators are long
        yield (*path, name)
        yield from places(inner, (*path, name))


def changed(value, path, instead):
    """A copy of nested values with another one at a place; `...` leaves it out."""
    if not path:
        return instead
    if isinstance(value, dict):
        made = {**value, path[0]: changed(value[path[0]], path[1:], instead)}
        return {name: one for name, one in made.items() if one is not ...}
    made = [changed(one, path[1:], instead) if i == path[0] else one for i, one in enumerate(value)]
    return type(value)(one for one in made if one is not ...)


@pytest.mark.slow
def test_a_changed_state_is_refused_or_trains_on(tmp_path):
    trainer = make_trainer("forward", tmp_path)
    for _ in range(3):
        trainer.train_step()
    file = tmp_path / "checkpoints" / "step-3" / "trainer.pt"
    whole = load_tensors(file)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()

    def go_on():
        (tmp_path / "metrics.jsonl").write_bytes(metrics)
        again = make_trainer("forward", tmp_path)
        assert int(again.steps) == 3
        again.train_step()
        return weights(again)

    wanted = go_on()
    every = list(places(whole))

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(place=st.sampled_from(every), instead=st.sampled_from([..., *HOSTILE]))
    def check(place, instead):
        torch.save(changed(whole, place, instead), file)
        try:
            found = go_on()
        except ValueError as error:
            assert str(tmp_path) in str(error), error
        else:
            assert same(found, wanted) or np.all([torch.isfinite(value).all() for value in found.values()]), place

    check()


@pytest.mark.parametrize("place", [-1, 625, 2**31])
def test_a_random_generator_is_not_set_to_read_beyond_its_numbers(tmp_path, place):
    trainer = make_trainer("forward", tmp_path)
    trainer.train_step()
    trainer.save(tmp_path / "saved")
    state = load_tensors(tmp_path / "saved" / "trainer.pt")
    check_state(state)
    kind, keys, _, *rest = state["rng"][0]["numpy"]
    state["rng"][0]["numpy"] = (kind, keys, place, *rest)
    with pytest.raises(ValueError, match=f"place {place} is not among 624 numbers"):
        check_state(state)
