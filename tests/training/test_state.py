"""The state of a run: sums, the best loss, checkpoints of it, and random generators that come back."""

import math
import random

import numpy as np
import pytest
import torch

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.training.state import RunningSums, RunState, random_state, restore_random_state


def test_sums_become_a_record():
    sums = RunningSums()
    sums.add(2.0, 30, 0.5)
    sums.add(4.0, 10, 1.5)
    assert sums.as_record(7, 0.1) == {"step": 7, "loss": 3.0, "lr": 0.1, "tokens_per_second": 20}


def test_only_a_lower_finite_loss_is_the_best():
    state, seen = RunState(), []
    for step, loss in enumerate((math.nan, 3.0, math.inf, 3.0, 2.0, 2.5)):
        state.step = step
        seen.append(state.see_valid_loss(loss))
    assert seen == [False, True, False, False, True, False]
    assert (state.best_valid_loss, state.best_step) == (2.0, 4)


def test_a_checkpoint_restores_the_state():
    state = RunState(step=7, position=Position(1, 3), best_valid_loss=2.0, best_step=5)
    state.sums.add(2.0, 30, 0.5)
    other = RunState(begun=True)
    other.restore(state.to_checkpoint(), None)
    assert other == RunState(7, Position(1, 3), RunningSums(2.0, 1, 30, 0.5), 2.0, 5, saved_step=7)
    kept = {"torch": torch.get_rng_state()}
    other.begun = True
    other.pause(kept)
    assert other.random is kept and not other.begun


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(3).tolist(), random.random, lambda: np.random.normal(size=3).tolist()]
)
def test_random_generators_come_back(draw):
    before = random_state()
    first = [draw(), draw()]
    restore_random_state(before)
    assert [draw(), draw()] == first
