"""What work costs is measured on a voice's own sizes, kept in its folder, and measured anew for other sizes."""

import json

import pytest
import torch
import voices

from spear_tts_pytorch.recipe import Voice, costs
from spear_tts_pytorch.recipe.results import STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("costs")
    corpus = voices.corpus(place / "corpus")
    return Voice.new(place / "voice", corpus, test=3, changes=voices.TINY, progress=False)


def kept(voice: Voice) -> dict[str, object]:
    return json.loads((voice.folder / costs.FILE).read_text())


def test_a_new_voice_knows_how_long_it_takes(made):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert "about" not in repr(made)
    estimate = made.estimate
    assert torch.equal(torch.get_rng_state(), state)
    assert estimate is not None and tuple(estimate.seconds) == STAGES
    there = kept(made)["costs"]
    assert there.pop("resynthesis") == 0 and all(seconds > 0 for seconds in there.values())
    assert kept(made)["seconds"] == estimate.seconds
    assert "about" in repr(made)
    assert not [path for path in made.folder.iterdir() if path.is_dir()]  # nothing was trained there


def test_other_steps_are_arithmetic_and_other_sizes_are_measured(made):
    before = made.estimate
    longer = Voice.open(made.folder, {"pretrain.steps": 500}, progress=False)
    costs_before = kept(made)["costs"]
    assert longer.estimate.seconds["pretrain"] > before.seconds["pretrain"]
    assert longer.estimate.seconds["train"] == before.seconds["train"]
    assert kept(longer)["costs"] == costs_before
    wider = Voice.open(made.folder, {"model.dim": 48}, progress=False)
    assert wider.estimate is not None and kept(wider)["costs"] != costs_before


@pytest.mark.parametrize("text", ["", "[]", '{"key": 3}', '{"key": "KEY", "costs": {"fit": "x"}}'])
def test_a_damaged_file_is_measured_anew(made, text):
    path = made.folder / costs.FILE
    key = json.loads(path.read_text())["key"] if path.is_file() else ""
    path.write_text(text.replace("KEY", key))
    assert Voice(made.folder, progress=False).estimate is not None
    names = {"fit", "tokenize", "ids", "pretrain", "read", "speak", "judge", "label", "say", "resynthesis"}
    assert set(kept(made)["costs"]) == names


def test_what_cannot_be_tokenized_has_no_estimate(made):
    (made.folder / costs.FILE).unlink(missing_ok=True)
    voice = Voice.open(made.folder, {"units.clusters": 100_000}, progress=False)
    assert voice.estimate is None and not (made.folder / costs.FILE).exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [({}, ImportError("no scikit-learn")), ({"pretrain.lr": 1e30}, None), ({}, RuntimeError("no memory"))],
)
def test_a_voice_is_made_although_nothing_can_be_measured(made, tmp_path, monkeypatch, changes, error):
    def fail(*_, **__):
        raise error

    if error is not None:
        monkeypatch.setattr(costs, "fit_units", fail)
    corpus = made.folder.parent / "corpus"
    voice = Voice.new(tmp_path / "voice", corpus, test=3, changes={**voices.TINY, **changes}, progress="lines")
    assert voice.estimate is None and (tmp_path / "voice" / "voice.toml").is_file()


def test_new_prints_the_estimate(made, tmp_path, capsys):
    voice = Voice.new(tmp_path / "voice", made.folder.parent / "corpus", test=3, changes=voices.TINY)
    assert str(voice.estimate) in capsys.readouterr().out.splitlines()
