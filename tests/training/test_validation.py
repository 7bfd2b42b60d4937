"""Validation: accuracy, error rates of what is generated, and the best step."""

import json

import many
import pytest
import torch
from training_setup import make_model, make_pairs, make_speech, make_trainer, train_options

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.tokens import strip
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer


def test_accuracy_is_the_share_of_target_ids_that_are_likeliest():
    pairs = make_pairs(5, seed=1)
    trainer = make_trainer("forward", dataset=make_pairs(), valid_dataset=pairs, batch_size=2, num_train_steps=20)
    trainer.train()
    model, right, ids = trainer.model.eval(), 0, 0
    for speech, text in pairs:
        logits = model(text[None], speech[None], source_type="text", target_type="speech")[0, : len(speech) + 1]
        wanted = torch.cat((speech, torch.tensor([model.eos_id["speech"]])))
        right, ids = right + int((logits.argmax(dim=-1) == wanted).sum()), ids + len(wanted)
    assert 0 < right < ids
    assert trainer.history[-1]["accuracy"] == pytest.approx(right / ids)


@pytest.mark.slow
def test_accuracy_of_other_stages():
    for options in ({}, {"reconstruct_seq": True}, {"reconstruct_seq": True, "mask_id": 0}):
        trainer = SpeechSpeechPretrainer(
            make_model(), dataset=[torch.tensor([3, 3, 3, 3])], **options,
            **train_options(num_train_steps=60, num_warmup_steps=5, save_results_every=None),
        )  # fmt: skip
        assert trainer.validate() > 1 and trainer.history[-1]["accuracy"] < 1
        trainer.train()
        trainer.validate()
        assert trainer.history[-1]["accuracy"] == 1.0
    trainer = SemanticToTextTrainer(make_model(ctc=True), dataset=make_pairs(), ctc_weight=1.0, **train_options())
    trainer.validate()
    assert "accuracy" not in trainer.history[-1]


def generated_errors(world_sized, trainer_class, tokenizer):
    """The error rate that a trainer records of an untrained model, and its model."""
    model = make_model(num_text_token_ids=12 if tokenizer is None else None, tokenizer_encode=tokenizer)
    trainer = trainer_class(
        model, dataset=make_pairs(), valid_dataset=make_pairs(5, seed=1), valid_generate=4, **train_options()
    )
    trainer.validate()
    return trainer.history[-1], {name: value.numpy() for name, value in model.state_dict().items()}


def test_error_rates_of_what_is_generated():
    rapidfuzz = pytest.importorskip("rapidfuzz")
    record, _ = generated_errors(1, TextToSemanticTrainer, None)
    model, errors, length = make_model(), 0, 0
    for speech, text in make_pairs(5, seed=1)[:4]:
        made = model.eval().generate(
            text[None], source_type="text", target_type="speech", temperature=0.0, max_length=2 * len(speech) + 10
        )
        made = strip(made[0], -1, model.eos_id["speech"]).tolist()
        errors += rapidfuzz.distance.Levenshtein.distance(made, speech.tolist())
        length += len(speech)
    assert record["token_error_rate"] == pytest.approx(100 * errors / length)
    found = many.results(2, generated_errors, 2, TextToSemanticTrainer, None)
    assert [other["token_error_rate"] for other, _ in found] == [record["token_error_rate"]] * 2


def test_texts_are_compared_by_characters():
    pytest.importorskip("jiwer")
    record, _ = generated_errors(1, SemanticToTextTrainer, CharacterTokenizer("abcdefghi"))
    assert record["character_error_rate"] > 0 and "token_error_rate" not in record


def test_pretraining_has_nothing_to_generate():
    with pytest.raises(ValueError, match="valid_generate needs pairs"):
        SpeechSpeechPretrainer(make_model(), dataset=make_speech(), valid_generate=1, **train_options())
    with pytest.raises(ValueError, match="valid_generate must be at least 0"):
        TextToSemanticTrainer(make_model(), dataset=make_pairs(), valid_generate=-1, **train_options())


def test_a_loss_that_rises_is_told_and_the_best_is_the_earlier_step(tmp_path, capsys):
    model = make_model()
    other = [(speech.flip(0), text) for speech, text in make_pairs(6, seed=3)]
    trainer = TextToSemanticTrainer(
        model, dataset=make_pairs(4), valid_dataset=other, freeze="none",
        **train_options(tmp_path, num_train_steps=60, save_results_every=10, lr=2e-2, progress=True),
    )  # fmt: skip
    trainer.train()
    valid = [record for record in trainer.history if "valid_loss" in record]
    losses = [record["valid_loss"] for record in valid]
    best = valid[losses.index(min(losses))]["step"]
    assert losses[-1] > min(losses) and valid[-1]["best"] is False and valid[-1]["best_step"] == best < 60
    told = capsys.readouterr().out
    assert f"step 60: validation loss {losses[-1]:.4f} is not below the {min(losses):.4f} of step {best}" in told
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record for record in lines if "valid_loss" in record] == valid
    model.load_state_dict(TextToSemantic.from_pretrained(tmp_path / "best").state_dict())
    assert trainer.validate() == pytest.approx(min(losses), rel=1e-5)
