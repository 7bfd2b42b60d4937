"""First labels of a voice whose units are an encoder's: from its features, kept, and the same after an interruption."""

import json
import shutil

import numpy as np
import pytest
import torch
import voices
from babble import HZ, make_clips

pytest.importorskip("transformers")
import small_encoders  # noqa: E402

from spear_tts_pytorch.data.corpora.corpus import Utterance  # noqa: E402
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset  # noqa: E402
from spear_tts_pytorch.recipe import hearing  # noqa: E402
from spear_tts_pytorch.recipe.features import Features, clip_features, extract, layers_above, open_layers  # noqa: E402
from spear_tts_pytorch.recipe.voice import Voice  # noqa: E402
from spear_tts_pytorch.tokenizers.encoder_files import open_encoder  # noqa: E402
from spear_tts_pytorch.tokenizers.encoders import encoder_of  # noqa: E402


def clips(count):
    return [
        Utterance(f"clip{n}", None, None, HZ, lambda wav=wav: np.asarray(wav))
        for n, wav in enumerate(make_clips()[:count])
    ]


TINY = {**voices.TINY, "backtranslate.feature_steps": 4}


@pytest.fixture
def voice(tmp_path, monkeypatch):
    """A voice with units and pretraining, in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    voices.corpus(tmp_path / "corpus")
    small_encoders.make("whisper", tmp_path / "encoder")
    made = Voice.new("voice", "corpus", test=2, labelled=6, encoder="encoder", changes=TINY, progress=False)
    made.units()
    made.pretrain()
    return made


def test_layers_lie_between_that_of_the_units_and_the_last():
    assert layers_above(2, 4) == (2, 3, 4)
    assert layers_above(6, 12) == (6, 9, 12)
    assert layers_above(3, 3) == (3,)


@pytest.mark.parametrize("kind", ["whisper", "hubert", "w2v-bert"])
def test_features_hold_each_layer_as_transformers_gives_it(kind, tmp_path):
    small_encoders.make(kind, tmp_path / "encoder")
    encoder = open_layers(tmp_path / "encoder", 1)
    layers = (*encoder.also, encoder.opened.layer)
    assert layers == layers_above(1, encoder.opened.depth)
    [clip] = clips(1)
    rows = clip_features(clip, encoder)
    assert rows.shape[1] == encoder.dim * (1 + len(encoder.also))
    for layer, found in zip(layers, rows.split(encoder.dim, dim=1), strict=True):
        alone = encoder_of(open_encoder(tmp_path / "encoder", layer))
        torch.testing.assert_close(found, clip_features(clip, alone))


def test_features_pass_through_a_file(tmp_path):
    small_encoders.make("whisper", tmp_path / "encoder")
    encoder, some = open_layers(tmp_path / "encoder", 1), clips(3)
    found = extract(some, encoder, tmp_path / "features.bin", progress=False)
    for clip in some:
        torch.testing.assert_close(found[clip.id], clip_features(clip, encoder), atol=0.02, rtol=0.002)
    rows = torch.cat([found[clip.id] for clip in some])
    torch.testing.assert_close(found.stats([clip.id for clip in some])[0], rows.mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.stats([clip.id for clip in some])[1], rows.std(0), atol=1e-2, rtol=1e-2)
    assert Features(tmp_path / "features.bin").places == found.places


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [0, 1])
def test_labels_are_those_that_the_reader_of_features_hears(voice, rounds):
    voice = Voice.open(voice.folder, {"backtranslate.feature_rounds": rounds}, progress=False)
    voice.backtranslate()
    voice.label()
    results, folder = voice.results, voice.folder / "backtranslate"
    heard = json.loads((folder / "heard.json").read_text())
    pairs = GeneratedAudioTextDataset(voice.folder / "pairs")
    assert sorted(pairs.ids) == sorted(results.unlabelled.ids) and set(pairs.ids) <= set(heard)
    assert {id_: heard[id_][0] for id_ in pairs.ids} == dict(zip(pairs.ids, pairs.column("text"), strict=True))
    assert not list(folder.glob("*features.bin"))
    before = results.output("backtranslate"), results.output("label")
    shutil.rmtree(folder / "run-0")
    (folder / "heard.json").unlink()  # as an interruption between training and labels leaves it
    again = hearing.hear(results, results.unlabelled.ids)
    assert {id_: text for id_, (text, _) in again.items()} == {id_: heard[id_][0] for id_ in again}
    voice.backtranslate(again=True)
    voice.label(again=True)
    assert (voice.results.output("backtranslate"), voice.results.output("label")) == before


@pytest.mark.slow
def test_without_features_the_reader_of_ids_labels(voice):
    voice = Voice.open(voice.folder, {"backtranslate.features": False}, progress=False)
    voice.backtranslate()
    voice.label()
    assert not (voice.folder / "backtranslate" / "heard.json").exists()
    assert (voice.folder / "backtranslate" / "pairs-1").is_dir()


@pytest.mark.slow
def test_an_encoder_that_has_gone_is_named_with_a_remedy(voice):
    shutil.rmtree("encoder")
    with pytest.raises(FileNotFoundError, match=r"whole encoder.*--set backtranslate.features=false"):
        voice.backtranslate()
