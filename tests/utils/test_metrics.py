"""Error rates computed by hand, and the coverage of bootstrap intervals."""

import sys

import pytest
import torch

from spear_tts_pytorch.utils.metrics import bootstrap_interval, character_error_rate, character_errors, token_error_rate


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
