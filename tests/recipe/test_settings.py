"""voice.toml: written with a comment for each setting, read back equal, and every wrong value named."""

import re
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from spear_tts_pytorch.recipe.settings import Data, Model, Settings, Train, Units, as_toml, change_file, changed


def test_the_file_is_read_back_as_it_was(tmp_path):
    settings = Settings().replaced({"data.audio": ["a", "ü b"], "train.lr": 3e-4, "units.unique": False})
    settings.save(tmp_path / "voice.toml")
    assert Settings.load(tmp_path / "voice.toml") == settings


def test_every_setting_has_a_comment_line_above_it():
    lines = as_toml(Settings()).splitlines()
    named = [place for place, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    count = sum(len(fields(getattr(Settings(), name))) for name in Settings.sections())
    assert len(named) == count + 1  # and the format
    assert all(re.match(r"# .{4,}[.]$", lines[place - 1]) for place in named)


def test_missing_settings_have_their_defaults(tmp_path):
    path = tmp_path / "voice.toml"
    path.write_text('[data]\naudio = ["x"]\n')
    assert Settings.load(path) == Settings().replaced({"data.audio": ["x"]})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[pretrain]\nstepz = 3", ["stepz", "did you mean steps"]),
        ("[prestrain]\nsteps = 3", ["prestrain", "did you mean pretrain"]),
        ("[pretrain]\nsteps = 0", ["pretrain.steps", "at least 1", "0"]),
        ("[pretrain]\nsteps = 1.5", ["pretrain.steps", "whole number", "1.5"]),
        ("[pretrain]\nsteps = true", ["pretrain.steps", "whole number"]),
        ("[pretrain]\nlr = nan", ["pretrain.lr", "finite", "nan"]),
        ("[pretrain]\nlr = inf", ["pretrain.lr", "finite"]),
        ("[data]\naudio = 3", ["data.audio", "list of texts"]),
        ("[data]\naudio = [3]", ["data.audio", "list of texts"]),
        ("[evaluate]\ncolumns = 'e'", ["evaluate.columns", "abcd"]),
        ("[model]\ndim = 30", ["model.dim", "multiple", "30"]),
        ("[training]\nprecision = 'fp16'", ["training.precision", "bf16"]),
        ("[evaluate]\nsplit = 'dev'", ["evaluate.split", "development", "dev"]),
        ("format = 9", ["format 9", "upgrade"]),
        ("[units", ["not valid TOML"]),
        ("units = 3", ["units"]),
    ],
)
def test_what_cannot_be_is_named_with_the_file(tmp_path, line, words):
    path = tmp_path / "voice.toml"
    path.write_text(line)
    with pytest.raises(ValueError) as caught:
        Settings.load(path)
    assert all(word in str(caught.value) for word in [str(path), *words]), caught.value


def test_texts_are_read_as_the_kind_of_the_setting():
    read = Settings().replaced(
        {"pretrain.steps": "7", "train.lr": "1e-4", "units.unique": "false", "data.audio": "a, b"}
    )
    assert (read.pretrain.steps, read.train.lr, read.units.unique, read.data.audio) == (7, 1e-4, False, ("a", "b"))
    with pytest.raises(ValueError, match=r"pretrain\.steps must be a whole number at least 1, got 'many'"):
        Settings().replaced({"pretrain.steps": "many"})


def test_lists_are_typed_between_commas_or_as_in_the_file():
    for typed in ("a.txt,b c.txt", '["a.txt", "b c.txt"]'):
        assert Settings().replaced({"data.unpaired_text": typed}).data.unpaired_text == ("a.txt", "b c.txt")
    for wrong in ('["a.txt"', "[1]"):
        with pytest.raises(ValueError, match=r"^data\.unpaired_text "):
            Settings().replaced({"data.unpaired_text": wrong})


def test_changing_the_file_keeps_what_else_it_holds(tmp_path):
    path = tmp_path / "voice.toml"
    path.write_text("# mine\n[train]\nsteps = 9  # enough\n")
    change_file(path, {"train.steps": "12", "pretrain.steps": 3})
    assert "# mine" in path.read_text() and "# enough" in path.read_text()
    assert Settings.load(path) == Settings().replaced({"train.steps": 12, "pretrain.steps": 3})
    before = path.read_text()
    with pytest.raises(ValueError, match="no setting"):
        change_file(path, {"train.nothing": 1})
    assert path.read_text() == before


def test_differences_in_words():
    before, after = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 1, "y": 5}, "c": 4}
    assert changed(before, after) == ["a.y was 2 and is 5", "b was 3 and is unset", "c was unset and is 4"]
    assert changed(before, before) == []


@pytest.mark.parametrize(
    ("sections", "error", "words"),
    [
        ({"model": Model(dim="64")}, TypeError, "model.dim must be a whole number at least 8, got '64'"),
        ({"model": Model(dim=64.0)}, TypeError, "model.dim must be a whole number"),
        ({"data": Data(audio="here")}, TypeError, "data.audio must be a list of texts"),
        ({"units": Units(unique=1)}, TypeError, "units.unique must be True or False, got 1"),
        ({"train": Train(lr=float("nan"))}, ValueError, "train.lr must be a finite number"),
        ({"model": Train()}, TypeError, "model must be a Model"),
    ],
)
def test_sections_are_checked_as_the_file_is(sections, error, words):
    with pytest.raises(error, match=words):
        Settings(**sections)
    same = Settings(model=Model(dim=np.int64(64), dropout=0), data=Data(audio=["a"]))
    assert same == Settings().replaced({"model.dim": 64, "model.dropout": 0.0, "data.audio": ("a",)})
    assert type(same.model.dim) is int and type(same.model.dropout) is float and same.data.audio == ("a",)


def test_settings_do_not_change_in_place():
    with pytest.raises(FrozenInstanceError):
        Settings().model.dim = 3
