"""Several processes (gloo): the same weights as one with the same rows, whole checkpoints, sharded training, stopping."""

import json
import os
import signal

import many
import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from training_setup import make_model, make_pairs, make_speech, same, timeless, train_options

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer
from spear_tts_pytorch.utils.distributed import wait_for_everyone

pytestmark = pytest.mark.slow

STAGES = {
    "pretrain": (SpeechSpeechPretrainer, {}),
    "backtranslate": (SemanticToTextTrainer, {"token_dropout": 0.2}),
    "backtranslate by CTC": (SemanticToTextTrainer, {"ctc_weight": 1.0, "freeze_encoder": False}),
    "backtranslate by both": (SemanticToTextTrainer, {"ctc_weight": 0.3}),
    "forward": (TextToSemanticTrainer, {"freeze": "none"}),
}
STEPS = 20


def make(stage, folder, batch_size, grad_accum_every=1, regulariser=1.0, **options):
    trainer_class, own = STAGES[stage]
    data = make_speech(20) if trainer_class is SpeechSpeechPretrainer else make_pairs(20)
    if "ctc_weight" in own:  # rows too short to be aligned with their text
        data = [(speech[:2], text) if index % 3 == 0 else (speech, text) for index, (speech, text) in enumerate(data)]
    drop = 0.4 if regulariser else 0.0
    model = make_model(ctc=True, cond_drop_prob=drop, align_reg_loss_weight=regulariser, target_early_exit_layer=1)
    options = {
        **dict(num_train_steps=STEPS, num_warmup_steps=4, lr=3e-3, valid_dataset=data[:5], save_results_every=6),
        **dict(save_model_every=10, max_grad_norm=0.5),
        **options,
    }
    return trainer_class(
        model,
        dataset=data,
        **own,
        **train_options(folder, batch_size=batch_size, grad_accum_every=grad_accum_every, **options),
    )


def train(stage, folder, batch_size, grad_accum_every=1, regulariser=1.0, **options):
    trainer = make(stage, folder, batch_size, grad_accum_every, regulariser, **options)
    trainer.train()
    weights = {name: value.numpy() for name, value in trainer.model.state_dict().items()}
    return weights, timeless(trainer.history)


def assert_close(one, other):
    (weights, records), (other_weights, other_records) = one, other
    for name, value in weights.items():
        difference = abs(value - other_weights[name]).max()
        assert difference < 1e-5, f"{name} differs by {difference}"
    assert len(records) == len(other_records) > 0
    for record, other_record in zip(records, other_records, strict=True):
        assert record == pytest.approx(other_record, rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_do_what_one_does_with_all_rows(tmp_path, stage):
    two, also_two = many.results(2, train, stage, str(tmp_path / "two"), 2)
    assert all((two[0][name] == value).all() for name, value in also_two[0].items())
    [one] = many.results(1, train, stage, str(tmp_path / "one"), 4)
    assert_close(one, two)
    start = make_model(ctc=True, target_early_exit_layer=1).state_dict()
    assert max(abs(value - start[name].numpy()).max() for name, value in two[0].items()) > 1e-3
    for folder in ("one", "two"):
        saved = TextToSemantic.from_pretrained(tmp_path / folder / "checkpoints" / "step-20").state_dict()
        expected = dict(one=one, two=two)[folder][0]
        assert all((saved[name].numpy() == expected[name]).all() for name in expected)
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        assert timeless([json.loads(line) for line in lines]) == dict(one=one, two=two)[folder][1]
        assert (tmp_path / folder / "best").is_dir()


@pytest.mark.parametrize("stage", ["pretrain"])
def test_two_processes_do_what_one_does_with_accumulated_batches(stage):
    two, _ = many.results(2, train, stage, None, 3, 1, 0.0)
    [one] = many.results(1, train, stage, None, 3, 2, 0.0)
    assert_close(one, two)


def resume(stage, folder, processes_then):
    """Trains half of a run; the other half is for others."""
    trainer = make(stage, folder, 3, 2 // processes_then, 0.0)
    for _ in range(10 - int(trainer.steps)):
        trainer.train_step()


def test_a_run_goes_on_over_another_number_of_processes(tmp_path):
    whole, _ = many.results(2, train, "forward", str(tmp_path / "whole"), 3, 1, 0.0)
    many.results(2, resume, "forward", str(tmp_path / "cut"), 2)
    [rest] = many.results(1, train, "forward", str(tmp_path / "cut"), 3, 2, 0.0)
    assert_close(whole, rest)
    [(succeeded, message)] = many.run(1, train, "forward", str(tmp_path / "cut"), 3, 1, 0.0)
    assert not succeeded and "batches per update" in message and "2 there and 1 here" in message


def test_what_fails_in_the_first_process_fails_in_all(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for succeeded, message in many.run(2, train, "forward", str(tmp_path), 3):
        assert not succeeded and "no training run" in message


def train_with_a_bad_item(index):
    data = make_speech(20)
    data[index] = torch.full((9,), 99)  # no id of speech
    model = make_model()
    SpeechSpeechPretrainer(model, dataset=data, valid_dataset=data[:1], **train_options(batch_size=1)).train()


def test_a_bad_item_in_one_process_ends_all_with_its_name():
    bad = 7  # seed 42 gives it to the second process; the first holds the store of messages
    found = many.run(2, train_with_a_bad_item, bad)
    messages = [message.splitlines()[0] for succeeded, message in found if not succeeded]
    assert len(messages) == 2 and all("holds the id 99" in message for message in messages), messages
    assert (
        messages[0].startswith("RuntimeError: process 1 failed: ValueError: ")
        and f"item {bad} of the dataset" in messages[0]
    )


def interrupted(folder, number):
    trainer = make("forward", folder, 2)

    def send(logs):
        if logs["step"] == 7 and trainer.accelerator.process_index == 1:  # only one is told
            os.kill(os.getpid(), number)

    try:
        trainer.train(send)
    except SystemExit as error:
        return int(trainer.steps), error.code


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path):
    first, second = many.results(2, interrupted, str(tmp_path / "cut"), signal.SIGTERM)
    assert first == second == (8, 143)  # told after step 7, all know at the end of the next
    assert (tmp_path / "cut" / "latest").read_text() == "step-8\n"
    resumed, _ = many.results(2, train, "forward", str(tmp_path / "cut"), 2)
    whole, _ = many.results(2, train, "forward", None, 2)
    assert all((whole[0][name] == value).all() for name, value in resumed[0].items()) and whole[1] == resumed[1]


# fully sharded


def sharded(folder, steps, **options):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=False, **options)
    accelerate_kwargs = {"fsdp_plugin": plugin, "cpu": True}
    trainer = make("forward", folder, 2, 2, accelerate_kwargs=accelerate_kwargs, save_model_every=5)
    before = int(trainer.steps)
    parts = sum(parameter.to_local().numel() for parameter in trainer.model.parameters())
    while int(trainer.steps) < steps:
        trainer.train_step()
    if steps == STEPS:
        trainer.train()
    return before, parts, timeless(trainer.history)


def test_fully_sharded_training_saves_whole_models_and_resumes(tmp_path):
    (_, parts, _), (_, other_parts, _) = many.results(2, sharded, str(tmp_path / "cut"), 5)
    plain = make("forward", tmp_path / "plain", 4, 2, save_model_every=5)
    assert abs(parts - other_parts) < 0.2 * parts < 0.2 * sum(map(torch.numel, plain.model.parameters()))
    for _ in range(5):
        plain.train_step()
    loaded = TextToSemantic.from_pretrained(tmp_path / "cut" / "checkpoints" / "step-5")
    source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 7]])
    types = dict(source_type="text", target_type="speech")
    plain.model.eval()
    torch.testing.assert_close(loaded(source, target, **types), plain.model(source, target, **types), atol=1e-5, rtol=0)
    (before, _, records), _ = many.results(2, sharded, str(tmp_path / "cut"), STEPS)
    assert before == 5
    whole, _ = many.results(2, train, "forward", str(tmp_path / "whole"), 2, 2)
    assert_close(whole, ({**_numpy(tmp_path / "cut")}, records))


def test_a_sharded_run_goes_on_in_one_process(tmp_path):
    many.results(2, sharded, str(tmp_path), 5)
    [rest] = many.results(1, train, "forward", str(tmp_path), 2, 4)
    assert rest[1][-1]["step"] == STEPS


def _numpy(folder):
    model = TextToSemantic.from_pretrained(folder / "checkpoints" / f"step-{STEPS}")
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_sharded_training_refuses_what_it_can_not_do(tmp_path):
    for succeeded, message in many.run(2, sharded_with, dict(fsdp_version=1), {}):
        assert not succeeded and "version 2" in message
    for options, expected in [({"valid_generate": 2}, "valid_generate"), ({"optimizer": "adafactor"}, "adafactor")]:
        for succeeded, message in many.run(2, sharded_with, dict(fsdp_version=2), options):
            assert not succeeded and expected in message


def sharded_with(plugin, options):
    plugin = FullyShardedDataParallelPlugin(**plugin)
    try:
        make("forward", None, 2, accelerate_kwargs={"fsdp_plugin": plugin, "cpu": True}, **options)
    finally:
        wait_for_everyone()  # the first to end would cut off the other, which may still be connecting


def test_weights_are_equal(tmp_path):
    """Reading back what is compared above does not round it."""
    model = make_model()
    model.save_pretrained(tmp_path)
    assert same(model.state_dict(), TextToSemantic.from_pretrained(tmp_path).state_dict())
