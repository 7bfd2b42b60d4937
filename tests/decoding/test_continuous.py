"""Places that are refilled: every source gets what it gets alone, by enumeration or by its own noise."""

from functools import partial

import pytest
import torch
from fake_step import FakeCache, FakeStep
from strategies import CPU, beam_search, options_and_limits, sample_ids

from spear_tts_pytorch.decoding.beam import BeamSearch
from spear_tts_pytorch.decoding.loop import Admitted, decode, drained
from spear_tts_pytorch.decoding.sampling import Sampling

EOS, PAD = 3, -1
SOURCES = [0, 2, 1, 1, 0, 2, 2, 2, 0, 1, 0, 0, 2, 1, 0]


class RaggedCache:
    """Rows of different lengths: each the source it belongs to and the ids seen so far."""

    def __init__(self, sources):
        self.rows = [(source, ()) for source in sources]

    def select(self, rows):
        self.rows = [self.rows[row] for row in rows.tolist()]

    def replace(self, sources, other):
        each = len(other.rows) // len(sources)
        for place, source in enumerate(sources):
            self.rows[source * each : source * each + each] = other.rows[place * each : place * each + each]


class Line:
    """A decoder, and the sources that wait for it; notes how many rows each step has."""

    def __init__(self, step: FakeStep, sources: list[int]):
        self.fake, self.waiting, self.widths = step, list(enumerate(sources)), []

    def step(self, ids, cache):
        cache.rows = [(source, (*seen, *new)) for (source, seen), new in zip(cache.rows, ids.tolist(), strict=True)]
        self.widths += [len(cache.rows)] if ids.shape[1] else []
        return torch.stack([self.fake.after(*row) for row in cache.rows])[:, None]

    def admit(self, n):
        batch, self.waiting = self.waiting[:n], self.waiting[n:]
        if not batch:
            return None
        cache = RaggedCache([source for _, source in batch])
        logits = self.step(torch.empty(len(batch), 0, dtype=torch.long), cache)[:, -1]
        return Admitted([number for number, _ in batch], cache, logits)


def decoded(step, sources, begin, slots):
    line = Line(step, sources)
    found = drained(decode(line.step, line.admit, begin, slots))
    assert sorted(found) == list(range(len(sources)))
    return [found[number] for number in range(len(sources))], line


def sampling(temperature=1.0, **options):
    how, limits = options_and_limits(EOS, temperature=temperature, **options)
    return partial(Sampling, options=how, limits=limits, seed=5, device=CPU)


def beams(beam_size, **options):
    how, limits = options_and_limits(EOS, beam_search_decode=True, beam_size=beam_size, **options)
    return partial(BeamSearch, options=how, limits=limits, device=CPU)


def alone(step, source):
    single = FakeStep(length=step.table.shape[1])
    single.table = step.table[source : source + 1]
    return single


@pytest.mark.parametrize("slots", [1, 2, 4, 30])
def test_greedy_decoding_is_that_of_each_source_alone(slots):
    for seed in range(5):
        step = FakeStep(length=12, seed=seed, sharpness=2.0)
        results, _ = decoded(step, SOURCES, sampling(temperature=0, max_length=12), slots)
        for source, (best,) in zip(SOURCES, results, strict=True):
            options = dict(eos_id=EOS, pad_id=PAD, max_length=12, temperature=0)
            wanted = sample_ids(alone(step, source), FakeCache(1), 1, **options)
            assert best.ids.tolist() == wanted.ids[0].tolist()
            assert best.score == pytest.approx(float(wanted.scores), abs=1e-5)
            assert best.truncated == bool(wanted.truncated)


@pytest.mark.parametrize("slots", [1, 2, 4, 30])
@pytest.mark.parametrize("length_penalty", [0.0, 0.8, -0.5])
def test_beams_are_those_of_each_source_alone(slots, length_penalty):
    for seed in range(5):
        step = FakeStep(length=12, seed=seed, sharpness=2.0)
        common = dict(beam_size=3, n_best=2, max_length=12, length_penalty=length_penalty)
        results, _ = decoded(step, SOURCES, beams(**common), slots)
        for source, found in zip(SOURCES, results, strict=True):
            wanted = beam_search(alone(step, source), FakeCache(1), 1, eos_id=EOS, pad_id=PAD, **common).n_best[0]
            assert [(one.ids.tolist(), one.truncated) for one in found] == [
                (one.ids.tolist(), one.truncated) for one in wanted
            ]
            assert [one.score for one in found] == pytest.approx([one.score for one in wanted], abs=1e-5)


def test_draws_are_those_of_the_number_alone_in_any_company():
    step = FakeStep(length=40, seed=1)
    wanted, _ = decoded(step, SOURCES, sampling(max_length=40), 1)
    assert len({tuple(best.ids.tolist()) for (best,) in wanted}) > 10
    for slots in (2, 5, 30):
        results, _ = decoded(step, SOURCES, sampling(max_length=40), slots)
        assert all(torch.equal(a.ids, b.ids) for (a,), (b,) in zip(results, wanted, strict=True))


def test_draws_have_the_distribution_of_the_logits():
    """Chi-square over all strings of at most three ids."""
    step, n = FakeStep(length=3, seed=4, sharpness=1.0), 5_000
    table = {string: float(torch.tensor(log_p).exp()) for string, log_p in step.strings(1, EOS, 3).items()}
    logits = {}  # the fake step is slow in Python: look each prefix up once
    line = Line(step, [1] * n)

    def quick(ids, cache):
        cache.rows = [(source, (*seen, *new)) for (source, seen), new in zip(cache.rows, ids.tolist(), strict=True)]
        for row in set(cache.rows) - logits.keys():
            logits[row] = step.after(*row) if len(row[1]) < 3 else torch.zeros(4)
        return torch.stack([logits[row] for row in cache.rows])[:, None]

    line.step = quick
    counts = dict.fromkeys(table, 0)
    for (best,) in drained(decode(quick, line.admit, sampling(max_length=3), 500)).values():
        counts[tuple(best.ids.tolist())] += 1
    statistic = sum((counts[string] - n * p) ** 2 / (n * p) for string, p in table.items())
    freedom = len(table) - 1
    assert statistic < freedom + 4.5 * (2 * freedom) ** 0.5, f"chi-square {statistic:.1f} for {freedom}"


@pytest.mark.parametrize("slots", [2, 4])
def test_places_do_not_stay_empty_while_others_wait(slots):
    step = FakeStep(length=40, seed=1)
    _, line = decoded(step, SOURCES * 20, sampling(max_length=40), slots)
    assert len(line.widths) > 150
    assert set(line.widths[:-40]) == {slots}  # the last ones leave one after the other


@pytest.mark.parametrize("waiting", [1, 5])
@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
@pytest.mark.parametrize("strategy", ["sampling", "beams"])
def test_nothing_to_choose_from_and_nan_are_said(strategy, value, waiting):
    step = FakeStep(length=5)
    step.table[1] = value
    begin = sampling(max_length=5) if strategy == "sampling" else beams(2, max_length=5)
    with pytest.raises(ValueError, match="NaN|no id"):
        decoded(step, [0] * waiting + [1], begin, 2)


def test_nobody_goes_beyond_the_maximal_length_in_waiting_for_others():
    step = FakeStep(length=40, seed=1)
    step.table[0, :, :, :, EOS] = -1e4  # never ends
    line = Line(step, ([0] * 3 + [1] * 29) * 3)
    longest = []
    plain = line.step

    def watched(ids, cache):
        longest.append(max(len(seen) for _, seen in cache.rows) + ids.shape[1])
        return plain(ids, cache)

    results = drained(decode(watched, line.admit, sampling(max_length=20), 32))
    assert len(results) == 96 and max(longest) == 19  # the last id is not read
    assert sum(best.truncated for (best,) in results.values()) >= 9


def test_the_history_of_sources_that_have_left_is_forgotten():
    """Hundreds of short sources beside a long one, then short ones alone: columns do not pile up."""
    step = FakeStep(length=200, seed=1)
    step.table[..., EOS] += 2.0
    line, states = Line(step, [1] * 600), []
    begin = sampling(max_length=200)

    def noted(numbers):
        states.append(begin(numbers))
        return states[-1]

    found = drained(decode(line.step, line.admit, noted, 4))
    assert len(found) == 600
    longest = max(len(best.ids) for (best,) in found.values())
    assert states[0].ids.shape[1] <= 4 * (longest + 64)
