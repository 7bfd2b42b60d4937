"""Options that release 0.4.8 did not have give the numbers that were recorded once: a saved model keeps its voice."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "fixtures"
SPEC = importlib.util.spec_from_file_location("record", FOLDER / "record.py")
record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record)


@pytest.mark.parametrize("name", record.CONFIGS)
def test_the_recorded_numbers(name):
    tensors = load_file(record.FILE)
    wanted = record.part(tensors, name)
    got = record.measure(record.make_model(tensors, name), record.part(tensors, "inputs"))
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, atol=1e-4, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
