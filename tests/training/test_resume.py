"""Resuming: what may differ, one run to a folder, signals, and runs killed at any moment."""

import json
import os
import pathlib
import random
import shutil
import signal
import time

import many
import pytest
import torch
from training_setup import (
    make_model,
    make_pairs,
    make_speech,
    make_trainer,
    same,
    timeless,
    train_options,
    weights,
)

from spear_tts_pytorch.training.stages import TextToSemanticTrainer
from spear_tts_pytorch.utils.files import locked

KILLS = int(os.environ.get("SPEAR_TTS_KILLS", "3"))  # at random times


@pytest.fixture(autouse=True)
def signals_as_in_a_shell():
    """A process that a shell started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# one run to a folder


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    trainer = make_trainer("forward", tmp_path)
    started = []

    def another(logs):
        with pytest.raises(RuntimeError, match="another folder"):
            make_trainer("forward", tmp_path)
        with pytest.raises(RuntimeError, match="another folder"):
            make_trainer("forward", tmp_path, force_clear_prev_results=True)
        [(succeeded, message)] = many.run(1, _construct, str(tmp_path))
        assert not succeeded and "being written to" in message
        started.append(logs["step"])

    trainer.train(lambda logs: another(logs) if logs["step"] == 4 else None)
    assert started == [4] and (tmp_path / "checkpoints" / "step-8").is_dir()
    assert int(make_trainer("forward", tmp_path).steps) == 8  # free again


def test_two_trainers_of_a_folder_do_not_train_at_once(tmp_path):
    first, second = (make_trainer("forward", tmp_path) for _ in range(2))
    with locked(tmp_path), pytest.raises(RuntimeError, match="being written to"):
        first.train()
    second.train()


def _construct(folder):
    make_trainer("forward", folder)


# what a run must share with its checkpoints


def test_other_data_batches_and_parameters_are_refused(tmp_path):
    trainer = make_trainer("forward", tmp_path)
    for _ in range(3):
        trainer.train_step()
    other_texts = [(speech, text.flip(0)) for speech, text in make_pairs()]
    for options, message in [
        ({"dataset": other_texts}, "data is '[0-9a-f]+' there and"),
        ({"grad_accum_every": 2}, "batches per update .* is 1 there and 2 here"),
        ({"drop_last": True}, "drop_last is False there and True here"),
        ({"optimizer": "adafactor"}, "optimizer is 'adamw' there and 'adafactor' here"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_trainer("forward", tmp_path, **options)
    with pytest.raises(ValueError, match="trained parameters is .* there"):
        TextToSemanticTrainer(make_model(ctc=True), dataset=make_pairs(), freeze="none", **train_options(tmp_path))
    with pytest.raises(ValueError, match="seed is 42 there and 1 here"):
        TextToSemanticTrainer(make_model(ctc=True), dataset=make_pairs(), **train_options(tmp_path, seed=1))
    assert int(make_trainer("forward", tmp_path).steps) == 3


def test_a_run_can_go_on_for_longer_along_the_new_schedule(tmp_path, capsys):
    make_trainer("forward", tmp_path).train()
    longer = make_trainer("forward", tmp_path, num_train_steps=12, wd=0.3, progress=True)
    assert "num_train_steps is 8 there and 12 here; wd is 0.0 there and 0.3 here" in capsys.readouterr().out
    assert int(longer.steps) == 8 and longer.optim.param_groups[0]["weight_decay"] == 0.3
    rates = []
    longer.train(lambda logs: rates.append(logs["lr"]))
    assert rates == [longer.scheduler(step) for step in range(8, 12)] and min(rates) > 0
    assert [record["step"] for record in longer.history if "loss" in record] == [2, 4, 6, 8, 10, 12]


LAYOUT = {
    "version",
    "step",
    "position",
    "optim",
    "scaler",
    "rng",
    "running",
    "best_valid_loss",
    "best_step",
    "fingerprint",
}


SUMS = {"loss", "updates", "tokens", "seconds"}


def test_checkpoints_of_release_050_resume(tmp_path):
    """They hold the same, and a number that this release does not keep; older ones had no step of the best model."""
    make_trainer("forward", tmp_path / "whole").train()
    cut = make_trainer("forward", tmp_path / "cut")
    for _ in range(3):
        cut.train_step()
    file = tmp_path / "cut" / "checkpoints" / "step-3" / "trainer.pt"
    state = torch.load(file, weights_only=True)
    assert set(state) == LAYOUT and set(state["running"]) == SUMS | {"left_out"}
    del state["best_step"], state["running"]["left_out"]
    torch.save({**state, "last_valid": 0}, file)
    resumed = make_trainer("forward", tmp_path / "cut")
    assert int(resumed.steps) == 3
    resumed.train()
    assert timeless(resumed.history) == timeless(_records(tmp_path / "whole"))
    assert set(json.loads((tmp_path / "cut" / "run.json").read_text())) == set(state["fingerprint"])


# signals


@pytest.mark.parametrize("number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_save_and_stop(tmp_path, number, error):
    whole = make_trainer("forward", tmp_path / "whole")
    whole.train()
    handlers = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)]
    cut = make_trainer("forward", tmp_path / "cut")
    with pytest.raises(error) as raised:
        cut.train(lambda logs: os.kill(os.getpid(), number) if logs["step"] == 4 else None)
    assert number == signal.SIGINT or raised.value.code == 143
    assert handlers == [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)]
    assert (tmp_path / "cut" / "latest").read_text() == "step-5\n"
    shutil.copytree(tmp_path / "cut", tmp_path / "copy")
    resumed = make_trainer("forward", tmp_path / "copy", seed=1)
    resumed.train()
    assert same(weights(whole), weights(resumed)) and timeless(whole.history) == timeless(resumed.history)
    cut.train()  # the same trainer goes on too, in a notebook
    assert same(weights(whole), weights(cut))


# kill -9


def _train(folder, stage, cut=None):
    """A run with a checkpoint every second step, which dies at the n-th call of a function."""
    options = dict(num_train_steps=12, save_model_every=2, save_results_every=3, log_every=1, grad_accum_every=2)
    trainer = make_trainer(stage, folder, dataset=DATA[stage](), keep_last=2, **options)
    if cut is not None:
        _die_at(trainer, *cut)
    trainer.train()
    assert timeless(trainer.history) == timeless(_records(folder))
    return {name: value.numpy() for name, value in trainer.model.state_dict().items()}


DATA = {"pretrain": make_speech, "forward": make_pairs}


def _die_at(trainer, place, number, after):
    """Ends the process, without any clean-up, before or after the n-th call at a place."""
    calls = [0]

    def dying(function):
        def wrapper(*args, **kwargs):
            calls[0] += 1
            if calls[0] == number and not after:
                os._exit(9)
            result = function(*args, **kwargs)
            if calls[0] == number:
                os._exit(9)
            return result

        return wrapper

    targets = {
        "batch": [(trainer.train_wrapper, "forward")],
        "update": [(trainer.optim, "step")],
        "fsync": [(os, "fsync")],
        "rename": [(pathlib.Path, "rename"), (os, "replace")],
        "write": [(torch, "save")],
        "remove": [(shutil, "rmtree")],
    }[place]
    for owner, name in targets:
        setattr(owner, name, dying(getattr(owner, name)))


def _records(folder):
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def assert_same_run(folder, other, found, expected):
    assert all((found[name] == value).all() for name, value in expected.items())
    assert timeless(_records(folder)) == timeless(_records(other))
    names = [sorted(str(path.relative_to(base)) for path in base.rglob("*")) for base in (folder, other)]
    assert names[0] == names[1]  # nothing is left lying about either


@pytest.mark.slow
def test_killed_at_every_kind_of_point(tmp_path):
    stage = "pretrain"
    [whole] = many.results(1, _train, str(tmp_path / "whole"), stage)
    cuts = [("batch", 12), ("update", 6), ("write", 2), ("fsync", 9), ("rename", 5), ("rename", 8), ("remove", 7)]
    died = 0
    for place, number in cuts:
        for after in (False, True):
            folder = tmp_path / f"{place}-{number}-{after}"
            [(succeeded, message)] = many.run(1, _train, str(folder), stage, (place, number, after))
            died += message == "killed"
            [found] = many.results(1, _train, str(folder), stage)
            assert_same_run(folder, tmp_path / "whole", found, whole)
    assert died == 2 * len(cuts)


def test_what_was_being_replaced_when_a_run_died_is_put_back(tmp_path):
    make_trainer("forward", tmp_path).train()
    best = (tmp_path / "best" / "model.safetensors").read_bytes()
    (tmp_path / "best").rename(tmp_path / ".best.77777777777777777777777777777777.old")
    (tmp_path / ".best.77777777777777777777777777777777.tmp").mkdir()
    (tmp_path / ".latest.88888888888888888888888888888888.tmp").write_text("step-")
    (tmp_path / "checkpoints" / ".step-8.88888888888888888888888888888888.old").mkdir()
    (tmp_path / ".notes").write_text("mine")
    assert int(make_trainer("forward", tmp_path).steps) == 8
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == best
    hidden = sorted(path.name for path in tmp_path.rglob(".*"))
    assert hidden == [".lock", ".notes"]


@pytest.mark.slow
def test_killed_at_random_times(tmp_path):
    start = time.monotonic()
    [whole] = many.results(1, _train, str(tmp_path / "whole"), "forward")
    seconds = time.monotonic() - start
    chance, kills = random.Random(time.time_ns()), []
    while sum(map(bool, kills)) < KILLS:
        folder, killed = tmp_path / str(len(kills)), 0
        while not many.killed_after(chance.uniform(0.1, 1) * seconds, _train, str(folder), "forward"):
            killed += 1
        seconds *= 1 if killed else 0.8  # it had ended by then: other runs are killed earlier
        [found] = many.results(1, _train, str(folder), "forward")
        assert_same_run(folder, tmp_path / "whole", found, whole)
        kills.append(killed)
    print(f"{len(kills)} runs, killed so often: {kills}")


# what goes wrong on the way


class FailsOnce(torch.utils.data.Dataset):
    """Pairs; the n-th read raises, once."""

    def __init__(self, items, number):
        self.items, self.left = items, number

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise OSError("the disk was away")
        return self.items[index]


def test_after_an_error_the_same_trainer_goes_on_with_the_same_batches(tmp_path):
    options = dict(grad_accum_every=2, num_train_steps=6)
    whole = make_trainer("forward", **options)
    whole.train()
    for number in (22, 25, 29):  # in the first and in the second batch of an update
        dataset = FailsOnce(make_pairs(), 10**9)
        trainer = make_trainer("forward", dataset=dataset, **options)
        dataset.left = number
        with pytest.raises(OSError, match="the disk was away"):
            trainer.train()
        trainer.train()
        assert same(weights(whole), weights(trainer))


def test_the_last_validation_is_part_of_the_last_checkpoint(tmp_path):
    options = dict(num_train_steps=4, save_model_every=4, save_results_every=3)
    make_trainer("forward", tmp_path, **options).train()
    before = (tmp_path / "metrics.jsonl").read_text()
    again = make_trainer("forward", tmp_path, **options)
    assert again.best_step in (3, 4)
    again.train()
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert [record["step"] for record in again.history if "valid_loss" in record] == [3, 4]


def test_a_signal_during_the_last_validation_is_not_lost(tmp_path, monkeypatch):
    trainer = make_trainer("forward", tmp_path)
    validate = trainer.validate

    def interrupted():
        if int(trainer.steps) == trainer.num_train_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate()

    monkeypatch.setattr(trainer, "validate", interrupted)
    with pytest.raises(SystemExit) as raised:
        trainer.train()
    assert raised.value.code == 143 and (tmp_path / "latest").read_text() == "step-8\n"


def _train_with_loaders(folder):
    torch.set_num_threads(1)
    os.setpgid(0, 0)
    trainer = make_trainer("forward", folder, num_workers=1)
    try:
        trainer.train(lambda logs: os.killpg(0, signal.SIGTERM) if logs["step"] == 4 else None)
    except SystemExit as end:
        return end.code
    return None


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_saves_and_stops(tmp_path):
    assert many.results(1, _train_with_loaders, str(tmp_path)) == [143]
    assert (tmp_path / "latest").read_text() == "step-5\n"


def test_two_trainers_of_a_folder_do_not_mix_their_steps(tmp_path):
    first, second = (make_trainer("forward", tmp_path) for _ in range(2))
    first.train()
    with pytest.raises(RuntimeError, match="another trainer has written .*step-8"):
        second.train()


def test_a_run_that_stopped_before_its_first_checkpoint_may_have_plots_beside_it(tmp_path):
    make_trainer("forward", tmp_path)
    (tmp_path / "training.png").write_bytes(b"a plot")
    make_trainer("forward", tmp_path).train()
    assert (tmp_path / "training.png").exists() and (tmp_path / "checkpoints" / "step-8").is_dir()


def test_another_objective_is_refused(tmp_path):
    trainer = make_trainer("pretrain", tmp_path)
    trainer.train_step()
    trainer.save(tmp_path / "elsewhere")
    trainer.checkpoints.save_step()
    with pytest.raises(ValueError, match="options of the stage"):
        make_trainer("pretrain", tmp_path, deletion_prob=0.1)


def test_a_validation_loss_that_is_no_number_is_never_the_best(tmp_path, monkeypatch):
    trainer, losses = make_trainer("forward", tmp_path), iter([float("nan"), 3.0, float("nan")])
    monkeypatch.setattr(trainer.validation, "measure", lambda: {"valid_loss": next(losses)})
    trainer.validate()
    assert trainer.best_valid_loss is None and not (tmp_path / "best").exists()
    trainer.validate()
    trainer.validate()
    assert trainer.best_valid_loss == 3.0 and (tmp_path / "best").exists()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["valid_loss"] for line in lines] == [None, 3.0, None]
    assert [line["best"] for line in lines] == [False, True, False]
