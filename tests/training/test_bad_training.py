"""Trainers and bad input: data, losses, folders and checkpoints; what is wrong is named and what was good is kept."""

import json
import re

import pytest
import torch
from training_setup import make_model, make_pairs, make_trainer, same, train_options, weights

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, TextToSemanticTrainer


@pytest.mark.parametrize("name", ["checkpoints/lightning.ckpt", "best/model.bin", "metrics.jsonl"])
def test_folders_of_others_with_our_names_are_kept(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="no training run"):
        make_trainer("forward", tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_folders_of_others_are_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt .* force_clear_prev_results"):
        make_trainer("forward", tmp_path)
    make_trainer("forward", tmp_path, force_clear_prev_results=True).train()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for stage, options, message in [
        ("backtranslate", {}, "task is 'textsemantic' there and 'semantictext' here"),
        ("forward", {"dataset": make_pairs(20)}, "items is 11 there and 19 here"),
        ("forward", {"batch_size": 5}, "batch_size is 3 there and 5 here"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_trainer(stage, tmp_path, **options)
    anew = make_trainer("backtranslate", tmp_path, force_clear_prev_results=True)
    assert int(anew.steps) == 0 and anew.history == [] and not (tmp_path / "checkpoints").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        make_trainer("forward", tmp_path / "file")


def test_a_broken_or_newer_checkpoint_says_so(tmp_path):
    trainer = make_trainer("forward", tmp_path)
    trainer.train()
    file = tmp_path / "checkpoints" / "step-8" / "trainer.pt"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "version": 99}, file)
    with pytest.raises(ValueError, match="version 99.*upgrade"):
        make_trainer("forward", tmp_path)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="trainer.pt is broken"):
        make_trainer("forward", tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(tmp_path, monkeypatch):
    trainer = make_trainer("forward", tmp_path)
    for _ in range(3):
        trainer.train_step()
    kept = (tmp_path / "checkpoints" / "step-3" / "trainer.pt").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match="space"):
        trainer.train()
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]
    assert (tmp_path / "checkpoints" / "step-3" / "trainer.pt").read_bytes() == kept
    assert int(make_trainer("forward", tmp_path).steps) == 3


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    trainer = make_trainer("forward", tmp_path)
    for _ in range(4):
        trainer.train_step()
    before = weights(trainer)
    trainer.model.token_emb["text"].register_forward_hook(lambda module, args, output: output * float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"at step 4 \(epoch 1, batch 0: items \[\d+, \d+, \d+\] of the dataset\).*step-3"
    ):
        trainer.train()
    assert same(before, weights(trainer)) and int(trainer.steps) == 4


def test_items_that_fail_are_named(tmp_path):
    swapped = [*make_pairs(7), tuple(reversed(make_pairs()[0])), *make_pairs(4)]
    swapped[7] = (torch.tensor([3]), torch.tensor([19]))  # semantic ids where the text should be
    for workers in (0, 1):
        trainer = make_trainer(
            "forward", dataset=swapped, valid_dataset=make_pairs(), num_workers=workers, batch_size=1
        )
        with pytest.raises(ValueError, match=r"^item 7 of the dataset cannot be used: .*semantic ids first"):
            _train_epoch(trainer)
    bad = [(speech.float() if index == 4 else speech, text) for index, (speech, text) in enumerate(make_pairs(9))]
    trainer = make_trainer("forward", dataset=bad, valid_dataset=make_pairs(), batch_size=9)
    with pytest.raises(TypeError, match=r"both waveforms and semantic ids.*\(among items \[.*4.*\] of the dataset\)"):
        trainer.train()
    split = make_trainer("forward", dataset=swapped, valid_frac=0.3, batch_size=1)
    if 7 in split.ds.indices:
        with pytest.raises(ValueError, match=r"^item 7 of the dataset"):
            _train_epoch(split)


def _train_epoch(trainer):
    trainer.num_train_steps = 100
    trainer.save_results_every = 0
    trainer.train()


def test_items_longer_than_the_budget_are_named():
    pairs = make_pairs(12)
    pairs[8] = (torch.ones(200, dtype=torch.long), torch.ones(3, dtype=torch.long))
    with pytest.warns(UserWarning, match=r"1 of 10 items are longer than batch_tokens=60.*: item 8 \(203 ids\)"):
        trainer = make_trainer("forward", dataset=pairs, valid_frac=0.1, batch_size=None, batch_tokens=60)
    assert [8] in [trainer.batches.names(batch) for batch in trainer.batches.sampler.batches(0)]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_can_not_be_written_to_is_named(tmp_path, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(type(error), match="results_folder .*new cannot be used .*choose one that can be written to"):
        make_trainer("forward", tmp_path / "new")


def test_a_loss_that_is_not_a_number_names_its_items(tmp_path):
    trainer = make_trainer("forward", tmp_path, batch_size=2, grad_accum_every=2, num_train_steps=30)
    forward, seen = trainer.train_wrapper.forward, []

    def poisoned(**inputs):
        loss, logits = forward(**inputs)
        poison = (inputs["grapheme_token_ids"] == 7).any() and len(seen) > 8
        seen.append(inputs)
        return loss * float("nan") if poison else loss, logits

    trainer.train_wrapper.forward = poisoned
    with pytest.raises(FloatingPointError) as raised:
        trainer.train()
    named = json.loads(re.search(r"items (\[.*?\])", str(raised.value))[1])
    assert len(named) in (2, 4) and any((make_pairs()[item][1] == 7).any() for item in named)
    latest = (tmp_path / "latest").read_text().strip()
    assert f"the last checkpoint is {tmp_path / 'checkpoints' / latest}" in str(raised.value)
    model = TextToSemantic.from_pretrained(tmp_path / "checkpoints" / latest)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_bad_input():
    swapped = [(text, speech) for speech, text in make_pairs()]
    with pytest.raises(ValueError, match="swapped"):
        TextToSemanticTrainer(make_model(), dataset=swapped, **train_options()).train()
    for options, message in [
        ({"dataset": []}, "dataset is missing or empty"),
        ({"batch_size": None}, "batch_size or batch_tokens"),
        ({"grad_accum_every": 0}, "grad_accum_every"),
        ({"valid_frac": 1.0}, "valid_frac"),
        ({"valid_dataset": []}, "valid_dataset is empty"),
        ({"num_warmup_steps": 9}, "num_warmup_steps"),
        ({"keep_last": 0}, "keep_last"),
        ({"schedule": "linear"}, "schedule must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            SemanticToTextTrainer(make_model(), **{"dataset": make_pairs(), **train_options(**options), **options})
    with pytest.raises(ValueError, match="dataset is missing or empty"):
        TextToSemanticTrainer(make_model(), **train_options())
