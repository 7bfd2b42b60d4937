"""Files of a run that are damaged, and checkpoints that are links."""

import pytest
import torch

from spear_tts_pytorch.training.run import RunFolder, load_state


@pytest.mark.parametrize("state", [{}, torch.zeros(3), [1], {"version": "1"}, {"version": 1, "step": 3}], ids=str)
def test_a_state_that_is_damaged(tmp_path, state):
    torch.save(state, tmp_path / "trainer.pt")
    with pytest.raises(ValueError, match="trainer.pt is broken.*another checkpoint"):
        load_state(tmp_path)


@pytest.mark.parametrize("line", ["{}", "[1]", "[" * 100_000, '{"step": "3"}', "not JSON"], ids=lambda line: line[:9])
def test_metrics_that_are_damaged(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(ValueError, match="metrics.jsonl line 2.*remove the line"):
        RunFolder(tmp_path).rewind(3)
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')  # as a crash leaves it
    assert RunFolder(tmp_path).rewind(3) == [{"step": 1}, {"step": 2}]


def test_an_old_checkpoint_that_is_a_link_loses_the_link_alone(tmp_path):
    folder, elsewhere = RunFolder(tmp_path / "run", keep_last=1), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("trainer.pt", "model.safetensors"):
        (elsewhere / name).write_text("mine")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-1").symlink_to(elsewhere)
    for step in (1, 2, 3):  # the first takes the place of the link
        folder.save(step, lambda path: None, {})
    assert sorted(path.name for path in elsewhere.iterdir()) == ["model.safetensors", "trainer.pt"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]
