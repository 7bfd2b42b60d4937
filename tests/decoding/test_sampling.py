"""Filters keep what they promise; draws follow the distribution."""

from __future__ import annotations

import math

import pytest
import torch

from spear_tts_pytorch.decoding.sampling import min_p, sample, top_k, top_p

LOGITS = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * 2


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]


def best(n: int) -> list[set[int]]:
    return [set(row.argsort(descending=True)[:n].tolist()) for row in LOGITS]


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 4), ({"thres": 0.11}, 5), ({"thres": 1.0}, 40), ({"k": 1}, 1), ({"k": 7}, 7), ({"k": 99}, 40)],
)
def test_top_k_keeps_the_best_by_share_or_count(options, count):
    filtered = top_k(LOGITS, **options)
    assert kept(filtered) == best(count)
    assert torch.equal(filtered[filtered.isfinite()], LOGITS[filtered.isfinite()])


@pytest.mark.parametrize("thres", [0.01, 0.3, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_smallest_sufficient_set(thres):
    filtered, probabilities = top_p(LOGITS, thres), LOGITS.softmax(-1)
    for row, chosen in enumerate(kept(filtered)):
        masses = sorted((probabilities[row, i].item() for i in chosen), reverse=True)
        assert chosen == best(len(chosen))[row]
        assert sum(masses) >= thres - 1e-5
        assert sum(masses[:-1]) < thres  # without the least probable of them it would not be enough
    assert torch.equal(filtered[filtered.isfinite()], LOGITS[filtered.isfinite()])


def test_top_p_keeps_the_id_that_reaches_the_threshold():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert kept(top_p(logits, 0.6)) == [{0, 1}]
    assert kept(top_p(logits, 0.4)) == [{0}]


@pytest.mark.parametrize("thres", [0.0, 0.05, 0.5, 1.0])
def test_min_p_keeps_what_is_probable_beside_the_best(thres):
    probabilities = LOGITS.softmax(-1)
    expected = [set((row >= thres * row.max()).nonzero()[:, 0].tolist()) for row in probabilities]
    assert kept(min_p(LOGITS, thres)) == expected


@pytest.mark.parametrize("fn", [top_k, top_p, min_p])
def test_filters_leave_their_input_alone_and_the_best_id_in(fn):
    logits = LOGITS.clone()
    logits[:, 3] = float("-inf")
    before = logits.clone()
    filtered = fn(logits)
    assert torch.equal(logits, before)
    assert torch.equal(filtered.argmax(-1), before.argmax(-1))
    assert not filtered[:, 3].isfinite().any()


@pytest.mark.parametrize(
    ("fn", "options", "message"),
    [
        (top_k, {"thres": 0.0}, "thres"),
        (top_k, {"thres": 1.1}, "thres"),
        (top_k, {"k": 0}, "k must"),
        (top_p, {"thres": 0.0}, "thres"),
        (top_p, {"thres": 1.5}, "thres"),
        (min_p, {"thres": -0.1}, "thres"),
        (min_p, {"thres": 2.0}, "thres"),
    ],
)
def test_thresholds_out_of_range_are_refused(fn, options, message):
    with pytest.raises(ValueError, match=message):
        fn(LOGITS, **options)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    """Chi-square over 7 ids and 100,000 draws; p < 1e-6 (a statistic above 38 at 6 degrees) never at a fixed seed."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, float("-inf"), 0.2, -0.5])
    draws = sample(logits.expand(100_000, -1), temperature, torch.Generator().manual_seed(1))
    counts = torch.bincount(draws, minlength=8)
    expected = 100_000 * (logits / temperature).softmax(-1)
    assert counts[5] == 0
    possible = expected > 0
    assert ((counts - expected)[possible] ** 2 / expected[possible]).sum() < 38


def test_temperature_zero_takes_the_best():
    assert torch.equal(sample(LOGITS, temperature=0), LOGITS.argmax(-1))
    assert torch.equal(sample(LOGITS.double(), temperature=0), LOGITS.argmax(-1))


def test_draws_are_reproducible_by_generator():
    draws = [sample(LOGITS, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        sample(LOGITS, temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("value", "message"), [(float("-inf"), "leaves no id"), (float("nan"), "NaN")])
def test_rows_without_a_choice_are_refused(value, message, temperature):
    logits = LOGITS.clone()
    logits[2] = value
    with pytest.raises(ValueError, match=message):
        sample(logits, temperature)
