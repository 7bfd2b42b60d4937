"""Error rates computed by hand, and the coverage of bootstrap intervals."""

import sys

import numpy as np
import pytest
import torch

from spear_tts_pytorch.utils.metrics import (
    bootstrap_interval,
    character_error_rate,
    character_errors,
    mel_cepstral_distortion,
    token_error_rate,
)


@pytest.fixture(autouse=True)
def error_rate_packages():
    pytest.importorskip("jiwer")


def test_character_error_rate_is_over_the_whole_corpus():
    hypotheses, references = ["abc", "axc", "", "abcdef"], ["abc", "abc", "ab", "abc"]
    assert character_errors(hypotheses, references) == ([0, 1, 2, 3], [3, 3, 2, 3])
    assert character_error_rate(hypotheses, references) == pytest.approx(100 * 6 / 11)
    assert character_errors([" a b "], ["a b"]) == ([0], [3]) == character_errors(["a b"], ["a b  "])
    assert character_error_rate(["x"], ["x"]) == 0
    assert character_error_rate(["aaaaa"], ["b"]) == 500
    assert character_error_rate(["x", "a"], ["", "a"]) == 100  # nothing to say, something said


def test_token_error_rate_takes_tensors_and_lists():
    hypotheses = [torch.tensor([1, 2, 3]), torch.tensor([], dtype=torch.long)]
    assert token_error_rate(hypotheses, [[1, 3], [5, 5]]) == pytest.approx(100 * 3 / 4)
    assert token_error_rate([[300, 301]], [torch.tensor([300, 301])]) == 0


@pytest.mark.parametrize("rate", [character_error_rate, token_error_rate])
@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [([], [], "empty"), (["a"], ["a", "b"], "equally many"), (["a"], [""], "at least one")],
)
def test_error_rates_refuse_what_they_cannot_compare(rate, hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        rate(hypotheses, references)


@pytest.mark.parametrize(
    ("rate", "hypotheses", "package"),
    [(character_error_rate, ["a"], "jiwer"), (token_error_rate, [[1]], "rapidfuzz")],
)
def test_missing_packages_are_named(rate, hypotheses, package, monkeypatch):
    for module in ("jiwer", "rapidfuzz", "rapidfuzz.distance"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{package}.*spear-tts-pytorch\[demo\]"):
        rate(hypotheses, hypotheses)


def test_bootstrap_intervals_cover_the_true_rate():
    """95% intervals of 60 utterances each at a true rate of 10%: between 84 and 100 of 100 cover it."""
    noise = torch.Generator().manual_seed(0)
    covered = 0
    for draw in range(100):
        lengths = torch.randint(5, 30, (60,), generator=noise)
        errors = [float((torch.rand(n, generator=noise) < 0.1).sum()) for n in lengths.tolist()]
        low, high = bootstrap_interval(errors, lengths.tolist(), seed=draw, draws=500)
        covered += low <= 10 <= high
    assert 84 <= covered


def test_bootstrap_is_reproducible_and_narrows_with_more_utterances():
    few = bootstrap_interval([0, 1, 2, 0] * 5, [10] * 20, seed=1)
    many = bootstrap_interval([0, 1, 2, 0] * 500, [10] * 2000, seed=1)
    assert few == bootstrap_interval([0, 1, 2, 0] * 5, [10] * 20, seed=1)
    uneven = [3, 10, 7, 12] * 5
    assert len({bootstrap_interval([0, 1, 2, 0] * 5, uneven, seed=seed) for seed in range(5)}) > 1
    assert few[0] < many[0] < 7.5 < many[1] < few[1]
    assert bootstrap_interval([1, 1], [4, 4]) == (25.0, 25.0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1], [1], level=1.0)


def mean_of_path(costs):
    """The mean cost over the cheapest path, cell by cell."""
    best = {}
    for row in range(costs.shape[0]):
        for column in range(costs.shape[1]):
            before = [
                best[place] for place in ((row - 1, column - 1), (row, column - 1), (row - 1, column)) if place in best
            ]
            total, length = min(before, key=lambda one: one[0]) if before else (0.0, 0)
            best[row, column] = total + costs[row, column], length + 1
    total, length = best[costs.shape[0] - 1, costs.shape[1] - 1]
    return total / length


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (6, 1), (7, 9), (12, 5)])
def test_distortion_is_the_mean_over_the_cheapest_path(rows, columns):
    generator = torch.Generator().manual_seed(rows * columns)
    first, second = (torch.randn(count, 20, generator=generator) for count in (rows, columns))
    place = (np.arange(20) + 0.5) * np.pi / 20
    cepstra = [one.double().numpy() @ np.cos(place[:, None] * np.arange(1, 14)) / 20 for one in (first, second)]
    costs = np.linalg.norm(cepstra[0][:, None] - cepstra[1][None], axis=-1) * 10 / np.log(10) * np.sqrt(2)
    assert mel_cepstral_distortion(first, second) == pytest.approx(mean_of_path(costs))


def test_distortion_is_blind_to_tempo_and_loudness_and_is_in_decibels():
    spectra = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    slower = spectra.repeat_interleave(2, dim=0)
    assert mel_cepstral_distortion(slower, spectra) == pytest.approx(0, abs=1e-5)
    assert mel_cepstral_distortion(spectra + 3, spectra) == pytest.approx(0, abs=1e-5)
    # A cosine over the bands of height 1 dB has a root mean square of sqrt(1/2) dB.
    ripple = np.log(10) / 10 * np.cos(2 * np.pi * (np.arange(40) + 0.5) / 40)
    assert mel_cepstral_distortion(spectra[:1] + torch.tensor(ripple), spectra[:1]) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("shape", [(0, 40), (5, 39), (5, 13), (5,)])
def test_distortion_of_what_cannot_be_compared(shape):
    with pytest.raises(ValueError, match="spectra and reference"):
        mel_cepstral_distortion(torch.zeros(shape), torch.zeros(5, 13 if shape == (5, 13) else 40))
