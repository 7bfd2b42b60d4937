"""What the shell's arguments may be: each function takes a text and gives a value, or says what is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return number


def seed(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number >= 0")
    return number


def columns(text: str) -> str:
    if not text or set(text) - set("abcd") or len(set(text)) != len(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a choice of the letters a, b, c, d, such as abcd")
    return "".join(sorted(text))


def path_with(suffix: str):
    def path_of(text: str) -> Path:
        if not text.lower().endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        return Path(text)

    return path_of
