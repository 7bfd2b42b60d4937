"""README.md keeps its word: the two commands stand there, every Python snippet runs, in order, as it is printed."""

import re
import shlex
from pathlib import Path

import pytest

from spear_tts_pytorch import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ['pip install -e ".[demo]" && spear-tts demo', 'pip install -e ".[test]" && pytest']


def snippets(language: str) -> list[tuple[int, str]]:
    """(number of the line before, code) of each fenced block of a language."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(README[: match.start(1)].count("\n"), match.group(1)) for match in found]


def test_the_two_commands_are_the_first_thing_after_the_opening_paragraph():
    title, opening, block = re.split(r"\n\n+", README)[:3]
    assert title.startswith("# ") and len(opening) > 80
    assert block.splitlines()[1:-1] == COMMANDS
    assert [line for line in README.splitlines() if line.startswith("pip install -e ")] == COMMANDS


@pytest.mark.slow
def test_python_snippets_run_in_order(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    monkeypatch.chdir(tmp_path)
    found = snippets("python")
    assert len(found) >= 3
    namespace = {"__name__": "__main__"}
    for line, code in found:
        # Blank lines in front make a traceback point into README.md.
        exec(compile("\n" * line + code, "README.md", "exec", dont_inherit=True), namespace)


def test_shell_examples_are_commands_that_exist():
    lines = [line for _, block in snippets("sh") for line in block.splitlines()]
    calls = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("spear-tts ")]
    assert len(calls) >= 3
    for call in calls:
        assert callable(cli.parser().parse_args(call).command)
