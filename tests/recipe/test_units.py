"""A voice whose units are those of a speech encoder: opened when the voice is made, kept in it, gone from its place."""

import shutil
from types import SimpleNamespace

import pytest
import voices
from babble import HZ, make_clips

pytest.importorskip("transformers")
import small_encoders  # noqa: E402

from spear_tts_pytorch.cli import main  # noqa: E402
from spear_tts_pytorch.recipe import units_report  # noqa: E402
from spear_tts_pytorch.recipe.starts import _same_units  # noqa: E402
from spear_tts_pytorch.recipe.units import ENCODER_CLUSTERS, WITHOUT_ENCODER, with_encoder  # noqa: E402
from spear_tts_pytorch.recipe.voice import Voice  # noqa: E402
from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive  # noqa: E402
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans  # noqa: E402
from spear_tts_pytorch.tokenizers.semantic import describe, load_semantic_tokenizer  # noqa: E402


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a corpus and an encoder, in which the test works."""
    monkeypatch.chdir(tmp_path)
    voices.corpus(tmp_path / "corpus")
    small_encoders.make("whisper", tmp_path / "encoder")
    return tmp_path


@pytest.mark.slow
def test_a_voice_keeps_its_encoder(place):
    voice = Voice.new("voice", "corpus", test=2, encoder="encoder", changes=voices.TINY, progress=False)
    assert (voice.settings.units.encoder, voice.settings.units.layer, voice.settings.units.clusters) == (
        "../encoder",
        0,
        24,
    )
    voice.units()
    shutil.rmtree("encoder")
    (place / "voice").rename("moved")
    shutil.rmtree(place / "moved" / "ids")
    moved = Voice(place / "moved", progress=False)
    moved.pretrain()  # after all clips have their ids again
    units = load_semantic_tokenizer(place / "moved" / "units" / "tokenizer")
    assert isinstance(units, UniqueConsecutive) and units.codebook_size == 24
    assert describe(moved.results.pretrained.wav2vec) == describe(units)
    assert moved.results.record("units").figures["used_ids"] > 6


@pytest.mark.slow
def test_the_command_names_the_encoder_or_says_what_doing_without_costs(place, capsys):
    tiny = [f"--set={name}={value}" for name, value in voices.TINY.items() if name != "units.clusters"]
    common = ["--test", "2", "--no-progress", *tiny]
    assert main(["new", "without", "corpus", *common]) == 0
    assert WITHOUT_ENCODER in capsys.readouterr().out
    assert main(["new", "with", "corpus", "--encoder", "encoder", "--set", "units.layer=1", *common]) == 0
    said = capsys.readouterr().out
    assert "\nunits: layer 1 of 3 of encoder (whisper)\n" in said and WITHOUT_ENCODER not in said
    settings = Voice(place / "with").settings.units
    assert (settings.encoder, settings.layer, settings.clusters) == ("../encoder", 1, ENCODER_CLUSTERS)


@pytest.mark.slow
def test_layers_of_an_encoder_are_compared(place, monkeypatch):
    monkeypatch.setattr(units_report, "STEPS", 2)
    voice = Voice.new("voice", "corpus", test=2, encoder="encoder", changes=voices.TINY, progress=False)
    with pytest.raises(ValueError, match="layer"):  # it has three
        voice.units_report(layers=[1, 9])
    assert not list((place / "voice" / "units" / "report").glob("layer*"))
    made = voice.units_report(layers=[1, 3], clusters=[8])
    assert [row["name"] for row in made["units"][1:]] == ["layer 1, 8 clusters", "layer 3, 8 clusters"]
    assert made["units"][1]["perplexity"] != made["units"][2]["perplexity"]
    assert made["advice"].startswith("--set units.layer=")


def test_an_encoder_that_cannot_be_opened_is_named_before_anything_is_written(place):
    (place / "encoder" / "model.safetensors").unlink()
    for encoder, layer, kind in (
        ("encoder", 0, ValueError),
        ("none", 0, FileNotFoundError),
        ("encoder", 9, ValueError),
    ):
        with pytest.raises(kind, match="encoder|layer"):
            Voice.new("voice", "corpus", encoder=encoder, changes={"units.layer": layer}, progress=False)
    assert not (place / "voice").exists()


def test_an_encoder_takes_the_place_of_the_units_of_another_voice(place):
    made, remark = with_encoder("encoder", place / "voice", {"units.layer": 3})
    assert made["units.init"] == "" and made["units.encoder"] == "../encoder" and "layer 3 of 3" in remark


def test_units_without_repeats_are_those_of_another_model_only_if_their_frames_are(tmp_path):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    one, other = (
        UniqueConsecutive(MelKmeans.fit(make_clips()[:6], HZ, 8, seed=seed, progress=False)) for seed in (0, 1)
    )
    one.save(tmp_path / "semantic_tokenizer")
    assert _same_units(SimpleNamespace(wav2vec=one), tmp_path)
    assert not _same_units(SimpleNamespace(wav2vec=other), tmp_path)
