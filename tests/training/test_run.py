"""The files of a run: what is kept, what is repaired, and records that JSON can hold."""

import json
import math

import pytest
import torch
from full_disk import full_disk

from spear_tts_pytorch.training.run import Records, RunFolder, load_state, save_checkpoint


def write_model(folder):
    (folder / "model.bin").write_text("weights")


@pytest.mark.parametrize("most", [100, 3000, 30_000])
def test_a_full_disk_leaves_the_former_checkpoint(most, tmp_path):
    state = {"optim": torch.ones(9_000)}
    save_checkpoint(tmp_path / "one", write_model, state)
    before = (tmp_path / "one" / "trainer.pt").read_bytes()
    with full_disk(most), pytest.raises(OSError, match="trainer.pt .*make room"):
        save_checkpoint(tmp_path / "one", write_model, {**state, "step": 2})
    assert (tmp_path / "one" / "trainer.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_checkpoint_is_written_and_read(tmp_path):
    state = {
        "step": 3,
        "position": [0, 3],
        "best_valid_loss": None,
        "best_step": None,
        "optim": {"state": {}, "param_groups": []},
    }
    state |= {
        "scaler": None,
        "running": {"loss": 0.5, "updates": 3, "tokens": 9, "seconds": 0.1},
        "rng": [],
        "fingerprint": {},
    }
    save_checkpoint(tmp_path / "one", write_model, state)
    assert load_state(tmp_path / "one") == {"version": 1, **state}
    assert (tmp_path / "one" / "model.bin").read_text() == "weights"
    with pytest.raises(FileNotFoundError, match="is not a checkpoint: it has no trainer.pt"):
        load_state(tmp_path)


def test_the_newest_checkpoints_are_kept_and_the_latest_is_named(tmp_path):
    folder = RunFolder(tmp_path / "run", keep_last=2)
    assert folder.latest() is None and folder.steps() == {}
    folder.claim({"task": "forward"})
    for step in (5, 10, 20):
        folder.save(step, write_model, {"step": step})
    assert list(folder.steps()) == [10, 20] and folder.latest() == tmp_path / "run" / "checkpoints" / "step-20"
    (tmp_path / "run" / "latest").write_text("step-10\n")  # points to an older one after a cut between two writes
    assert folder.latest().name == "step-10"
    (tmp_path / "run" / "latest").write_text("step-99\n")
    assert folder.latest().name == "step-20"
    folder.save_best(write_model)
    (tmp_path / "run" / "mine.txt").write_text("mine")
    folder.check()
    folder.clear()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="is not empty and no training run"):
        folder.check()
    folder.check(allow_foreign=True)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(None)
    folder.check()
    folder.recover()
    folder.clear()
    folder.claim({})
    folder.save(1, write_model, {})
    folder.save_best(write_model)
    folder.append({"step": 1})
    assert folder.latest() is None and folder.rewind(3) == [] and list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="keep_last must be at least 1 or None, got 0"):
        RunFolder(None, keep_last=0)


def test_records_go_back_to_a_step(tmp_path):
    folder = RunFolder(tmp_path)
    records = Records(folder)
    for step in (1, 2, 3):
        records.add({"step": step, "loss": math.inf if step == 2 else float(step)})
    Records(folder, writes=False).add({"step": 4})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut off
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None}]
    assert records.history[1]["loss"] == math.inf
    records.rewind(2)
    assert records.history == lines
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == lines
