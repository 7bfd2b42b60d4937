"""Items that cannot be used: named, or left out, counted and the same after an interruption."""

import warnings

import pytest
import torch
from torch.utils.data import Dataset
from training_setup import Frames, make_model, make_pairs, same, timeless, train_options, weights

from spear_tts_pytorch.tokenizers.semantic import ClipError, problem_with
from spear_tts_pytorch.training.stages import SpeechSpeechPretrainer, TextToSemanticTrainer


class Strict(Frames):
    """Refuses rows that are silent, too short or too loud."""

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        for row, end in enumerate([wav.shape[1]] * len(wav) if lengths is None else lengths.tolist()):
            if reason := problem_with(wav[row, :end], 20, 100):
                raise ClipError(row, reason)
        return super().__call__(wav, lengths)


class Named(Dataset):
    """Clips with names; one that is an exception is raised."""

    def __init__(self, items):
        self.items, self.ids = items, [f"clip{index}" for index in range(len(items))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


BAD = {
    "is silent": torch.zeros(40),
    "fewer than one window": torch.randn(7),
    r"not audio in -1..1 \(its peak": torch.full((40,), 3e4),
    "NaN or infinite": torch.full((40,), float("nan")),
}


def clips(bad, place=4, size=9):
    generator = torch.Generator().manual_seed(0)
    good = [torch.randn(40 + 10 * (index % 3), generator=generator) for index in range(size)]
    return [bad if index == place else clip for index, clip in enumerate(good)]


def pretrainer(items, folder=None, seed=0, **options):
    model = make_model(seed, wav2vec=Strict(), ff_dropout=0.1)
    return SpeechSpeechPretrainer(model, dataset=Named(items), **train_options(folder, **options))


@pytest.mark.parametrize(("words", "bad"), BAD.items())
def test_a_clip_that_cannot_be_tokenized_is_named(words, bad):
    for options in ({"valid_frac": 0.0}, {"valid_frac": 0.3}):
        trainer = pretrainer(clips(bad), save_results_every=1, **options)
        with pytest.raises(ValueError, match=rf"^item 4 of the dataset \('clip4'\) .*{words}"):
            trainer.train()
    trainer = pretrainer(clips(bad, place=20), valid_dataset=Named(clips(bad, 2)), save_results_every=1)
    with pytest.raises(ValueError, match=rf"^item 2 of valid_dataset \('clip2'\) .*{words}"):
        trainer.train()


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": None, "batch_tokens": 40}])
def test_a_text_that_is_none_is_named(options):
    texts = [(speech, None if index == 4 else text) for index, (speech, text) in enumerate(make_pairs(9))]
    with pytest.raises((TypeError, ValueError), match=r"item 4 of the dataset .* None: leave the item out"):
        TextToSemanticTrainer(make_model(), dataset=texts, valid_frac=0.0, **train_options(**options)).train()


def noted(trainer):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.train()
    return [str(one.message) for one in found]


def test_items_are_skipped_and_counted_when_asked():
    items = clips(torch.zeros(40), 4)
    items[1], items[7] = OSError("no such file"), torch.randn(3)
    trainer = pretrainer(items, on_error="skip", valid_frac=0.0, log_every=1, num_train_steps=3)
    said = noted(trainer)
    assert set(trainer.batches.items.skipped) == {1, 4, 7}
    for words in ("item 1 of the dataset ('clip1') cannot be used: OSError: no such file", "('clip4') is silent"):
        assert sum(words in line for line in said) == 2, "once in training, once in validation"
    counts = [record["left_out"] for record in trainer.history if "loss" in record and "left_out" in record]
    assert sum(counts) == 3, "an epoch of three updates has each of them once"
    clean = pretrainer([items[index] for index in (0, 2, 3, 5, 6, 8)], num_train_steps=3, valid_frac=0.0)
    clean.train()
    valid = [[r["valid_loss"] for r in one.history if "valid_loss" in r][-1] for one in (trainer, clean)]
    assert all(torch.isfinite(torch.tensor(valid)))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resumed_run_skips_as_one_that_was_not_interrupted(tmp_path, workers):
    items = clips(torch.zeros(40), 4)
    items[0] = RuntimeError("broken")
    options = dict(on_error="skip", valid_frac=0.2, num_workers=workers, batch_size=1)
    whole = pretrainer(items, tmp_path / "whole", **options)
    noted(whole)
    part = pretrainer(items, tmp_path / "part", **options)

    def stop(logs):
        if logs["step"] == 5:
            raise KeyboardInterrupt

    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):
        warnings.simplefilter("ignore")
        part.train(stop)
    resumed = pretrainer(items, tmp_path / "part", seed=1, **options)
    assert int(resumed.steps) == 3
    noted(resumed)
    assert same(weights(whole), weights(resumed)) and timeless(whole.history) == timeless(resumed.history)
    assert any(record.get("left_out") for record in whole.history)


def test_a_dataset_without_an_item_that_can_be_used_is_an_error():
    trainer = pretrainer([torch.zeros(40)] * 6, on_error="skip", valid_dataset=Named(clips(torch.zeros(40))))
    with (
        pytest.warns(UserWarning, match="is silent"),
        pytest.raises(ValueError, match=r"no item of the dataset can be used, of 6 in a row; item \d .*is silent"),
    ):
        trainer.train()


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, got 'ignore'"):
        pretrainer(clips(torch.randn(40)), on_error="ignore")


def test_a_budget_of_ids_counts_waveforms_of_any_kind_alike():
    """An array of NumPy counted each sample as an id, so that every clip made a batch of its own."""
    waves = clips(torch.randn(40))
    kinds = {
        "tensors": waves,
        "arrays": [wave.numpy() for wave in waves],
        "arrays of 64 bits": [wave.double().numpy() for wave in waves],
        "lists": [wave.tolist() for wave in waves],
        "tuples of one": [(wave.numpy(),) for wave in waves],
    }
    plans = {}
    for name, items in kinds.items():
        model = make_model(wav2vec=Frames())
        options = train_options(batch_size=None, batch_tokens=20, num_train_steps=2)
        trainer = SpeechSpeechPretrainer(model, dataset=items, **options)
        trainer.train()
        plans[name] = trainer.batches.sampler.batches(0)
    assert all(plan == plans["tensors"] for plan in plans.values()) and max(map(len, plans["tensors"])) > 1


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": None, "batch_tokens": 40}])
def test_items_that_are_no_waveforms_say_so(options):
    items = {
        "divide 16-bit samples by 32768": [(wave * 1000).short().numpy() for wave in clips(torch.randn(40))],
        "item . of the dataset": [{"array": wave.numpy(), "sampling_rate": 100} for wave in clips(torch.randn(40))],
    }
    for words, dataset in items.items():
        with pytest.raises((TypeError, ValueError), match=words):
            SpeechSpeechPretrainer(make_model(wav2vec=Frames()), dataset=dataset, **train_options(**options)).train()
