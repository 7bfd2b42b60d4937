"""Fixtures of the downstream tests, and a summary of one line for each check. Run them with `bash tests/interop/run.sh`."""

import random
from importlib.metadata import version

import parts  # before anything that imports audiolm-pytorch
import pytest
import torch

from spear_tts_pytorch import ByteTokenizer, TextToSemantic

PACKAGES = ("soundstorm-pytorch", "voicebox-pytorch", "audiolm-pytorch", "torch")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)


@pytest.fixture
def model(seed) -> TextToSemantic:
    """Random weights, reads text, knows no waveforms."""
    return parts.text_to_semantic(tokenizer_encode=ByteTokenizer())


@pytest.fixture
def hubert(seed) -> parts.Hubert:
    return parts.Hubert()


@pytest.fixture
def voiced_model(seed, hubert) -> TextToSemantic:
    """The same model with audiolm-pytorch's tokenizer of waveforms."""
    return parts.text_to_semantic(tokenizer_encode=ByteTokenizer(), wav2vec=hubert)


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.section("with " + ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    for outcome, word in (("passed", "ok"), ("skipped", "skipped"), ("failed", "FAILED"), ("error", "FAILED")):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" or outcome in ("skipped", "error"):
                file, _, name = report.nodeid.rpartition("/")[2].partition(".py::test_")
                terminalreporter.write_line(f"{word:8}{file[5:]}: {name.replace('_', ' ')}")
