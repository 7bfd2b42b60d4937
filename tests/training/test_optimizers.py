"""Optimizers, precisions and compiled training, trackers, and learning rates over several processes."""

import functools
import json

import accelerate.tracking
import many
import pytest
import torch
from torch import nn
from training_setup import make_model, make_pairs, make_trainer, same, train_options, weights

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.training.stages import TextToSemanticTrainer


def test_adafactor_learns_and_resumes(tmp_path):
    options = dict(optimizer="adafactor", schedule="inverse_sqrt", lr=3e-2, num_train_steps=40, save_model_every=10)
    whole = make_trainer("forward", tmp_path / "whole", **options)
    whole.train()
    losses = [record["loss"] for record in whole.history if "loss" in record]
    assert losses[-1] < 0.8 * losses[0]
    kept = sum(value.numel() for state in whole.optim.state_dict()["state"].values() for value in state.values())
    assert kept < sum(p.numel() for group in whole.optim.param_groups for p in group["params"])
    cut = make_trainer("forward", tmp_path / "cut", **options)
    for _ in range(15):
        cut.train_step()
    resumed = make_trainer("forward", tmp_path / "cut", seed=1, **options)
    assert int(resumed.steps) == 10
    resumed.train()
    assert same(weights(whole), weights(resumed))
    with pytest.raises(ValueError, match="optimizer must be one of adamw, adafactor, got 'sgd'"):
        make_trainer("forward", optimizer="sgd")


def test_half_precision_learns_what_full_precision_does():
    def run(precision):
        trainer = make_trainer(
            "forward", num_train_steps=30, save_results_every=None, accelerate_kwargs={"mixed_precision": precision}
        )
        seen = set()
        layer = trainer.model.source_transformer.layers[0].attention.to_q
        layer.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
        trainer.train()
        assert all(value.dtype == torch.float32 for value in weights(trainer).values())
        return [record["loss"] for record in trainer.history], seen

    (half, half_types), (full, full_types) = run("bf16"), run("no")
    assert half_types == {torch.bfloat16} and full_types == {torch.float32}
    assert half[-1] == pytest.approx(full[-1], rel=0.05) and half[-1] < half[0]


# compiled training


def _compile_with(monkeypatch, backend):
    """Compilation as it is, but for the last step: making C++ of the graphs takes minutes."""
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(compile_, backend=backend))


@pytest.mark.slow
def test_compiled_training_is_the_same_and_names_stay(tmp_path, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    _compile_with(monkeypatch, backend)
    options = train_options(num_train_steps=2, num_warmup_steps=0, save_results_every=None)
    plain = TextToSemanticTrainer(make_model(source_depth=1), dataset=make_pairs(), **options)
    options.update(results_folder=tmp_path, compile=True)
    compiled = TextToSemanticTrainer(make_model(source_depth=1), dataset=make_pairs(), **options)
    plain.train()
    assert not graphs
    compiled.train()
    assert graphs
    for name, value in weights(plain).items():
        assert torch.allclose(value, compiled.model.state_dict()[name], atol=1e-6), name
    saved = TextToSemantic.from_pretrained(tmp_path / "checkpoints" / "step-2").state_dict()
    assert same(saved, weights(compiled)) and set(saved) == set(weights(plain))


@pytest.mark.slow
def test_without_a_compiler_it_says_so(monkeypatch):
    def backend(graph, inputs):
        from torch._inductor.exc import InvalidCxxCompiler

        raise InvalidCxxCompiler

    _compile_with(monkeypatch, backend)
    trainer = TextToSemanticTrainer(make_model(source_depth=1), dataset=make_pairs(), **train_options(compile=True))
    with pytest.raises(RuntimeError, match="compile=True failed .* needs a C\\+\\+ compiler, such as g\\+\\+"):
        trainer.train()


# trackers


class Tracker(accelerate.tracking.GeneralTracker):
    """Writes what it gets to a file, and refuses to once finished."""

    name, requires_logging_directory = "lines", False

    def __init__(self, path):
        super().__init__()
        self.file = open(path, "a", encoding="utf-8")

    @property
    def tracker(self):
        return self.file

    def store_init_configuration(self, values):
        self.file.write(json.dumps(values) + "\n")

    def log(self, values, step=None, **kwargs):
        self.file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self):
        self.file.close()


def test_trackers_of_several_trainers_in_one_process(tmp_path):
    def make(name):
        trackers = {"log_with": [Tracker(tmp_path / name)]}
        return make_trainer("forward", num_train_steps=4, accelerate_kwargs=trackers)

    first, second = make("first"), make("second")
    first.train()
    second.train()
    make("third").train()
    for name in ("first", "second", "third"):
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert lines[0]["num_train_steps"] == 4
        assert [line["step"] for line in lines if "train_loss" in line] == [1, 2, 3, 4]
        assert [line["step"] for line in lines if "valid_loss" in line] == [4]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    for name in ("first", "second"):
        trackers = {"log_with": "tensorboard", "project_dir": str(tmp_path / name)}
        make_trainer("forward", num_train_steps=2, accelerate_kwargs=trackers).train()
        assert list((tmp_path / name).rglob("events.out.tfevents.*"))


# learning rates


def _rates(schedule):
    options = train_options(
        num_train_steps=12, num_warmup_steps=4, lr=1e-2, initial_lr=1e-3, min_lr=1e-4, save_results_every=None
    )
    trainer = TextToSemanticTrainer(make_model(), dataset=make_pairs(), schedule=schedule, **options)
    rates = []

    def note(logs):
        assert all(group["lr"] == logs["lr"] for group in trainer.optim.param_groups)
        rates.append(logs["lr"])

    trainer.train(note)
    return [*rates, trainer.scheduler(12)]


TABLE = {  # at step 0, the end of the warm-up, the middle of what follows, the last step, the end
    "cosine": [1e-3, 1e-2, (1e-2 + 1e-4) / 2, 4.768e-4, 1e-4],
    "inverse_sqrt": [1e-3, 1e-2, 1e-2 * 0.5**0.5, 1e-2 * (4 / 11) ** 0.5, 1e-2 * (4 / 12) ** 0.5],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_learning_rates_are_the_same_over_any_number_of_processes(kind, processes):
    for rates in many.results(processes, _rates, kind):
        assert [rates[step] for step in (0, 4, 8, 11, 12)] == pytest.approx(TABLE[kind], rel=1e-3)
        assert rates[4] == 1e-2 == max(rates) and (kind != "cosine" or rates[12] == 1e-4)
