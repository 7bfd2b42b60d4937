"""One update: the gradient of all its batches, clipping, and losses that are not finite."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from training_setup import make_model, make_pairs, train_options

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.training.batches import PreparedBatch
from spear_tts_pytorch.training.signals import SIGNALS, StopSignals
from spear_tts_pytorch.training.stages import TextToSemanticTrainer
from spear_tts_pytorch.training.update import NotFiniteError, Update


class Mean(nn.Module):
    """Its loss is the mean of a weight times the given values."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, values):
        return (self.weight * values).mean(), values


def batch(*values, numbers=(0,)):
    return PreparedBatch({"values": torch.tensor(values)}, None, len(values), 10 * len(values), list(numbers))


def make_update(wrapper, **options):
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.0)
    signals = StopSignals()
    return Update(Accelerator(cpu=True), wrapper, optimizer, signals, **options), signals


def test_batches_weigh_by_their_target_ids():
    wrapper = Mean()
    update, _ = make_update(wrapper)
    result = update([batch(1.0, 2.0, 3.0), batch(10.0)], lr=0.5)
    assert result.loss == pytest.approx(4.0) and result.tokens == 40  # the mean of the four values
    assert float(wrapper.weight.detach()) == pytest.approx(1.0 - 0.5 * 4.0)
    assert wrapper.weight.grad is None


def test_gradients_are_clipped():
    wrapper = Mean()
    make_update(wrapper, max_grad_norm=0.5)[0]([batch(8.0)], lr=1.0)
    assert float(wrapper.weight.detach()) == pytest.approx(0.5, abs=1e-5)


def test_a_loss_that_is_not_finite_names_its_batch_and_leaves_the_weights():
    wrapper = Mean()
    update, signals = make_update(wrapper, max_grad_norm=1.0)
    signals.received = SIGNALS[1]
    with pytest.raises(NotFiniteError) as raised:
        update([batch(1.0, numbers=(3, 4)), batch(float("nan"), numbers=(5, 6))], lr=1.0)
    assert raised.value.numbers == [5, 6] and signals.agreed == SIGNALS[1]
    assert float(wrapper.weight.detach()) == 1.0 and wrapper.weight.grad is None
    message = raised.value.located(7, Position(1, 2), [[5], [6]], None)
    assert message.startswith(
        "the loss is nan, or its gradient not finite, at step 7 (epoch 1, batch 2: items [5, 6] of"
    )


def test_a_gradient_that_is_not_finite_names_all_items():
    class Root(Mean):
        def forward(self, values):
            return ((self.weight - 1).sqrt() * values).mean(), values  # 0, with an infinite slope

    wrapper = Root()
    update, _ = make_update(wrapper, max_grad_norm=1.0)
    with pytest.raises(NotFiniteError, match="the loss is 0.0, or its gradient not finite") as raised:
        update([batch(1.0, numbers=(3,)), batch(2.0, numbers=(4,))], lr=1.0)
    assert raised.value.numbers == [3, 4] and float(wrapper.weight.detach()) == 1.0


def test_accumulated_gradient_is_that_of_one_batch():
    pairs = make_pairs(6)
    options = dict(num_train_steps=3, valid_frac=0.0, save_results_every=None, max_grad_norm=None, freeze="none")

    def run(batch_size, grad_accum_every):
        model = make_model()
        TextToSemanticTrainer(
            model, dataset=pairs, **train_options(batch_size=batch_size, grad_accum_every=grad_accum_every, **options)
        ).train()
        return model.state_dict()

    whole, parts_of_it = run(6, 1), run(2, 3)
    for name, value in whole.items():
        assert torch.allclose(value, parts_of_it[name], atol=1e-5), name
