"""Fingerprints: what tells runs and datasets apart, and what may change."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from training_setup import make_pairs, make_trainer

from spear_tts_pytorch.training.fingerprint import CHANGEABLE, data_hash, differences, fingerprint


def test_hashes_of_data_see_ids_but_not_noise():
    pairs = make_pairs(20)
    assert data_hash(pairs) == data_hash(make_pairs(20)) != data_hash(make_pairs(20, seed=1))
    assert data_hash(pairs[:1]) == data_hash(pairs[:1]) != data_hash(pairs[1:2])
    assert data_hash([(pairs[0][0], "a text")]) != data_hash([(pairs[0][0], "b text")])
    assert data_hash([torch.randn(9)]) == data_hash([torch.randn(9)]) != data_hash([torch.randn(8)])

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.randint(0, 20, (8,))

    assert data_hash(Augmented()) == data_hash(Augmented())


def of(trainer, **options):
    parts = dict(task="forward", mixture=None, trained=["a", "b"], stage_options={"x": 1})
    own = {key: options.pop(key) for key in list(options) if key in parts}
    changed = dataclasses.replace(trainer.options, **options)
    return fingerprint(changed, Accelerator(), batches=trainer.batches, **{**parts, **own})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"task": "pretrain"}, "task is 'forward' there and 'pretrain' here"),
        ({"trained": ["a"]}, "trained parameters is"),
        ({"stage_options": {"x": 2}}, "options of the stage is {'x': 1} there and {'x': 2} here"),
        ({"mixture": (3, 0.5)}, r"mixture is None there and \[3, 0.5\] here"),
        ({"seed": 1}, "seed is 42 there and 1 here"),
        ({"grad_accum_every": 2}, "batches per update .* is 1 there and 2 here"),
    ],
)
def test_other_runs_differ(change, words):
    trainer = make_trainer("forward")
    different, changed = differences(of(trainer), of(trainer, **change))
    assert len(different) == 1 and not changed
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(different[0])


def test_steering_may_change_and_settings_of_other_releases_do_not_count():
    trainer = make_trainer("forward")
    here = of(trainer, lr=1.0, wd=0.1, max_grad_norm=None, label_smoothing=0.2, dropout=0.3, num_train_steps=20)
    different, changed = differences(of(trainer), here)
    assert not different and len(changed) == 6
    there = of(trainer)
    del there["optimizer"], there[CHANGEABLE]["wd"]
    assert differences({**there, "new": 1}, of(trainer)) == ([], [])
