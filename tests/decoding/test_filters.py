"""Filters keep the ids that they promise to keep."""

from __future__ import annotations

import pytest
import torch

from spear_tts_pytorch.decoding.filters import min_p, top_k, top_p

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
