"""Batches of a training: ids from waveforms once, counts, deletion before the step, and places in the stream."""

import pytest
import torch
from training_setup import Frames, make_model, make_pairs, make_speech, make_trainer, train_options

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.objectives import Corruption
from spear_tts_pytorch.training.batches import BatchSizes, rows_per_process
from spear_tts_pytorch.training.options import TrainingOptions
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer
from spear_tts_pytorch.utils.noise import row_keys

CPU = torch.device("cpu")


class Counted(Frames):
    """Counts its calls."""

    calls = 0

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        self.calls += 1
        return super().__call__(wav, lengths)


@pytest.mark.parametrize("trainer_class", [SpeechSpeechPretrainer, SemanticToTextTrainer, TextToSemanticTrainer])
def test_waveforms_become_ids_once_for_each_batch(trainer_class):
    torch.manual_seed(0)
    waves, tokenizer = [torch.randn(10 * length) for length in (3, 8, 5, 9)], Counted()
    data = waves if trainer_class is SpeechSpeechPretrainer else [(wave, torch.tensor([1, 2])) for wave in waves]
    options = train_options(save_results_every=None, grad_accum_every=2)
    trainer = trainer_class(make_model(wav2vec=tokenizer), dataset=data, **options)
    trainer.train_step()
    assert tokenizer.calls == 2


def test_ids_of_a_tokenizer_are_checked():
    class Larger(Frames):
        def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
            return super().__call__(wav, lengths) + 30

    waves = [torch.randn(40), torch.randn(40)]
    trainer = SpeechSpeechPretrainer(make_model(wav2vec=Larger()), dataset=waves, **train_options())
    with pytest.raises(
        ValueError, match=r"wav2vec gave the id 3[01], but .* 0 to 19: .*\(among items \[[01]\] of the dataset\)"
    ):
        trainer.train_step()


def test_a_waveform_that_cannot_be_tokenized_is_named():
    for place in (2, 5):
        waves = [torch.randn(40) for _ in range(6)]
        waves[place][3] = float("nan")
        trainer = SpeechSpeechPretrainer(
            make_model(wav2vec=Frames()), dataset=waves, **train_options(valid_frac=0.0, batch_size=1)
        )
        with pytest.raises(ValueError, match=rf"^item {place} of the dataset holds samples that are NaN or infinite"):
            for _ in range(6):
                trainer.train_step()


def test_pretraining_gets_its_source_and_target_as_drawn():
    trainer = make_trainer("pretrain")
    trainer._begin()
    raw = trainer.batches.items.collate([(number, make_speech()[number]) for number in (3, 1)])
    prepared = trainer.batches.prepare(raw, 42, 5, training=True)
    keys = row_keys(torch.tensor([3, 1]), 42, 5)
    source, target = Corruption(-1)(raw["semantic"], keys)
    assert torch.equal(prepared.inputs["x"], source) and torch.equal(prepared.inputs["target"], target)
    assert torch.equal(prepared.inputs["row_keys"], keys) and prepared.inputs["check_ids"] is False
    assert prepared.weight == int((target != -1).sum()) + 2 and prepared.targets is None
    assert prepared.tokens == int((raw["semantic"] != -1).sum()) and prepared.numbers == [3, 1]
    valid = trainer.batches.prepare(raw, 0, None, training=False)
    assert valid.targets.shape == (2, valid.inputs["target"].shape[1] + 1)
    assert not torch.equal(valid.inputs["row_keys"], keys)


def test_token_dropout_is_for_training():
    trainer = make_trainer("backtranslate", token_dropout=0.5)
    raw = trainer.batches.items.collate([(0, make_pairs()[0])])
    assert trainer.batches.prepare(raw, 1, 1, True).tokens == sum(map(len, make_pairs()[0]))  # before deletion
    lengths = {
        training: trainer.batches.prepare(raw, 1, 1, training).inputs["semantic_token_ids"].shape[1]
        for training in (True, False)
    }
    assert lengths[True] < lengths[False] == len(make_pairs()[0][0])


def test_pretraining_names_a_row_that_has_nothing_to_predict():
    """One id is never deleted, and without an end of sequence there is no target."""
    model = make_model(autoset_semantic_eos_id=False)
    trainer = SpeechSpeechPretrainer(model, dataset=[torch.tensor([1]), torch.tensor([2])], **train_options())
    with pytest.raises(ValueError, match="target has a row without any id"):
        trainer.train_step()


def test_batches_are_taken_from_a_place_on():
    trainer = make_trainer("forward")
    batches = trainer.batches
    with pytest.raises(RuntimeError, match="call begin first"):
        batches.take(1, 0)
    batches.begin(Position())
    whole = [batch.numbers for batch in batches.take(6, 0)]
    batches.begin(Position(0, 2))
    assert [batch.numbers for batch in batches.take(4, 0)] == whole[2:]
    assert whole[4] != whole[0] and min(whole[4]) >= len(trainer.ds)  # numbers continue through the epochs
    batches.end()
    with pytest.raises(RuntimeError, match="call begin first"):
        batches.take(1, 0)


def test_sizes_follow_from_options():
    options = TrainingOptions(num_train_steps=1, num_warmup_steps=0, batch_size=6, split_batches=True, seed=None)
    assert BatchSizes.of(options, None, 3) == BatchSizes(2, None, False, 0, 320, 0)
    assert BatchSizes.of(options, 160, 1).samples_per_token == 160
    with pytest.raises(ValueError, match="split_batches needs a batch_size that 4 processes can share, got 6"):
        rows_per_process(6, 4)
