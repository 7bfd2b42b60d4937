"""The types of the shell's arguments: values for good texts, refusals for others."""

import argparse
from pathlib import Path

import pytest

from spear_tts_pytorch.cli import arguments


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (arguments.positive, "12", 12),
        (arguments.numbers, "4, 12", [4, 12]),
        (arguments.seed, "0", 0),
        (arguments.seed, "4294967295", 2**32 - 1),
        (arguments.temperature, "0", 0.0),
        (arguments.temperature, "0.3", 0.3),
        (arguments.columns, "dcba", "abcd"),
        (arguments.columns, "Ada", "adA"),
        (arguments.path_with(".wav"), "a/b.WAV", Path("a/b.WAV")),
    ],
)
def test_values(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (arguments.positive, ["0", "-1", "1.5", "one", ""]),
        (arguments.numbers, ["", "4,,5", "4;5", "0,1"]),
        (arguments.seed, ["-1", "4294967296", "1.5", "x", ""]),
        (arguments.temperature, ["-0.1", "nan", "inf", "warm", ""]),
        (arguments.columns, ["", "e", "aa", "a d"]),
        (arguments.path_with(".wav"), ["a.mp3", "wav", ""]),
    ],
)
def test_refusals_name_the_text(kind, texts):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert repr(text) in str(caught.value)
