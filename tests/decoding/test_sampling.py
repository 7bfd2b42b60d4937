"""Draws: the distribution, the noise that belongs to a row, and draws without a choice."""

import math

import pytest
import torch
from strategies import options_and_limits

from spear_tts_pytorch.decoding.options import checked_temperature
from spear_tts_pytorch.decoding.restriction import Restriction
from spear_tts_pytorch.decoding.sampling import draw, keys_of, seed_of
from spear_tts_pytorch.utils.noise import gumbel_at

LOGITS = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * 2
CPU = torch.device("cpu")


def noise_of(rows, size, seed=1):
    """Noise of the first id of each row, `[r, v]`."""
    return gumbel_at(keys_of(range(rows), seed, CPU), torch.zeros(rows, 1, dtype=torch.long), size)[:, 0]


def drawn(logits, temperature, seed=1):
    ids, values = draw(logits, temperature, noise_of(*logits.shape, seed) if temperature else None)
    Restriction(*options_and_limits(eos_id=None), CPU).check(values)
    return ids


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    """Chi-square over 7 ids and 100,000 draws; p < 1e-6 (a statistic above 38 at 6 degrees) never at a fixed seed."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, float("-inf"), 0.2, -0.5])
    counts = torch.bincount(drawn(logits.expand(100_000, -1), temperature), minlength=8)
    expected = 100_000 * (logits / temperature).softmax(-1)
    assert counts[5] == 0
    possible = expected > 0
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 38


def test_draws_at_places_of_one_row_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    noise = gumbel_at(keys_of([3], 5, CPU), torch.arange(100_000)[None], 4)[0]
    counts = torch.bincount(draw(logits.expand(100_000, -1), 1.0, noise)[0], minlength=4)
    expected = 100_000 * logits.softmax(-1)
    assert ((counts - expected) ** 2 / expected).sum() < 31  # p < 1e-6 at 3 degrees


def test_temperature_zero_takes_the_best():
    assert torch.equal(drawn(LOGITS, 0), LOGITS.argmax(-1))
    assert torch.equal(drawn(LOGITS.double(), 0), LOGITS.argmax(-1))


def test_the_seed_decides():
    draws = [drawn(LOGITS, 1.0, seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_keys_follow_the_number_or_the_sources_own_seed():
    assert torch.equal(keys_of([4, 2], 7, CPU), keys_of(range(5), 7, CPU)[[4, 2]])
    own = keys_of([1, 0], [10, 20], CPU)
    assert torch.equal(own, keys_of([0, 1], [20, 10], CPU)) and len(own.unique()) == 2
    assert len(keys_of(range(1000), 2**64 + 5, CPU).unique()) == 1000  # any whole number will do


def test_a_generator_gives_one_seed_after_the_other():
    generator = torch.Generator().manual_seed(3)
    seeds = [seed_of(generator), seed_of(generator), seed_of(torch.Generator().manual_seed(3))]
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf, None, "1", True])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises((TypeError, ValueError), match="temperature"):
        checked_temperature(temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("value", "message"), [(float("-inf"), "no id is left"), (float("nan"), "NaN")])
def test_rows_without_a_choice_are_refused(value, message, temperature):
    logits = LOGITS.clone()
    logits[2] = value
    with pytest.raises(ValueError, match=message):
        drawn(logits, temperature)
