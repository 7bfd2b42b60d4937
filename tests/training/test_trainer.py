"""Trainers: resuming, several in one process, small datasets, frozen parts, folders, learning at all, bad input."""

import json
import math

import pytest
import torch
from training_setup import (
    CTC,
    STAGES,
    Frames,
    make_model,
    make_pairs,
    make_speech,
    make_trainer,
    same,
    timeless,
    train_options,
    weights,
)

from spear_tts_pytorch.data.loader import Position
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokens import strip
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("options", [{}, {"batch_size": None, "batch_tokens": 40, "grad_accum_every": 2}], ids=str)
def test_resumed_is_uninterrupted(tmp_path, stage, options):
    whole = make_trainer(stage, tmp_path / "whole", **options)
    start = weights(whole)
    whole.train()
    cut = make_trainer(stage, tmp_path / "cut", **options)
    assert same(start, weights(cut))
    for _ in range(5):  # a checkpoint after 3, then two updates and a validation that are lost
        cut.train_step()
    torch.randn(7)  # what happens in between changes nothing
    resumed = make_trainer(stage, tmp_path / "cut", seed=1, **options)
    assert int(resumed.steps) == 3
    torch.randn(3)
    resumed.train()
    assert not same(start, weights(whole))
    assert same(weights(whole), weights(resumed))
    assert timeless(resumed.history) == timeless(whole.history)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history
    again = make_trainer(stage, tmp_path / "cut", seed=2, **options)  # a finished run: nothing more happens
    again.train()
    assert same(weights(whole), weights(again)) and int(again.steps) == 8


def test_two_trainers_in_one_process_do_not_touch_each_other():
    def run(interleaved):
        model = make_model(**CTC)
        first = SemanticToTextTrainer(model, dataset=make_pairs(), **train_options())
        second = TextToSemanticTrainer(model, dataset=make_pairs(), **train_options())
        first.train()
        if interleaved:
            TextToSemanticTrainer(make_model(5), dataset=make_pairs(), freeze="none", **train_options()).train_step()
        second.train()
        return model.state_dict()

    assert same(run(False), run(True))


def test_each_trains_its_own_parameters_whenever_it_was_made():
    model = make_model(**CTC)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = SemanticToTextTrainer(model, dataset=make_pairs(), **train_options())
    TextToSemanticTrainer(model, dataset=make_pairs(), freeze="none", **train_options())  # made later, not run
    first.train_step()
    encoder = SpeechSpeechPretrainer(make_model(), dataset=make_speech(), **train_options())
    encoder.train_step()
    before_rest = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    SemanticToTextTrainer(encoder.model, dataset=make_pairs(), **train_options())  # freezes what is being trained
    encoder.train()
    name = next(key for key in before_rest if key.startswith("source_transformer") and key.endswith("weight"))
    assert not torch.equal(before_rest[name], encoder.model.state_dict()[name])
    first.train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(("source_transformer", "token_emb.speech")) for name in changed)


def test_mixed_precisions_in_one_process():
    options = train_options(num_train_steps=1, num_warmup_steps=0, save_results_every=None)
    half = TextToSemanticTrainer(
        make_model(), dataset=make_pairs(), accelerate_kwargs={"mixed_precision": "bf16"}, **options
    )
    full = TextToSemanticTrainer(make_model(), dataset=make_pairs(), **options)
    seen = []
    for trainer in (half, full):
        trainer.model.target_transformer.layers[0].cross_attention.register_forward_hook(
            lambda module, args, output: seen.append(output.dtype)
        )
        trainer.train_step()
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.slow
def test_overfits_a_few_pairs():
    pairs = make_pairs(6)
    options = train_options(
        num_train_steps=250, num_warmup_steps=10, batch_size=6, valid_frac=0.0, save_results_every=None, log_every=50
    )
    model = make_model()
    trainer = TextToSemanticTrainer(model, dataset=pairs, freeze="none", **options)
    trainer.train()
    losses = [record["loss"] for record in trainer.history]
    assert losses[0] > 0.5 and losses[-1] < 0.05
    for speech, text in pairs:
        ids = model.generate(text[None], source_type="text", target_type="speech", temperature=0.0, max_length=30)
        assert strip(ids[0], -1, model.eos_id["speech"]).tolist() == speech.tolist()


@pytest.mark.parametrize("num_items", [1, 2, 5])
def test_datasets_of_any_size(num_items):
    for options in ({}, {"batch_size": 64, "drop_last": True}, {"batch_size": None, "batch_tokens": 5}):
        trainer = make_trainer("forward", dataset=make_pairs(num_items), num_train_steps=2, **options)
        trainer.train()
        assert len(trainer.ds) == max(1, int(0.95 * num_items)) and len(trainer.valid_ds) >= 1
        assert math.isfinite(trainer.history[-1]["valid_loss"])


def test_validation_sees_everything_once_weighted_by_ids():
    trainer = make_trainer("forward", valid_dataset=make_pairs(7, seed=1), batch_size=2, label_smoothing=0.1)
    trainer.model.eval()
    losses, counts = [], []
    for speech, text in make_pairs(7, seed=1):
        options = dict(source_type="text", target_type="speech", return_loss=True)
        losses.append(trainer.model(text[None], speech[None], **options).item() * (len(speech) + 1))
        counts.append(len(speech) + 1)
    assert trainer.validate() == pytest.approx(sum(losses) / sum(counts), rel=1e-5)
    assert trainer.validate() == trainer.validate()
    pretrainer = make_trainer("pretrain", valid_dataset=make_speech(5))
    state = torch.get_rng_state()
    assert pretrainer.validate() == pretrainer.validate()  # the corruption is the same each time
    assert torch.equal(state, torch.get_rng_state())


def test_learning_rate_and_settings_of_a_run():
    model = make_model(label_smoothing=0.3)
    seen = []
    trainer = TextToSemanticTrainer(
        model, dataset=make_pairs(), label_smoothing=0.1, **train_options(lr=1e-3, initial_lr=1e-4, min_lr=1e-5)
    )
    model.register_forward_hook(lambda module, args, output: seen.append((module.training, module.label_smoothing)))
    logs = []
    trainer.train(logs.append)
    assert [log["step"] for log in logs] == list(range(1, 9))
    assert [log["lr"] for log in logs] == [trainer.scheduler(step) for step in range(8)]
    assert max(log["lr"] for log in logs) == logs[2]["lr"] == 1e-3
    assert set(seen) == {(True, 0.1), (False, 0.0)} and model.label_smoothing == 0.3


def test_files_of_a_run(tmp_path):
    trainer = make_trainer("forward", tmp_path / "run", keep_last=2)
    trainer.train()
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock")
    assert names == ["best", "checkpoints", "latest", "metrics.jsonl", "run.json"]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-6", "step-8"]  # 3 was the oldest, 8 is the end
    assert (tmp_path / "run" / "latest").read_text() == "step-8\n"
    assert same(weights(trainer), TextToSemantic.from_pretrained(checkpoints / "step-8").state_dict())
    TextToSemantic.from_pretrained(tmp_path / "run" / "best")
    best = [record["step"] for record in trainer.history if record.get("best")]
    valid = {record["step"]: record["valid_loss"] for record in trainer.history if "valid_loss" in record}
    assert sorted(valid) == [4, 8] and min(valid, key=valid.get) == best[-1]
    assert [record["step"] for record in trainer.history if "loss" in record] == [2, 4, 6, 8]


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer("backtranslate")
    trainer.train()
    assert list(tmp_path.iterdir()) == [] and trainer.results_folder is None and len(trainer.history) == 6


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trainer = make_trainer("forward", "run")
    monkeypatch.chdir(tmp_path / "there")
    trainer.train()
    assert list((tmp_path / "here" / "run" / "checkpoints").glob("*/trainer.pt"))
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("name", ["folder", "file.pt"])
def test_save_and_load(tmp_path, name):
    trainer = make_trainer("forward")
    for _ in range(3):
        trainer.train_step()
    trainer.save(tmp_path / name)
    trainer.train()
    other = make_trainer("forward", seed=1)
    other.load(tmp_path / name)
    assert int(other.steps) == 3
    other.train()
    assert same(weights(trainer), weights(other))
    only_weights = make_trainer("forward", seed=1)
    only_weights.load(tmp_path / name, restore_optimizer=False)
    assert int(only_weights.steps) == 0 and not only_weights.optim.state_dict()["state"]
    with pytest.raises(ValueError, match="another architecture"):
        TextToSemanticTrainer(make_model(source_depth=1), dataset=make_pairs(), **train_options()).load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "missing")


def test_files_of_release_048_load(fixtures):
    expected = json.loads((fixtures / "trainer_checkpoint.json").read_text())
    options = next(value for key, value in expected.items() if "kwargs" in key and "dim" in value)
    model = TextToSemantic(**options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = TextToSemanticTrainer(model, dataset=[(torch.tensor([1]), torch.tensor([1]))], **train_options())
    trainer.load(fixtures / "trainer_checkpoint.pt")
    assert not same(before, model.state_dict()) and int(trainer.steps) == 0


def test_waveforms_train_all_stages():
    torch.manual_seed(0)
    waves = [torch.randn(10 * length) for length in (3, 8, 5, 9)]
    pairs = [(wave, torch.tensor([1, 2])) for wave in waves]
    for trainer_class, data in [
        (SpeechSpeechPretrainer, waves),
        (SpeechSpeechPretrainer, [(wave,) for wave in waves]),
        (SemanticToTextTrainer, pairs),
        (TextToSemanticTrainer, pairs),
    ]:
        trainer = trainer_class(make_model(wav2vec=Frames()), dataset=data, **train_options(num_train_steps=3))
        trainer.train()
        assert math.isfinite(trainer.history[-1]["valid_loss"])
    without = SemanticToTextTrainer(make_model(), dataset=pairs, **train_options())
    with pytest.raises(ValueError, match="pass it wav2vec"):
        without.train()


def test_a_stage_may_have_its_own_dropout():
    def run(own, **options):
        torch.manual_seed(0)
        model = make_model(ff_dropout=own, attn_dropout=own, emb_dropout=own)
        trainer = TextToSemanticTrainer(model, dataset=make_pairs(), freeze="none", **train_options(None, **options))
        trainer.train()
        return trainer

    trainer = run(0.3, dropout=0.0)
    assert same(weights(run(0.0)), weights(trainer)) and not same(weights(run(0.3)), weights(trainer))
    assert trainer.model.emb_dropout.p == 0.3
    assert {layer.attention.dropout for layer in trainer.model.source_transformer.layers} == {0.3}
    assert same(weights(run(0.3)), weights(run(0.0, dropout=0.3)))
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        run(0.0, dropout=1.0)


def test_repr(tmp_path):
    trainer = make_trainer("pretrain", tmp_path / "run")
    assert repr(trainer) == f"SpeechSpeechPretrainer(step 0 of 8, 11 items, {tmp_path / 'run'})"
    trainer.train_step()
    assert "step 1 of 8" in repr(trainer)
    assert repr(make_trainer("forward")) == "TextToSemanticTrainer(step 0 of 8, 11 items, no results folder)"


def test_what_users_read_of_a_trainer():
    trainer = make_trainer("backtranslate")
    assert trainer.dl is None and trainer.dl_iter is None and len(trainer.valid_dl) == 1
    assert trainer.steps.tolist() == [0] and trainer.position == Position(0, 0)
    assert trainer.is_main and trainer.is_local_main and not trainer.is_distributed
    assert trainer.device == next(trainer.model.parameters()).device
    trainer.train()
    assert trainer.dl is not None and trainer.dl_iter is None and trainer.steps.tolist() == [8]
    assert trainer.position == Position(2, 0) and trainer.best_step in (4, 8) and trainer.best_valid_loss > 0
    assert trainer.warmup(0) == trainer.initial_lr and trainer.warmup(2) == trainer.lr == 1e-2
    made = trainer.generate([[1, 2]], source_type="speech", target_type="text", max_length=3)
    assert made.shape[0] == 1


@pytest.mark.parametrize(
    "name", ["num_warmup_steps", "batch_size", "batch_tokens", "lr", "initial_lr", "max_grad_norm"]
)
def test_an_option_that_the_loop_does_not_read_again_cannot_be_assigned(name):
    trainer = make_trainer("forward")
    before = getattr(trainer, name)
    assert before == getattr(trainer.options, name)
    with pytest.raises(AttributeError, match=f"{name} cannot be changed in a trainer: .* {name}=1"):
        setattr(trainer, name, 1)
    assert getattr(trainer, name) == before
