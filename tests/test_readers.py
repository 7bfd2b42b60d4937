"""Corpora in their usual layouts, written here in small, with what goes wrong in them."""

import numpy as np
import pytest
import soundfile

from spear_tts_pytorch.data.corpora import Utterance
from spear_tts_pytorch.data.readers import (
    read_common_voice,
    read_corpus,
    read_dataset,
    read_folder,
    read_librispeech,
    read_vctk,
)

RATE = 8000


def sound(path, seconds=0.1, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    soundfile.write(path, wav, rate)
    return path


def shown(found):
    return [(one.id, one.text, one.speaker, one.sample_hz, len(one.audio())) for one in found]


def test_a_folder_of_audio_with_and_without_texts(tmp_path):
    sound(tmp_path / "b" / "two.flac", channels=2)
    sound(tmp_path / "one.wav", rate=16000)
    sound(tmp_path / "three.ogg")
    (tmp_path / "one.txt").write_text("\ufeffHello\tthere,\n\n  world \n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not audio")
    wanted = [("b/two", None, None, 8000, 800), ("one", "Hello there, world", None, 16000, 1600)]
    found = shown(read_corpus(tmp_path))
    assert found[:2] == wanted and found[2][:4] == ("three", None, None, 8000)
    with pytest.raises(FileNotFoundError, match="holds no audio"):
        read_folder(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no corpus folder"):
        read_corpus(tmp_path / "missing")


def test_a_file_that_is_no_audio_is_found_out_when_it_is_asked_for(tmp_path):
    sound(tmp_path / "good.wav")
    (tmp_path / "text.wav").write_text("this is text")
    (tmp_path / "zero.wav").write_bytes(b"")
    found = {one.id: one for one in read_folder(tmp_path)}
    for name in ("text", "zero"):
        with pytest.raises(ValueError, match=f"{name}.wav"):
            found[name].audio()
    assert len(found["good"].audio()) == 800


def test_librispeech(tmp_path):
    chapter = tmp_path / "train-clean-100" / "19" / "198"
    sound(chapter / "19-198-0000.flac", rate=16000)
    sound(chapter / "19-198-0001.flac", rate=16000)
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER ABBEY\n19-198-0009 NO AUDIO\n19-198-0001 THIS\n")
    wanted = [("19-198-0000", "NORTHANGER ABBEY", "19", 16000, 1600), ("19-198-0001", "THIS", "19", 16000, 1600)]
    assert shown(read_corpus(tmp_path)) == wanted == shown(read_librispeech(tmp_path / "train-clean-100"))


def test_libritts(tmp_path):
    sound(tmp_path / "84" / "121123" / "84_121123_000007_000001.wav", rate=24000)
    text = tmp_path / "84" / "121123" / "84_121123_000007_000001.normalized.txt"
    text.write_text("Maximilian and Valentine.\n")
    text.with_name("84_121123_000007_000001.original.txt").write_text("other")
    assert shown(read_corpus(tmp_path)) == [("84_121123_000007_000001", "Maximilian and Valentine.", "84", 24000, 2400)]


def test_common_voice(tmp_path):
    sound(tmp_path / "clips" / "common_voice_ru_1.flac", rate=32000)
    rows = ["client_id\tpath\tsentence\tup_votes", 'abc\tcommon_voice_ru_1.flac\tСказал "да.\t2', "d\tgone.mp3\tNo\t0"]
    (tmp_path / "validated.tsv").write_text("\n".join(rows), encoding="utf-8")
    wanted = [("common_voice_ru_1", 'Сказал "да.', "abc", 32000, 3200)]
    assert shown(read_corpus(tmp_path)) == wanted
    with pytest.raises(FileNotFoundError, match=r"no test.tsv \(there: validated\)"):
        read_common_voice(tmp_path, split="test")


def test_vctk(tmp_path):
    for mic in (1, 2):
        sound(tmp_path / "wav48_silence_trimmed" / "p225" / f"p225_001_mic{mic}.flac", seconds=0.1 * mic, rate=48000)
    (tmp_path / "txt" / "p225").mkdir(parents=True)
    (tmp_path / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.\n")
    assert shown(read_corpus(tmp_path)) == [("p225_001", "Please call Stella.", "p225", 48000, 4800)]
    assert shown(read_vctk(tmp_path, microphone=2))[0][-1] == 9600


def test_dataset_objects():
    wav = np.ones(100, np.float32)
    one = Utterance("u", "t", None, 8000, lambda: wav)
    items = [
        {"audio": {"array": wav, "sampling_rate": 16000}, "sentence": "a  b", "client_id": 7, "path": "x.mp3"},
        (wav[None], 22050, "raw", "normalised"),
        (np.stack((wav, 0 * wav)), 16000, "libri", 19, 198, 0),
        (wav[None], 48000, "vctk", "p225", "001"),
        one,
    ]
    found = list(read_corpus(items))
    assert [(x.id, x.text, x.speaker, x.sample_hz) for x in found] == [
        ("x.mp3", "a b", "7", 16000),
        ("1", "normalised", None, 22050),
        ("2", "libri", "19", 16000),
        ("3", "vctk", "p225", 48000),
        ("u", "t", None, 8000),
    ]
    assert found[2].audio().tolist() == [0.5] * 100
    with pytest.raises(ValueError, match="item 0 of the dataset is a int"):
        list(read_dataset([3]))


def test_real_corpora(corpora):
    found = read_corpus(corpora / "asterisk_en")
    assert len(found) == 554 and found[0].text and found[0].sample_hz == 8000
    with pytest.warns(UserWarning, match="have no row"):
        assert len(read_corpus(corpora / "ljspeech_mini")) == 8
    assert len(list(read_folder(corpora / "ljspeech_mini" / "wavs"))) == 32
