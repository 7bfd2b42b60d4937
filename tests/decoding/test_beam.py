"""Beam search against brute-force enumeration of a fake decoder with vocabulary 4 and length 5."""

from __future__ import annotations

import pytest
import torch
from fake_step import FakeCache, FakeStep
from strategies import beam_search, sample_ids

from spear_tts_pytorch.decoding.loop import DecodeResult

EOS, PAD, LENGTH = 3, -1, 5


def search(step: FakeStep, beam_size: int, sources: int = 3, **options) -> DecodeResult:
    options = {"max_length": LENGTH, "eos_id": EOS, "pad_id": PAD, **options}
    return beam_search(step, FakeCache(sources), sources, beam_size=beam_size, **options)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0, -0.5])
def test_an_unlimited_beam_is_exhaustive_search(length_penalty, seed):
    step = FakeStep(seed=seed)
    result = search(step, 4**LENGTH, length_penalty=length_penalty, n_best=10)
    for source in range(3):
        strings = step.strings(source, EOS, LENGTH)
        ranked = sorted(strings, key=lambda s: -strings[s] / len(s) ** length_penalty)[:10]
        assert [tuple(one.ids.tolist()) for one in result.n_best[source]] == ranked
        for one, string in zip(result.n_best[source], ranked, strict=True):
            assert one.score == pytest.approx(strings[string] / len(string) ** length_penalty, abs=1e-5)
            assert one.truncated == (string[-1] != EOS)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("sharpness", [1.5, 4.0])
@pytest.mark.parametrize("beam_size", [2, 3, 5])
def test_narrow_beams_equal_a_plain_search_without_early_stop(beam_size, length_penalty, sharpness):
    """The reference keeps every finished hypothesis and always runs to the end, in ten lines of Python."""
    for seed in range(5):
        step = FakeStep(seed=seed, sharpness=sharpness)
        result = search(step, beam_size, length_penalty=length_penalty, n_best=2)
        for source in range(3):
            live, done = [((), 0.0)], []
            for length in range(1, LENGTH + 1):
                grown = []
                for string, total in live:
                    log_probs = step.after(source, string).tolist()
                    grown += [((*string, token), total + log_prob) for token, log_prob in enumerate(log_probs)]
                grown.sort(key=lambda candidate: -candidate[1])
                done += [(s, t / length**length_penalty) for s, t in grown[:beam_size] if s[-1] == EOS]
                live = [(s, t) for s, t in grown if s[-1] != EOS][:beam_size]
            done += [(s, t / LENGTH**length_penalty) for s, t in live]
            expected = [s for s, _ in sorted(done, key=lambda candidate: -candidate[1])[:2]]
            assert [tuple(one.ids.tolist()) for one in result.n_best[source]] == expected


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(length_penalty):
    for seed in range(20):
        step = FakeStep(length=12, seed=seed, sharpness=2.0)
        greedy = sample_ids(step, FakeCache(3), 3, eos_id=EOS, pad_id=PAD, max_length=12, temperature=0)
        result = search(step, 1, max_length=12, length_penalty=length_penalty)
        assert torch.equal(result.ids, greedy.ids)
        assert torch.equal(result.truncated, greedy.truncated)
        lengths = (greedy.ids != PAD).sum(dim=1)
        torch.testing.assert_close(result.scores, greedy.scores * lengths ** (1 - length_penalty))


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_a_batch_equals_its_rows_alone(beam_size):
    step = FakeStep(length=12, sources=7, seed=3, sharpness=2.5)
    together = search(step, beam_size, sources=7, max_length=12, n_best=beam_size, length_penalty=0.6)
    for source in range(7):
        alone = FakeStep(length=12, sources=7, seed=3, sharpness=2.5)
        alone.table = alone.table[source : source + 1]
        single = search(alone, beam_size, sources=1, max_length=12, n_best=beam_size, length_penalty=0.6)
        mine, other = together.n_best[source], single.n_best[0]
        assert [one.ids.tolist() for one in mine] == [one.ids.tolist() for one in other]
        assert [one.score for one in mine] == pytest.approx([one.score for one in other], abs=1e-6)


def test_n_best_is_sorted_without_duplicates_and_without_anything_after_eos():
    step = FakeStep(length=10, sources=5, seed=1)
    result = search(step, 6, sources=5, max_length=10, n_best=6)
    for row, hypotheses in enumerate(result.n_best):
        scores = [one.score for one in hypotheses]
        strings = [tuple(one.ids.tolist()) for one in hypotheses]
        assert len(strings) == 6 and scores == sorted(scores, reverse=True) and len(set(strings)) == 6
        assert all(EOS not in string[:-1] for string in strings)
        assert result.ids[row][result.ids[row] != PAD].tolist() == list(strings[0])
        assert result.scores[row].item() == pytest.approx(scores[0])


def test_sources_that_are_done_leave_the_batch_with_all_their_beams():
    step = FakeStep(length=30, sources=12, seed=0, sharpness=1.0)
    search(step, 3, sources=12, max_length=30, length_penalty=1.0)
    assert step.rows_seen[:2] == [12, 36] and all(rows % 3 == 0 for rows in step.rows_seen)
    assert len(set(step.rows_seen[1:])) > 2 and step.rows_seen[-1] < 12


def test_rows_of_one_source_stay_neighbours_and_equally_many():
    cache, step = FakeCache(4), FakeStep(length=12, sources=4, seed=2)
    beam_search(step, cache, 4, beam_size=3, eos_id=EOS, pad_id=PAD, max_length=12)
    assert cache.sources.tolist() == sorted(cache.sources.tolist())
    assert set(torch.unique(cache.sources, return_counts=True)[1].tolist()) == {3}


def test_a_beam_that_goes_on_unchanged_is_not_copied():
    step = FakeStep(vocabulary=4, length=8, sources=1)
    step.table[:] = torch.tensor([9.0, 0.0, 0.0, -9.0])
    cache = FakeCache(1)
    beam_search(step, cache, 1, beam_size=1, eos_id=EOS, pad_id=PAD, max_length=8)
    assert cache.selections == []


def test_what_max_length_cuts_is_reported():
    step = FakeStep(length=6, sources=2)
    step.table[0, ..., EOS] = -30.0
    result = search(step, 2, sources=2, max_length=6)
    assert result.truncated[0] and result.ids.shape[1] == 6
    assert not search(step, 2, sources=2, max_length=6, forbid_ids=(0, 1, 2)).truncated.any()


def test_without_eos_all_strings_have_the_full_length():
    step = FakeStep()
    result = search(step, 4**LENGTH, eos_id=None, n_best=3)
    strings = {s: p for s, p in step.strings(1, 99, LENGTH).items()}
    assert result.n_best[1][0].ids.tolist() == list(max(strings, key=strings.get))
    assert result.ids.shape == (3, LENGTH) and not result.truncated.any()


def test_forbidden_ids_never_appear():
    result = search(FakeStep(seed=4), 4, forbid_ids=(0, 2), n_best=4)
    found = {token for hypotheses in result.n_best for one in hypotheses for token in one.ids.tolist()}
    assert found and not found & {0, 2}


def test_fewer_strings_than_asked_give_fewer_hypotheses():
    result = search(FakeStep(), 8, forbid_ids=(0, 1), max_length=2, n_best=8)  # 3, 2 3 and 2 2
    assert [len(hypotheses) for hypotheses in result.n_best] == [3, 3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 2, "forbid_ids": (0, 1, 2, 3)}, "forbid"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(FakeStep(), **options)


@pytest.mark.parametrize("position", [0, 2])
def test_nan_logits_are_refused(position):
    step = FakeStep()
    step.table[1, position] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        search(step, 2)
