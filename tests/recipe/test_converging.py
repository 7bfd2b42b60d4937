"""Training with validation: it stops when there is no gain, keeps the best weights, and resumes as if it had not ended."""

import pytest
import torch
from readers import made_up_pairs, small_evaluator

from spear_tts_pytorch.recipe.converging import Fit, FitOptions, fit
from spear_tts_pytorch.utils.metrics import token_error_rate


@pytest.fixture(autouse=True)
def error_rate_packages():
    pytest.importorskip("jiwer")


class Listed:
    """A reader of one weight, which reads held-out clips with listed error rates, one after the other."""

    def __init__(self, *rates: int, losses: tuple[float, ...] = (9.0,)):
        self.rates, self.losses, self.weight = list(rates), losses, torch.nn.Linear(1, 1)
        self.seen: list[torch.Tensor] = []

    @property
    def module(self):
        return self.weight

    def loss(self, semantic, text):
        return self.weight(torch.ones(1)).square().sum() + (torch.rand(()) if self.weight.training else self.level())

    def level(self) -> float:
        return self.losses[min(len(self.seen), len(self.losses) - 1)] - float(self.weight(torch.ones(1)).square())

    def transcribe(self, rows):
        wrong = self.rates[min(len(self.seen), len(self.rates) - 1)]
        self.seen.append(self.weight.weight.detach().clone())
        return [torch.cat([torch.full((wrong,), 2), torch.full((10 - wrong,), 1)])] * len(rows)


PAIRS = [(torch.tensor([1, 2]), torch.ones(10, dtype=torch.long))] * 4


def test_it_ends_after_validations_without_a_gain_and_keeps_the_best():
    reader = Listed(9, 5, 7, 6, 5, 5)
    done = fit(reader, PAIRS, PAIRS, FitOptions(steps=200, patience=3, progress=False))
    assert done.converged and (done.best_step, done.best_error) == (20, 50.0)  # the first of equal ones
    assert done.falls_at == 50 and done.ends_at == done.step == 67  # a quarter of all updates at falling rates
    assert [one["step"] for one in done.curve] == [10, 20, 30, 40, 50, 60, 67]
    assert torch.equal(reader.weight.weight, reader.seen[1]) and not torch.equal(reader.seen[1], reader.seen[-1])


@pytest.mark.parametrize(
    ("rates", "losses", "ends_at"),
    [
        ((5,), (9.0, 8.0, 7.0, 7.5), 80),  # the loss falls until step 30
        ((10, 9, 9, 9, 9, 9, 9, 5), (9.0,), 147),  # nothing is read until step 80
    ],
)
def test_what_is_a_gain(rates, losses, ends_at):
    done = fit(Listed(*rates, losses=losses), PAIRS, PAIRS, FitOptions(steps=200, patience=3, progress=False))
    assert done.converged and done.ends_at == done.step == ends_at


def test_a_gain_while_the_rate_falls_counts():
    reader = Listed(9, 5, 7, 6, 5, 2, 1)
    done = fit(reader, PAIRS, PAIRS, FitOptions(steps=200, patience=3, progress=False))
    assert done.converged and (done.best_step, done.best_error) == (67, 10.0)
    assert torch.equal(reader.weight.weight, reader.seen[-1])


def test_it_runs_out_of_steps_while_there_is_a_gain():
    done = fit(Listed(*range(9, 0, -1)), PAIRS, PAIRS, FitOptions(steps=8, patience=1, progress=False))
    assert not done.converged and done.step == done.best_step == 8
    alone = fit(Listed(1), PAIRS, [], FitOptions(steps=8, progress=False))
    assert alone.step == 8 and alone.curve == [] and alone.best_error is None


def test_the_rate_rises_stays_and_falls():
    done = Fit(falls_at=30, ends_at=40)
    rates = []
    for _ in range(40):
        rates.append(done.rate(warmup=4))
        done.losses.append(0.0)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and set(rates[3:31]) == {1.0}
    assert rates[31:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


class Ended(Exception):
    pass


@pytest.mark.parametrize("at", [3, 8, 9])
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(tmp_path, at):
    pairs, valid = made_up_pairs(60), made_up_pairs(10, seed=1)
    options = {"steps": 14, "batch_tokens": 150, "seed": 3, "save_every": 2, "progress": False}
    whole = small_evaluator()
    expected = whole.fit(pairs, valid, **options)
    cut, path, calls = small_evaluator(), tmp_path / "training.safetensors", []
    loss = cut.loss

    def failing(semantic, text):
        calls.append(cut.training)
        if sum(calls) > at:
            raise Ended
        return loss(semantic, text)

    cut.loss = failing
    with pytest.raises(Ended):
        cut.fit(pairs, valid, checkpoint=path, **options)
    again = small_evaluator()
    torch.manual_seed(99)
    found = again.fit(pairs, valid, checkpoint=path, **options)
    assert found == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with pytest.raises(
        ValueError, match="training.safetensors is no checkpoint of this training .*other options.*: remove"
    ):
        small_evaluator().fit(pairs, valid, checkpoint=path, **{**options, "seed": 4})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no checkpoint of this training"):
        small_evaluator().fit(pairs, valid, checkpoint=path, **options)


def test_the_best_weights_read_as_recorded():
    pairs, valid = made_up_pairs(100), made_up_pairs(20, seed=1)
    evaluator = small_evaluator()
    done = evaluator.fit(pairs, valid, steps=60, batch_tokens=300, lr=1e-2, progress=False)
    error = token_error_rate(evaluator.transcribe([one for one, _ in valid]), [one for _, one in valid])
    assert error == pytest.approx(done.best_error, abs=1e-3)
    assert done.best_error == min(one["valid_error"] for one in done.curve)
