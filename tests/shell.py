"""The shell as tests call it: as a process of its own, and the form of its errors."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def spear_tts(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "spear_tts_pytorch.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def one_line_error(capsys, *words: str, told: bool = False) -> None:
    """The last command printed one line, an error with these words; `told` allows lines of stages on stdout."""
    captured = capsys.readouterr()
    assert told or captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
