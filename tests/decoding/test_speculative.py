"""Speculative sampling over a fake drafting decoder: exactness against enumeration, ends, lengths, statistics."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from drafting import EOS, PAD, START, VOCABULARY, DraftingCache, DraftingStep
from strategies import sample_ids, speculate, speculation
from torch import Tensor
from torch.nn.functional import pad

from spear_tts_pytorch.decoding import speculative
from spear_tts_pytorch.decoding.filters import top_k, top_p
from spear_tts_pytorch.decoding.speculative import SpeculativeResult


def run(step: DraftingStep, rows: int = 7, cache: DraftingCache | None = None, **options) -> SpeculativeResult:
    options = {"eos_id": EOS, "pad_id": PAD, "max_length": 12, **options}
    return speculate(step, step.new_cache(rows) if cache is None else cache, rows, **options)


def fake(**options) -> DraftingStep:
    return DraftingStep(**{"sources": 7, "length": 40, **options})


def string_probabilities(step: DraftingStep, source: int, eos_id: int | None, temperature: float, restrict) -> Tensor:
    """Of all strings of three ids, `[v, v, v]`; what ends earlier stands at the string filled up with id 0."""

    def after(position: int, previous: int, last: int) -> Tensor:
        logits = step.model[source, position, previous, last][None]
        return (restrict(logits)[0].double() / temperature).softmax(-1)

    total = torch.zeros(VOCABULARY, VOCABULARY, VOCABULARY, dtype=torch.double)
    first = after(0, START, START)
    for a in range(VOCABULARY):
        if a == eos_id:
            total[a, 0, 0] += first[a]
            continue
        second = first[a] * after(1, START, a)
        for b in range(VOCABULARY):
            if b == eos_id:
                total[a, b, 0] += second[b]
            else:
                total[a, b] += second[b] * after(2, a, b)
    return total


def chi_square(step: DraftingStep, ids: Tensor, eos_id: int | None, temperature: float, restrict) -> float:
    """p-value of ids `[r, <= 3]` against enumeration, over all sources; cells that expect below 5 are pooled."""
    statistic, freedom = 0.0, 0
    ids = pad(ids, (0, 3 - ids.shape[1]), value=PAD).clamp_min(0)
    for source in range(len(step.model)):
        mine = ids[source :: len(step.model)]
        expected = len(mine) * string_probabilities(step, source, eos_id, temperature, restrict).flatten()
        found = torch.bincount(mine @ torch.tensor([25, 5, 1]), minlength=125).double()
        assert (found[expected == 0] == 0).all(), "a string that cannot be drawn"
        rare = expected < 5
        expected, found = (torch.cat((x[~rare], x[rare].sum()[None])) for x in (expected, found))
        expected, found = expected[expected > 0], found[expected > 0]
        statistic += float(((found - expected) ** 2 / expected).sum())
        freedom += len(expected) - 1
    assert freedom >= 7
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.double)
    return float(torch.special.gammaincc(half[0], half[1]))


DRAWS = 100_000  # enough to see acceptance that is off by 5 per cent: p < 1e-6, as a test below shows
FILTERS = {"none": (None, {}), "top_p": (top_p, {"thres": 0.8}), "top_k": (top_k, {"k": 3})}


def p_value(sources: int, name: str, temperature: float, eos_id: int | None, seed: int = 0, **options) -> float:
    step, (filter_fn, kwargs) = DraftingStep(sources=sources, noise=1.0), FILTERS[name]
    rows = DRAWS // sources * sources
    cache = step.new_cache(rows)
    options = {"filter_logits_fn": filter_fn, "filter_fn_kwargs": kwargs, "temperature": temperature, **options}
    drawing = speculation(step, cache, rows, eos_id=eos_id, pad_id=PAD, max_length=3, seed=seed, **options)
    deque(drawing, maxlen=0)
    accepted = drawing.accepted / drawing.drafted
    assert cache.unequal and 0.2 < accepted < 0.95 and max(step.drafts_of_cycle) == 2
    ids = drawing.ids[:, :3].masked_fill(torch.arange(3) >= torch.tensor(drawing.counts)[:, None], PAD)
    return chi_square(step, ids, eos_id, temperature, lambda x: filter_fn(x, **kwargs) if filter_fn else x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "name", "temperature", "eos_id"),
    [
        (1, "none", 1.0, None),
        (1, "top_p", 0.7, EOS),
        (7, "none", 1.3, EOS),
        (7, "top_k", 1.0, EOS),
        (7, "top_p", 0.7, None),
    ],
)
def test_draws_have_exactly_the_distribution_of_the_model(sources, name, temperature, eos_id):
    assert p_value(sources, name, temperature, eos_id) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize(("share", "sources"), [(0.95, 1), (1.05, 7)])
def test_the_test_above_sees_acceptance_biased_by_five_per_cent(share, sources, monkeypatch):
    right = speculative.judge
    monkeypatch.setattr(speculative, "judge", lambda x, p, q, noise, lenience: right(x, p, q, noise / share, lenience))
    assert p_value(sources, "none", 1.0, EOS) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "calls"), [(1, 1000), (7, 1000)])
def test_rows_of_small_batches_have_the_distribution_of_the_model(rows, calls):
    """Here the number of drafts follows a row's own fate, and other rows' fates, from one call to the next."""
    step = DraftingStep(sources=rows, noise=1.5)
    options = {"filter_logits_fn": top_k, "filter_fn_kwargs": {"k": 4}, "max_length": 3, "draft_cost": 0.5}
    strings = [run(step, rows, seed=seed, **options).ids for seed in range(calls)]
    ids = torch.cat([pad(x, (0, 3 - x.shape[1]), value=PAD) for x in strings])
    assert set(step.drafts_of_cycle) >= {0, 1}
    assert chi_square(step, ids, EOS, 1.0, lambda x: top_k(x, k=4)) > 0.001


@pytest.mark.parametrize("noise", [0.0, 0.7, 5.0])
@pytest.mark.parametrize(
    "options",
    [{"spec_decode_gamma": 1}, {"spec_decode_gamma": 9, "spec_decode_lenience": 3.0}, {"filter_logits_fn": top_k}],
)
def test_greedy_speculation_is_greedy_decoding(noise, options):
    step = fake(noise=noise)
    result = run(step, temperature=0, max_length=30, **options)
    plain = sample_ids(step.plain, step.new_cache(7), 7, eos_id=EOS, pad_id=PAD, max_length=30, temperature=0)
    assert torch.equal(result.ids, plain.ids) and torch.equal(result.truncated, plain.truncated)
    assert len(set((result.ids != PAD).sum(dim=1).tolist())) > 1  # rows of unequal lengths
    torch.testing.assert_close(result.scores, plain.scores)


@pytest.mark.parametrize("filter_logits_fn", [None, top_p])
def test_scores_are_mean_log_probabilities_of_the_unfiltered_model(filter_logits_fn):
    step = fake()
    result = run(step, seed=3, temperature=0.6, filter_logits_fn=filter_logits_fn)
    for source, row in enumerate(result.ids):
        row, total = row[row != PAD].tolist(), 0.0
        for position, token in enumerate(row):
            two = ([START] * 2 + row[:position])[-2:]
            total += step.model[source, position, two[0], two[1]].log_softmax(-1)[token].item()
        assert result.scores[source].item() == pytest.approx(total / len(row), abs=1e-5)


def test_rows_end_once_with_eos_or_full():
    result = run(fake(sharpness=0.5, noise=0.3), rows=700, spec_decode_gamma=6, seed=0)
    lengths = set((result.ids != PAD).sum(dim=1).tolist())
    for row, truncated in zip(result.ids.tolist(), result.truncated.tolist(), strict=True):
        ids = [token for token in row if token != PAD]
        assert row == ids + [PAD] * (len(row) - len(ids))
        assert EOS not in ids[:-1] and truncated == (ids[-1] != EOS)
        assert len(ids) == 12 or ids[-1] == EOS
    assert lengths == set(range(1, 13)) and result.truncated.any() and not result.truncated.all()


@pytest.mark.parametrize("max_length", [1, 2, 5, 13, 64, 65, 150])
@pytest.mark.parametrize("gamma", [1, 5, 80])
def test_every_row_gets_exactly_max_length_ids_without_eos(max_length, gamma):
    step = fake(noise=0.3)
    result = run(step, rows=3, eos_id=None, max_length=max_length, spec_decode_gamma=gamma, draft_cost=0.0, seed=0)
    assert result.ids.shape == (3, max_length) and (result.ids != PAD).all() and not result.truncated.any()
    assert max(step.drafts_of_cycle) <= min(gamma, max_length - 1)


def test_more_drafts_than_the_result_has_room_for(monkeypatch):
    monkeypatch.setattr(speculative, "FIRST_GUESS", 1.0)
    step = fake(noise=0.0)
    result = run(step, rows=2, eos_id=None, max_length=300, spec_decode_gamma=200, draft_cost=0.0, seed=0)
    assert step.drafts_of_cycle == [200, 98] and (result.ids != PAD).all() and result.ids.shape == (2, 300)


def test_each_cycle_adds_an_id_to_the_drafts_that_stay():
    result = run(fake(), rows=1, eos_id=None, max_length=40, seed=0)
    assert result.cycles + round(result.accepted * result.drafted) == 40 and 0 < result.accepted < 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_as_good_as_the_model_all_stay(temperature):
    step = fake(noise=0.0)
    result = run(step, eos_id=None, max_length=60, temperature=temperature, spec_decode_gamma=5, draft_cost=0.01)
    assert result.accepted == 1.0 and result.cycles == 10 and step.drafts_of_cycle == [5] * 10
    assert result.drafted == 7 * 50


def test_lenience_accepts_more():
    options = {"eos_id": None, "max_length": 30}
    shares = [run(fake(), 200, seed=0, spec_decode_lenience=x, **options).accepted for x in (1.0, 1.5, 3.0, 1e9)]
    assert shares == sorted(shares) and shares[1] > shares[0] + 0.05 and shares[-1] == 1.0


def test_the_number_of_drafts_follows_acceptance():
    def last_numbers(noise: float, draft_cost: float = 1 / 6) -> list[int]:
        step = fake(noise=noise, sharpness=2.0)
        run(step, eos_id=None, max_length=120, spec_decode_gamma=6, seed=0, draft_cost=draft_cost)
        return step.drafts_of_cycle[10:-6]

    assert set(last_numbers(noise=0.01)) == {6} and set(last_numbers(noise=30.0)) <= {0, 1}
    between = sum(last_numbers(noise=1.0)) / len(last_numbers(noise=1.0))
    dear = sum(last_numbers(noise=1.0, draft_cost=0.6)) / len(last_numbers(noise=1.0, draft_cost=0.6))
    assert dear < between - 0.5 and 0.5 < between < 5.9


def test_the_number_of_drafts_recovers():
    """Positions 40 to 200 have useless drafts, those before and behind them perfect ones."""
    step = DraftingStep(length=300, noise=0.0, sharpness=3.0)
    step.drafts[:, 40:200] = -step.model[:, 40:200]
    run(step, rows=4, eos_id=None, max_length=300, spec_decode_gamma=4, temperature=0)
    numbers = step.drafts_of_cycle
    assert numbers[:5] == [3, 4, 4, 4, 4] and numbers.count(0) > 120 and numbers[-9:-3] == [4] * 6


def test_rows_that_ended_leave_no_room_for_drafts(monkeypatch):
    """One row ends at once and stays in the batch; the other has room for 8 ids, so for 3 drafts and 1 id twice."""
    monkeypatch.setattr(speculative, "worth_leaving", lambda gone, live: False)
    step = fake(noise=0.0)
    for table in (step.model, step.drafts):
        table[0, ..., EOS], table[1, ..., EOS] = 100.0, -100.0
    assert (run(step, rows=2, max_length=8).ids != PAD).sum(dim=1).tolist() == [1, 8]
    assert step.drafts_of_cycle == [3, 3]


def test_same_seed_same_result():
    first, second, other = (run(fake(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.ids, second.ids) and first.drafted == second.drafted
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize("policy", [lambda gone, live: False, lambda gone, live: gone > 0])
def test_results_do_not_depend_on_when_rows_leave(policy, monkeypatch):
    expected = run(fake(), 16, seed=5, max_length=30)
    monkeypatch.setattr(speculative, "worth_leaving", policy)
    step = fake()
    cache = step.new_cache(16)
    result = run(step, 16, cache, seed=5, max_length=30)
    assert (len(cache.widths) > 2) == policy(1, 16)
    assert torch.equal(result.ids, expected.ids) and result.accepted == expected.accepted
    torch.testing.assert_close(result.scores, expected.scores)


def test_rows_that_ended_leave_the_batch():
    step = fake()
    cache = step.new_cache(64)
    run(step, 64, cache, max_length=100, seed=0)
    assert cache.widths == sorted(cache.widths, reverse=True) and len(cache.widths) > 3 and cache.widths[-1] <= 8


@pytest.mark.parametrize("leaving", [True, False])
def test_the_callback_gets_every_id_once_and_the_cache_holds_them(leaving, monkeypatch):
    monkeypatch.setattr(speculative, "worth_leaving", lambda gone, live: leaving and gone > 0)
    step = fake()
    cache, so_far = step.new_cache(9), [[] for _ in range(9)]

    def take(progress) -> None:
        for number, fresh in progress.gained().items():
            assert fresh.dtype == torch.long and len(fresh) and EOS not in so_far[number]
            so_far[number].extend(fresh.tolist())
        if all(EOS in ids or len(ids) == 12 for ids in so_far):
            return  # the last cycle: nobody needs the cache
        for row, ids, length in zip(cache.rows.tolist(), cache.ids.tolist(), cache.lengths, strict=True):
            assert ids[:length] == [START, *so_far[row][:-1]]

    result = run(step, 9, cache, seed=2, on_step=take)
    assert [[token for token in row if token != PAD] for row in result.ids.tolist()] == so_far


def test_forbidden_ids_are_never_drawn():
    result = run(fake(), 50, forbid_ids=(0, EOS), seed=0)
    assert set(result.ids.unique().tolist()) == {1, 2, 3} and result.truncated.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_logits_fn": lambda logits: logits.fill_(float("-inf"))}, "filter_logits_fn"),
        ({"forbid_ids": range(VOCABULARY)}, "forbid"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(fake(), **options)


@pytest.mark.parametrize(("table", "position"), [("model", 0), ("model", 3), ("drafts", 0), ("drafts", 3)])
def test_nan_logits_are_refused(table, position):
    step = fake()
    getattr(step, table)[:, position] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        run(step, forbid_ids=(EOS,))


def test_what_lies_behind_max_length_does_not_matter():
    expected, step = run(fake(), seed=0, eos_id=None), fake()
    step.model[:, 12:] = step.drafts[:, 12:] = float("nan")
    assert torch.equal(run(step, seed=0, eos_id=None).ids, expected.ids)


def test_judge_falls_back_to_the_model_where_nothing_is_left():
    p = torch.tensor([0.2, 0.3, 0.5]).expand(2, 3, 3)
    count, weights = speculative.judge(torch.tensor([[0, 2], [1, 1]]), p, p, torch.tensor([[0.5, 1.0], [1.0, 0.0]]))
    assert count.tolist() == [1, 0] and torch.equal(weights, p[:, 0])
