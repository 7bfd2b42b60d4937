"""The recogniser reads spectra, alone as in batches; what it refuses; how texts are compared."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from spear_tts_pytorch.data.corpora.readers import read_corpus
from spear_tts_pytorch.recipe.recogniser import Recogniser, spoken
from spear_tts_pytorch.tokenizers.whisper_mel import whisper_mel
from spear_tts_pytorch.utils.metrics import character_error_rate

pytest.importorskip("transformers")
import small_encoders  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_encoders.recogniser(tmp_path_factory.mktemp("recogniser"))


@pytest.fixture(scope="module")
def spectra():
    generator = torch.Generator().manual_seed(0)
    return [whisper_mel(0.1 * torch.randn(samples, generator=generator)) for samples in (8000, 4000, 12000)]


def test_spectra_have_the_same_text_in_a_batch_as_alone(folder, spectra):
    judge = Recogniser(folder)
    alone = [judge.read([mel])[0] for mel in spectra]
    assert len(set(alone)) > 1
    # the count of tokens of a batch is that of its longest: a text that does not end is cut there
    for found, one in zip(judge.read(spectra, batch_size=2), alone, strict=True):
        assert found.startswith(one) and found
    assert judge.read(spectra, batch_size=1) == alone
    assert judge.read([spectra[0][:0], spectra[1]]) == ["", alone[1]] and judge.read([]) == []


def test_long_spectra_are_read_in_parts(folder, spectra):
    judge = Recogniser(folder)
    long = torch.cat([spectra[0]] * 70)[:3200]
    first, second = judge.read([long[:1600]])[0], judge.read([long[1600:]])[0]
    assert judge.read([long])[0] == f"{first} {second}".strip()


def test_without_digits_in_the_alphabet_none_are_written(folder, spectra):
    allowed, judge = Recogniser(folder, alphabet="ab1"), Recogniser(folder, alphabet="ab")
    digits = [judge.tokenizer.convert_tokens_to_ids(one) for one in "0123456789"]
    hidden = judge.model.proj_out.weight
    with torch.no_grad():
        for model in (allowed.model, judge.model):
            model.proj_out.weight[digits] = 3 * hidden[judge.tokenizer.convert_tokens_to_ids("a")]
    assert any(map(str.isdigit, "".join(allowed.read(spectra))))
    assert not any(map(str.isdigit, "".join(judge.read(spectra))))


def test_languages(folder, tmp_path):
    with pytest.raises(ValueError, match="knows English only, not language='de'"):
        Recogniser(folder, language="de")
    assert "english" in repr(Recogniser(folder, language="english"))
    many = small_encoders.recogniser(tmp_path / "many", languages=("de", "fr"))
    judge = Recogniser(many, language="german")
    assert judge.read([torch.zeros(50, 80)]) == Recogniser(many, language="de").read([torch.zeros(50, 80)])
    with pytest.raises(ValueError, match="does not know language='klingon'"):
        Recogniser(many, language="klingon")


def test_models_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="recogniser 'nowhere' is no file, no folder"):
        Recogniser("nowhere")
    other = small_encoders.recogniser(tmp_path / "other", bands=20)
    with pytest.raises(ValueError, match="takes 20 mel bands, not 80"):
        Recogniser(other)
    encoder = small_encoders.make("whisper", tmp_path / "encoder")
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights of a recogniser in safetensors"):
        Recogniser(tmp_path / "cut")
    with pytest.raises(ValueError, match="20 mel bands|cannot be loaded"):
        Recogniser(encoder)
    hubert = small_encoders.make("hubert", tmp_path / "hubert")
    with pytest.raises(ValueError, match="holds no weights of a recogniser|it is a hubert"):
        Recogniser(hubert)
    shutil.copytree(folder, tmp_path / "large")
    config = json.loads((tmp_path / "large" / "config.json").read_text())
    (tmp_path / "large" / "config.json").write_text(json.dumps({**config, "d_model": 4096}))
    with pytest.raises(ValueError, match="cannot be loaded by transformers"):
        Recogniser(tmp_path / "large")


def test_spectra_of_another_shape(folder):
    with pytest.raises(ValueError, match=r"spectra must have the shape \[n, 80\], got \[80, 50\]"):
        Recogniser(folder).read([torch.zeros(80, 50)])
    with pytest.raises(ValueError, match="batch_size"):
        Recogniser(folder).read([], batch_size=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" Don’t, STOP!  (now) ", "don't stop now"),
        ("well-known 1874", "well known 1874"),
        ("ńdé — ŋga", "ńdé ŋga"),
        ("...", ""),
        ("हिन्दी।", "हिन्दी"),
    ],
)
def test_texts_are_compared_as_they_are_spoken(text, said):
    assert spoken(text) == said


@pytest.mark.slow
def test_whisper_reads_real_speech():
    folder, corpora = os.environ.get("SPEAR_TTS_WHISPER", ""), os.environ.get("SPEAR_TTS_CORPORA", "")
    if not (folder and corpora):
        pytest.skip("SPEAR_TTS_WHISPER and SPEAR_TTS_CORPORA are not set: they name folders of a model and of speech")
    clips = [one for one in read_corpus(Path(corpora) / "asterisk_en") if one.seconds > 2][:3]
    from spear_tts_pytorch.data.audio import resample

    mels = [whisper_mel(torch.as_tensor(resample(one.audio(), one.sample_hz, 16000))) for one in clips]
    texts = Recogniser(folder, alphabet="abc").read(mels)
    assert character_error_rate(texts, [spoken(one.text or "") for one in clips]) < 15
