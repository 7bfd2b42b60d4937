"""The sampling loop over a fake decoder: ends, scores, compaction, reproducibility."""

from __future__ import annotations

import pytest
import torch
from fake_step import FakeCache, FakeStep
from strategies import sample_ids

from spear_tts_pytorch.decoding import sampling
from spear_tts_pytorch.decoding.filters import top_k, top_p
from spear_tts_pytorch.decoding.loop import DecodeResult

EOS, PAD = 3, -1


def run(step: FakeStep, rows: int = 8, **options) -> DecodeResult:
    options = {"eos_id": EOS, "pad_id": PAD, "max_length": 20, **options}
    return sample_ids(step, FakeCache(rows), rows, **options)


def fake(rows: int = 8, length: int = 100, seed: int = 0, sharpness: float = 1.0) -> FakeStep:
    return FakeStep(length=length, sources=rows, seed=seed, sharpness=sharpness)


def test_greedy_follows_the_table():
    step, result = fake(), run(fake(), temperature=0)
    for row in range(8):
        string: list[int] = []
        while len(string) < 20 and EOS not in string:
            string.append(int(step.after(row, tuple(string)).argmax()))
        assert result.ids[row, : len(string)].tolist() == string
        assert (result.ids[row, len(string) :] == PAD).all()
        assert bool(result.truncated[row]) == (EOS not in string)


def test_eos_stays_and_padding_follows():
    result = run(fake(), seed=0)
    assert (result.ids == EOS).any(dim=1).tolist() == (~result.truncated).tolist()
    for row in result.ids.tolist():
        if EOS in row:
            assert set(row[row.index(EOS) + 1 :]) <= {PAD}
            assert PAD not in row[: row.index(EOS)]
    assert (result.ids[:, -1] != PAD).any()  # no longer than its longest row


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"filter_logits_fn": top_k, "filter_fn_kwargs": {"k": 2}}])
def test_scores_are_mean_log_probabilities_of_the_unfiltered_distribution(options):
    step = fake()
    result = run(step, seed=3, **options)
    for row, ids in enumerate(result.ids):
        ids, total = ids[ids != PAD], 0.0
        for position, token in enumerate(ids.tolist()):
            total += step.after(row, tuple(ids[:position].tolist()))[token].item()
        assert result.scores[row].item() == pytest.approx(total / len(ids), abs=1e-5)


def test_rows_that_ended_leave_the_batch():
    step = fake(rows=32)
    run(step, rows=32, max_length=100, seed=0)
    seen = step.rows_seen
    assert seen == sorted(seen, reverse=True) and len(set(seen)) > 3 and seen[-1] <= 4


@pytest.mark.parametrize("policy", [lambda gone, live: False, lambda gone, live: gone > 0])
def test_results_do_not_depend_on_when_rows_leave(policy, monkeypatch):
    expected = run(fake(rows=16), rows=16, seed=5, filter_logits_fn=top_p)
    monkeypatch.setattr(sampling, "worth_leaving", policy)
    result = run(fake(rows=16), rows=16, seed=5, filter_logits_fn=top_p)
    assert torch.equal(result.ids, expected.ids)
    torch.testing.assert_close(result.scores, expected.scores)


def test_results_do_not_depend_on_how_often_they_are_written(monkeypatch):
    expected = run(fake(), max_length=100, seed=5, eos_id=None)
    monkeypatch.setattr(sampling, "FLUSH_EVERY", 7)
    result = run(fake(), max_length=100, seed=5, eos_id=None)
    assert torch.equal(result.ids, expected.ids)


def test_a_row_gets_the_same_whoever_shares_its_batch():
    together = run(fake(), temperature=0)
    for row in range(8):
        step = fake()
        step.table = step.table[row : row + 1]
        alone = run(step, rows=1, temperature=0)
        assert alone.ids[0].tolist() == [token for token in together.ids[row].tolist() if token != PAD]


def test_same_seed_same_result():
    first, second, other = (run(fake(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.ids, second.ids)
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


@pytest.mark.slow
def test_draws_follow_the_strings_probabilities():
    """Chi-square over the strings of length <= 3 and 20,000 rows, cells below 5 pooled, limit at p = 1e-6.

    A temperature of 1.1 or 0.9 would give a statistic of twice the limit.
    """
    rows, base = 20_000, fake(rows=1)
    step = FakeStep(length=3, sources=rows)
    step.table = base.table[:, :3].expand(rows, -1, -1, -1, -1)
    result = run(step, rows=rows, max_length=3, seed=0, temperature=1.0)
    drawn, counts = result.ids.unique(dim=0, return_counts=True)
    found = {tuple(t for t in ids if t != PAD): n for ids, n in zip(drawn.tolist(), counts.tolist(), strict=True)}
    statistic, cells, rest = 0.0, 0, [0.0, 0]
    for string, log_prob in base.strings(0, EOS, 3).items():
        expected = rows * 2.718281828**log_prob
        if expected < 5:
            rest = [rest[0] + expected, rest[1] + found.get(string, 0)]
            continue
        statistic += (found.get(string, 0) - expected) ** 2 / expected
        cells += 1
    assert abs(rest[1] - rest[0]) < 6 * max(rest[0], 1) ** 0.5
    assert cells > 20 and statistic < cells + 6.5 * (2 * cells) ** 0.5


def test_forbidden_ids_are_never_drawn():
    result = run(fake(), forbid_ids=(0, EOS), seed=0)
    assert set(result.ids.unique().tolist()) == {1, 2} and result.truncated.all()


def test_every_row_runs_to_the_end_without_eos():
    result = run(fake(), eos_id=None, seed=0)
    assert result.ids.shape == (8, 20) and (result.ids != PAD).all() and not result.truncated.any()


@pytest.mark.parametrize("steps", [2, 8, 50])
def test_results_do_not_depend_on_how_often_ends_are_looked_for(steps, monkeypatch):
    expected = run(fake(), seed=5)
    monkeypatch.setattr(sampling, "check_every", lambda device: steps)
    result = run(fake(), seed=5)
    assert torch.equal(result.ids, expected.ids)
    torch.testing.assert_close(result.scores, expected.scores)
    assert torch.equal(result.truncated, expected.truncated)


@pytest.mark.parametrize("leaving", [True, False])
def test_progress_tells_every_id_once(leaving, monkeypatch):
    monkeypatch.setattr(sampling, "worth_leaving", lambda gone, live: leaving and gone > 0)
    rows: list[list[int]] = [[] for _ in range(8)]

    def note(progress):
        for number, ids in progress.gained().items():
            rows[number] += ids.tolist()

    result = run(fake(), seed=0, on_step=note)
    assert rows == [[token for token in ids if token != PAD] for ids in result.ids.tolist()]


def test_only_the_last_position_of_the_logits_counts():
    class Wordy(FakeStep):
        def __call__(self, ids, cache):
            logits = super().__call__(ids, cache)
            return torch.cat((torch.full_like(logits, float("nan")), logits), dim=1)

    step = Wordy(length=100, sources=8, sharpness=1.0)
    assert torch.equal(run(step, temperature=0).ids, run(fake(), temperature=0).ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_logits_fn": lambda logits: logits.fill_(float("-inf"))}, "filter_logits_fn"),
        ({"forbid_ids": (0, 1, 2, 3)}, "forbid"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(fake(), **options)


@pytest.mark.parametrize("position", [0, 2])
def test_nan_logits_are_refused(position):
    step = fake()
    step.table[:, position] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        run(step, forbid_ids=(EOS,))
