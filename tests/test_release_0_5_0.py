"""What release 0.5.0 left on disk opens and goes on as it did there: a saved model, and a run that stopped half-way.

`tests/fixtures/record_release_0_5_0.py` made the files with that release, and what it said itself is beside them.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from spear_tts_pytorch import TextToSemantic

FIXTURES = Path(__file__).parent / "fixtures"
FOLDER = FIXTURES / "release_0_5_0"
SPEC = importlib.util.spec_from_file_location("record_release_0_5_0", FIXTURES / "record_release_0_5_0.py")
record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record)
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def assert_close(found, wanted, name):
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor(wanted), atol=1e-4, rtol=1e-4, msg=lambda text: f"{name}: {text}"
    )


def test_the_files_are_those_of_that_release():
    config = json.loads((FOLDER / "model" / "config.json").read_text())
    assert config["library_version"] == "0.5.0" and "format_version" not in config
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 300_000


def test_a_saved_model_has_every_weight_and_says_what_it_said():
    model = TextToSemantic.from_pretrained(FOLDER / "model")
    weights, state = load_file(FOLDER / "model" / "model.safetensors"), model.state_dict()
    assert weights.keys() == state.keys() and all(torch.equal(state[name], value) for name, value in weights.items())
    found, wanted = record.said(model), EXPECTED["said"]
    assert found.keys() == wanted.keys() and len(wanted) == 11
    for name, value in wanted.items():
        if name.endswith("ids"):
            assert found[name] == value, name
        else:
            assert_close(found[name], value, name)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    shutil.copytree(FOLDER / "run", tmp_path / "run")
    model = TextToSemantic.from_pretrained(FOLDER / "model")
    trainer = record.trainer(model, tmp_path / "run")
    assert int(trainer.steps) == 2
    trainer.train()
    assert int(trainer.steps) == 4 and len(EXPECTED["losses"]) == 4
    assert_close(record.losses(tmp_path / "run"), EXPECTED["losses"], "losses")
    assert_close(record.said(model)["logits"], EXPECTED["after the run"], "logits")
