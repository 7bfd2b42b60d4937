"""Real and generated pairs in one training."""

import pytest
from training_setup import make_model, make_pairs, same, timeless, train_options, weights

from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset, write_pairs
from spear_tts_pytorch.training.stages import TextToSemanticTrainer


def test_generated_pairs_join_the_real_ones(tmp_path):
    write_pairs(tmp_path, make_pairs(5), num_semantic_token_ids=20, num_text_token_ids=12, unique_consecutive=True)
    model = make_model()
    options = train_options(valid_frac=0.0, batch_size=None, batch_tokens=60)
    trainer = TextToSemanticTrainer(
        model, dataset=make_pairs(4), generated_audio_text_dataset_folder=str(tmp_path), **options
    )
    assert len(trainer.ds) == 9
    trainer.train()
    only = TextToSemanticTrainer(model, generated_audio_text_dataset_folder=tmp_path, **options)
    assert len(only.ds) == len(GeneratedAudioTextDataset(tmp_path)) == 5

    class Tokenizer:
        codebook_size, unique_consecutive = 20, False

        def __call__(self, wav):
            raise NotImplementedError

    with pytest.raises(ValueError, match="unique_consecutive True, the model has False"):
        other = make_model(wav2vec=Tokenizer())
        TextToSemanticTrainer(other, generated_audio_text_dataset_folder=tmp_path, **options)
    with pytest.raises(ValueError, match="num_text_token_ids 12, the model has 13"):
        other = make_model(num_text_token_ids=13)
        TextToSemanticTrainer(other, generated_audio_text_dataset_folder=tmp_path, **options)


def _kinds(trainer, epochs=1):
    """How often each item of the dataset comes, by epoch, from what is really loaded."""
    trainer._begin()
    counts = []
    for epoch in range(epochs):
        plan = trainer.batches.sampler.batches(epoch)
        numbers = [index for _ in plan for index in trainer.batches.names(next(trainer.dl_iter)["number"].tolist())]
        counts.append([numbers.count(item) for item in range(30)])
    return counts


@pytest.mark.parametrize("batches", [{"batch_size": 3}, {"batch_size": None, "batch_tokens": 60}])
def test_real_and_generated_pairs_mix_by_share(tmp_path, batches):
    write_pairs(
        tmp_path / "p", make_pairs(26), num_semantic_token_ids=20, num_text_token_ids=12, unique_consecutive=True
    )

    def make(share, **options):
        return TextToSemanticTrainer(
            make_model(), dataset=make_pairs(4), generated_audio_text_dataset_folder=tmp_path / "p", real_share=share,
            **train_options(**{"valid_frac": 0.0, **batches, **options}),
        )  # fmt: skip

    first, second = _kinds(make(0.3), epochs=2)
    for counts in (first, second):
        assert counts[4:] == [1] * 26  # generated pairs once each, real ones two or three times
        assert sum(counts[:4]) == round(26 / 0.7 * 0.3) == 11 and set(counts[:4]) == {2, 3}
    assert _kinds(make(0.3), 2) == [first, second] and _kinds(make(0.3, seed=1), 2) != [first, second]
    assert sum(_kinds(make(0.05))[0][:4]) == 4 and sum(_kinds(make(0.05))[0][4:]) == 76  # the other way round
    assert _kinds(make(None)) == [[1] * 30]
    split = make(0.5, valid_frac=0.2)
    held_out = set(split.valid_ds.indices)
    [counts] = _kinds(split)
    assert all((counts[item] == 0) == (item in held_out) for item in range(30))
    assert sum(counts[:4]) == sum(counts[4:])
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="real_share must be above 0 and below 1"):
            make(share)
    with pytest.raises(ValueError, match="real_share needs pairs of both kinds"):
        TextToSemanticTrainer(make_model(), dataset=make_pairs(4), real_share=0.5, **train_options())


def test_a_mixture_resumes(tmp_path):
    write_pairs(
        tmp_path / "p", make_pairs(8), num_semantic_token_ids=20, num_text_token_ids=12, unique_consecutive=True
    )

    def make(folder, share=0.5, seed=0):
        return TextToSemanticTrainer(
            make_model(seed), dataset=make_pairs(3), generated_audio_text_dataset_folder=tmp_path / "p",
            real_share=share, **train_options(folder, num_train_steps=14),
        )  # fmt: skip

    whole = make(tmp_path / "whole")
    whole.train()
    cut = make(tmp_path / "cut")
    for _ in range(10):
        cut.train_step()
    resumed = make(tmp_path / "cut", seed=1)
    resumed.train()
    assert same(weights(whole), weights(resumed)) and timeless(whole.history) == timeless(resumed.history)
    with pytest.raises(ValueError, match="mixture is .*0.5.* there and .*0.25.* here"):
        make(tmp_path / "cut", share=0.25)
