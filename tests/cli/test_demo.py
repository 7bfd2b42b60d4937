"""`spear-tts demo`: arguments reach the library, wrong folders are refused before any work."""

from pathlib import Path

import pytest
from shell import one_line_error

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.recipe import demo


@pytest.mark.parametrize("corpus", ["no/such/folder", "fsdd:no/such/folder"])
def test_missing_corpus_is_one_line(corpus, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--corpus", corpus]) == 2
    one_line_error(capsys, "no/such/folder")
    assert not list(tmp_path.iterdir())


def test_existing_output_is_refused_and_kept(capsys, tmp_path):
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 2
    one_line_error(capsys, str(tmp_path), "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"] and kept.read_text() == "mine"


def test_demo_hands_every_argument_over(monkeypatch):
    seen = {}
    monkeypatch.setattr(demo, "run_demo", lambda **kwargs: seen.update(kwargs))
    assert main(["demo"]) == 0
    defaults = dict(
        corpus=None,
        labelled=None,
        seed=0,
        output=Path("spear-tts-demo"),
        columns="ad",
        quick=False,
        overwrite=False,
        speaker=None,
        text_column=None,
        progress=True,
    )
    assert seen == defaults
    arguments = "--corpus fsdd:x --labelled 15 --seed 7 --output o --columns dcba --quick --overwrite"
    arguments += " --speaker s --text-column 2"
    assert main(["demo", *arguments.split(), "--no-progress"]) == 0
    assert seen == dict(
        corpus="fsdd:x",
        labelled=15,
        seed=7,
        output=Path("o"),
        columns="abcd",
        quick=True,
        overwrite=True,
        speaker="s",
        text_column="2",
        progress="lines",
    )
