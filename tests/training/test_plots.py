"""`trainer.plot()`: files from what was recorded, the attention of the stage as it is trained, and a run left as it was."""

import pytest
import torch
from training_setup import STAGES, make_trainer, same, timeless, weights

from spear_tts_pytorch.training import plots as run_plots
from spear_tts_pytorch.utils import plots

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """What is passed to the figures: (function's name, arguments)."""
    seen = []
    for name in ("plot_records", "plot_alignment"):
        real = getattr(plots, name)
        monkeypatch.setattr(
            run_plots, name, lambda *args, name=name, real=real: (seen.append((name, args)), real(*args))[1]
        )
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_writes_curves_and_an_alignment(tmp_path, drawn, stage):
    trainer = make_trainer(stage, tmp_path / "run")
    trainer.train()
    paths = trainer.plot()
    assert paths == [tmp_path / "run" / "curves.png", tmp_path / "run" / "alignment.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    attention, labels = drawn[1][1][:2]
    batch = trainer.collate([trainer.valid_ds[0]])
    speech, ids = batch["semantic"].shape[1], {name: value.shape[1] for name, value in batch.items()}
    if "text" in ids:  # text runs to the right in both directions
        assert attention.shape == (speech, ids["text"])
        assert labels == [str(index) for index in batch["text"][0].tolist()]
    else:  # pretraining: ceil(0.6 n) of the ids are deleted, and asked for
        left = speech - -(-speech * 3 // 5)
        assert attention.shape == (speech if stage == "pretrain whole" else speech - left, left)
    assert 0 < float(attention.min()) and float(attention.max()) <= 1


def test_alignment_is_the_models_own(drawn, tmp_path):
    trainer = make_trainer("forward")
    trainer.train_step()
    trainer.validate()
    trainer.plot(tmp_path)
    speech, text = trainer.valid_ds[0]
    wanted = trainer.model.alignment(text[None], speech[None], source_type="text", target_type="speech")
    torch.testing.assert_close(drawn[1][1][0], wanted[:, 0].mean(dim=(0, 1))[:-1, 1:-1])


def test_shows_the_whole_item_and_leaves_nothing_behind(drawn, tmp_path):
    trainer = make_trainer("backtranslate", token_dropout=0.5)
    trainer.train()
    trainer.plot(tmp_path)
    assert drawn[1][1][0].shape[0] == len(trainer.valid_ds[0][0])  # as in validation, nothing is dropped
    assert not trainer.model._forward_pre_hooks and trainer.model.training


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_plotting_changes_nothing_of_the_run(tmp_path, stage):
    def run(plotting):
        trainer = make_trainer(stage)
        for _ in range(3):
            trainer.train_step()
        if plotting:
            trainer.plot(tmp_path)
        trainer.train()
        return trainer

    plain, plotted = run(False), run(True)
    assert same(weights(plain), weights(plotted))
    assert timeless(plain.history) == timeless(plotted.history)


def test_a_resumed_run_shows_its_whole_history(tmp_path, drawn):
    make_trainer("forward", tmp_path).train()
    again = make_trainer("forward", tmp_path)
    again.plot(tmp_path / "plots")
    assert [row["step"] for row in drawn[0][1][0] if "lr" in row] == [2, 4, 6, 8]


def test_says_what_is_missing(tmp_path):
    trainer = make_trainer("forward")
    with pytest.raises(ValueError, match="path is missing"):
        trainer.plot()
    with pytest.raises(ValueError, match="nothing|no finite"):
        trainer.plot(tmp_path)
