"""The benchmarks start, take turns, and compare a contestant with its twin. Their figures are not tested."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ["decode", "train_step", "train_corpus", "label", "store", "tokenization", "few_texts"]


@pytest.fixture(scope="module")
def workers():
    spec = importlib.util.spec_from_file_location("benchmark_workers", FOLDER / "workers.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


class Fake:
    """A contestant that notes its turns in `played` and fails at its turn number `fails_at`."""

    def __init__(self, error, name, played, fails_at=None):
        self.error, self.name, self.played, self.fails_at = error, name, played, fails_at
        self.turns = 0

    def turn(self, task):
        self.turns += 1
        if self.turns == self.fails_at:
            raise self.error(f"{self.name} broke")
        self.played.append((self.name, task))
        return 10 * task + self.turns


def test_rounds_go_back_and_forth_and_failures_leave(workers):
    played = []
    a, b, c = (Fake(workers.ContestantError, name, played, at) for name, at in (("a", None), ("b", None), ("c", 2)))
    answers, failures = workers.take_turns({a: (1, 3), b: (2, 2), c: (3, 3)})
    assert [name for name, _ in played] == ["a", "b", "c", "b", "a", "a"]
    assert answers == {"a": [11, 12, 13], "b": [21, 22], "c": [31]} and failures == {"c": "c broke"}


def test_ratios_are_paired_turn_by_turn(workers):
    figures = {"fp32": [2.0, 30.0, 400.0], "before: fp32": [1.0, 10.0, 100.0], "int8": [1.0]}
    assert workers.against(figures) == {"fp32": 3.0}


def test_a_folder_without_the_library_is_refused(workers, tmp_path):
    with pytest.raises(ValueError, match="holds no spear_tts_pytorch"):
        workers.check_checkout(str(tmp_path))
    workers.check_checkout(str(FOLDER.parent))


IMPORT_TORCH = ("store", "tokenization", "few_texts")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in IMPORT_TORCH]


@pytest.mark.parametrize("script", [*(name for name in SCRIPTS if name not in IMPORT_TORCH), *SLOW])
def test_every_script_starts(script):
    command = [sys.executable, str(FOLDER / f"{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr
    against = "--against FOLDER" in done.stdout
    assert against == (script in ("decode", "train_step"))


def test_every_script_is_tested_and_in_the_readme():
    helpers = {"workers", "decoders"}
    assert {path.stem for path in FOLDER.glob("*.py")} - helpers == set(SCRIPTS)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [script for script in SCRIPTS if f"benchmarks/{script}.py" not in readme] == []
