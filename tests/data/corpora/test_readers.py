"""Corpora in their usual layouts, written here in small, with what goes wrong in them."""

import os
import pickle
import sys

import numpy as np
import pytest
import soundfile
import torch

from spear_tts_pytorch.data.corpora.readers import (
    Waveforms,
    read_common_voice,
    read_corpus,
    read_folder,
    read_librispeech,
    read_vctk,
)
from spear_tts_pytorch.data.tokenized import TokenizedSpeech, tokenize_corpus

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
    with pytest.warns(UserWarning, match=r"2 clips have no text, their audio is kept \(b/two, three\)"):
        found = shown(read_corpus(tmp_path))
    assert found[:2] == wanted and found[2][:4] == ("three", None, None, 8000)
    (tmp_path / "gone.txt").write_text("text")
    with pytest.warns(UserWarning, match=r"1 texts have no audio \(gone\)"):
        read_corpus(tmp_path)
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


def test_files_that_differ_in_their_ending_alone_are_two_clips(tmp_path):
    for name in ("a.wav", "a.flac", "b.wav", "c/a.wav"):
        sound(tmp_path / name)
    soundfile.write(tmp_path / "d.opus", np.zeros(4800), 48000, format="OGG", subtype="OPUS")
    assert [one.id for one in read_corpus(tmp_path)] == ["a.flac", "a.wav", "b", "c/a", "d"]
    soundfile.write(tmp_path / "e.OGG", np.zeros(4800), 48000, format="OGG", subtype="OPUS")
    assert [one.id for one in read_corpus(tmp_path)][-1] == "e"


@pytest.mark.parametrize("layout", ["lj", "librispeech", "libritts", "vctk", "common voice"])
def test_two_files_of_one_clip_of_a_corpus_are_refused_at_once(tmp_path, layout):
    name = make(layout, tmp_path)[0]
    sound(next(path for path in tmp_path.rglob(f"{name}*") if path.suffix in (".wav", ".flac")).with_suffix(".ogg"))
    if layout == "common voice":
        (tmp_path / "validated.tsv").write_text(f"path\tsentence\n{name}.wav\ta\n{name}.ogg\tb\n")
    with pytest.raises(ValueError, match=rf"1 ids come twice or more \({name}"):
        read_corpus(tmp_path)


def make(layout, folder):
    """A corpus of one clip in a layout; its id, text and speaker."""
    if layout == "lj":
        sound(folder / "wavs" / "LJ001-0001.wav")
        (folder / "metadata.csv").write_text("LJ001-0001|Dr. A|Doctor\u2028A\n", encoding="utf-8")
        return "LJ001-0001", "Doctor\u2028A", None
    if layout == "librispeech":
        sound(folder / "dev-clean" / "19" / "198" / "19-198-0000.flac")
        (folder / "dev-clean" / "19" / "198" / "19-198.trans.txt").write_text("19-198-0000 A B\n")
        return "19-198-0000", "A B", "19"
    if layout == "libritts":
        sound(folder / "train-clean-100" / "84" / "1" / "84_1_07_01.wav")
        (folder / "train-clean-100" / "84" / "1" / "84_1_07_01.normalized.txt").write_text("A b.")
        return "84_1_07_01", "A b.", "84"
    if layout in ("vctk", "old vctk"):
        audio = "wav48_silence_trimmed/p225/p225_001_mic1.flac" if layout == "vctk" else "wav48/p225/p225_001.wav"
        sound(folder / audio)
        (folder / "txt" / "p225").mkdir(parents=True)
        (folder / "txt" / "p225" / "p225_001.txt").write_text("Please call.")
        return "p225_001", "Please call.", "p225"
    sound(folder / "clips" / "common_voice_en_1.wav")
    (folder / "validated.tsv").write_text("client_id\tpath\tsentence\nabc\tcommon_voice_en_1.wav\tHi.\n")
    (folder / "train.tsv").write_text("client_id\tpath\tsentence\nabc\tcommon_voice_en_1.wav\tLess.\n")
    return "common_voice_en_1", "Hi.", "abc"


@pytest.mark.parametrize(
    ("layout", "inner"),
    [
        ("lj", "LJSpeech-1.1"),
        ("librispeech", "LibriSpeech"),
        ("libritts", "LibriTTS"),
        ("vctk", "VCTK-Corpus-0.92"),
        ("old vctk", "VCTK-Corpus"),
        ("common voice", "cv-corpus-17.0-2024-03-15/en"),
    ],
)
def test_a_corpus_some_folders_down_is_found(tmp_path, layout, inner):
    wanted = make(layout, tmp_path / inner)
    (tmp_path / ".cache" / "wavs").mkdir(parents=True)
    (tmp_path / ".cache" / "metadata.csv").write_text("")
    assert [(one.id, one.text, one.speaker) for one in read_corpus(tmp_path)] == [wanted]
    if layout.startswith("libri"):
        return
    assert len(read_corpus(tmp_path / inner)) == 1
    sound(tmp_path / "music" / "song.ogg")
    with pytest.raises(ValueError, match=r"holds a corpus, .* and other audio \(music/song\): give the folder"):
        read_corpus(tmp_path)
    make("common voice", tmp_path / "cv" / "fr")
    with pytest.raises(ValueError, match=r"holds 2 corpora \(.*cv/fr.*\): give one of them"):
        read_corpus(tmp_path)


def test_corpora_can_be_handed_to_processes(tmp_path):
    for layout in ("lj", "librispeech", "libritts", "vctk", "common voice"):
        make(layout, tmp_path / layout)
        found = pickle.loads(pickle.dumps(read_corpus(tmp_path / layout)))
        assert len(found[0].audio()) == 800


def test_librispeech(tmp_path):
    chapter = tmp_path / "train-clean-100" / "19" / "198"
    sound(chapter / "19-198-0000.flac", rate=16000)
    sound(chapter / "19-198-0001.flac", rate=16000)
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER ABBEY\n19-198-0009 NO AUDIO\n19-198-0001 THIS\n")
    wanted = [("19-198-0000", "NORTHANGER ABBEY", "19", 16000, 1600), ("19-198-0001", "THIS", "19", 16000, 1600)]
    sound(chapter / "19-198-0002.flac")
    with pytest.warns(UserWarning) as told:
        wanted += [("19-198-0002", None, "19", 8000, 800)]
        assert shown(read_corpus(tmp_path)) == wanted == shown(read_librispeech(tmp_path / "train-clean-100"))
    messages = " ".join(str(one.message) for one in told)
    assert "1 rows of *.trans.txt have no audio: left out (19-198-0009)" in messages
    assert "1 audio files have no row in *.trans.txt: without text (19-198-0002)" in messages


def test_libritts(tmp_path):
    sound(tmp_path / "84" / "121123" / "84_121123_000007_000001.wav", rate=24000)
    text = tmp_path / "84" / "121123" / "84_121123_000007_000001.normalized.txt"
    text.write_text("Maximilian and Valentine.\n")
    text.with_name("84_121123_000007_000001.original.txt").write_text("other")
    wanted = [("84_121123_000007_000001", "Maximilian and Valentine.", "84", 24000, 2400)]
    assert shown(read_corpus(tmp_path)) == wanted
    text.with_name("84_1_0_0.normalized.txt").write_text("gone")
    sound(text.with_name("84_2_0_0.wav"))
    with pytest.warns(UserWarning) as told:
        assert shown(read_corpus(tmp_path)) == [*wanted, ("84_2_0_0", None, "84", 8000, 800)]
    messages = " ".join(str(one.message) for one in told)
    assert "1 texts have no audio: left out (84_1_0_0)" in messages
    assert "1 clips have no text, their audio is kept (84_2_0_0)" in messages


def test_common_voice(tmp_path):
    sound(tmp_path / "clips" / "common_voice_ru_1.flac", rate=32000)
    sound(tmp_path / "clips" / "common_voice_ru_2.flac")
    sound(tmp_path / "clips" / "unlisted.ogg")
    rows = ["client_id\tpath\tsentence\tup_votes", 'abc\tcommon_voice_ru_1.flac\tСказал\x85 "да.\t2', "d\tgone\tNo\t0"]
    rows += [
        "short\tcommon_voice_ru_2.flac",
        "",
        "x\tcommon_voice_ru_2.flac\ta\ttab\t0",
        "y\tcommon_voice_ru_1.flac\ta\t0",
    ]
    (tmp_path / "validated.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    with pytest.warns(UserWarning) as told:
        first, *others = read_corpus(tmp_path)
    assert shown([first]) == [("common_voice_ru_1", 'Сказал "да.', "abc", 32000, 3200)]
    assert [(one.id, one.text) for one in others] == [("common_voice_ru_2", None), ("unlisted", None)]
    messages = " ".join(str(one.message) for one in told)
    assert "2 rows do not have 4 columns as the first: left out (line 4, line 6)" in messages
    assert "2 rows have no audio of their own in clips/: left out (gone, common_voice_ru_1.flac)" in messages
    assert "2 audio files in clips/ have no row here: without text (common_voice_ru_2, unlisted)" in messages
    sound(tmp_path / "clips" / "common_voice_ru_1.wav")
    with pytest.warns(UserWarning, match=r"1 audio files .* left out \(common_voice_ru_1.wav\)"):
        assert len(read_corpus(tmp_path)) == 3
    with pytest.warns(UserWarning, match=r"3 audio files .* left out"):
        assert len(read_common_voice(tmp_path, split="validated")) == 1
    with pytest.raises(FileNotFoundError, match=r"no test.tsv \(there: validated\)"):
        read_common_voice(tmp_path, split="test")
    (tmp_path / "clips" / "unlisted.ogg").rename(tmp_path / "clips" / "old.mp3")  # what it holds is found out
    (tmp_path / "old.tsv").write_text("path\tsentence\nold\tWithout an ending.\n")
    with pytest.warns(UserWarning, match="3 audio files in clips/"):
        assert [one.id for one in read_common_voice(tmp_path, split="old")] == ["old"]
    (tmp_path / "train.tsv").write_text("path\ttext\n")
    with pytest.raises(ValueError, match="train.tsv has no column 'sentence', its first line names path, text"):
        read_common_voice(tmp_path, split="train")
    (tmp_path / "train.tsv").write_bytes(b"path\tsentence\n\xff\n")
    with pytest.raises(ValueError, match="train.tsv is not UTF-8"):
        read_common_voice(tmp_path, split="train")


def test_vctk(tmp_path):
    for mic in (1, 2):
        sound(tmp_path / "wav48_silence_trimmed" / "p225" / f"p225_001_mic{mic}.flac", seconds=0.1 * mic, rate=48000)
    (tmp_path / "txt" / "p225").mkdir(parents=True)
    (tmp_path / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.\n")
    assert shown(read_corpus(tmp_path)) == [("p225_001", "Please call Stella.", "p225", 48000, 4800)]
    assert shown(read_vctk(tmp_path, microphone=2))[0][-1] == 9600


def test_texts_and_audio_of_vctk_that_lack_each_other_are_counted(tmp_path):
    make("vctk", tmp_path)
    sound(tmp_path / "wav48_silence_trimmed" / "p315" / "p315_001_mic1.flac")
    sound(tmp_path / "wav48_silence_trimmed" / "p225" / "p225_002_mic2.flac")
    (tmp_path / "txt" / "p225" / "p225_002.txt").write_text("Ask her.")
    with pytest.warns(UserWarning) as told:
        found = read_corpus(tmp_path)
    assert [(one.id, one.text) for one in found] == [("p225_001", "Please call."), ("p315_001", None)]
    messages = " ".join(str(one.message) for one in told)
    assert "1 texts have no audio of microphone 1: left out (p225_002)" in messages
    assert "1 clips have no text, their audio is kept (p315_001)" in messages


def test_an_unreadable_file_does_not_stop_the_rest_of_ljspeech(tmp_path):
    make("lj", tmp_path)
    (tmp_path / "wavs" / "b.wav").write_text("text")
    (tmp_path / "metadata.csv").write_text("LJ001-0001|a\nb|b\n")
    good, bad = read_corpus(tmp_path)
    assert len(good.audio()) == 800
    with pytest.raises(ValueError, match="b.wav cannot be read"):
        bad.audio()


def test_hidden_files_and_folders_are_no_clips(tmp_path):
    sound(tmp_path / "a.wav")
    for name in ("._a.wav", ".trash/b.wav", "c/.d/e.flac"):
        sound(tmp_path / name)
    (tmp_path / "._a.txt").write_bytes(b"\xff")
    (tmp_path / "a.txt").write_text("A")
    assert [one.id for one in read_corpus(tmp_path)] == ["a"]
    make("librispeech", tmp_path / "libri")
    chapter = tmp_path / "libri" / "dev-clean" / "19" / "198"
    (chapter / "._19-198.trans.txt").write_bytes(b"\xff")
    (chapter / "._19-198-0000.flac").write_bytes(b"\xff")
    assert [(one.id, one.text) for one in read_corpus(tmp_path / "libri")] == [("19-198-0000", "A B")]


def test_metadata_beside_the_audio_is_read_or_warned_of(tmp_path):
    sound(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("name,words\nb.wav,one\n")
    with pytest.warns(UserWarning, match=r"1 tables are not read: a column must name the audio .*\(metadata.csv\)"):
        assert [(one.id, one.text) for one in read_corpus(tmp_path)] == [("a", None)]
    (tmp_path / "metadata.csv").write_text("a.wav|one\n")
    assert [(one.id, one.text) for one in read_corpus(tmp_path)] == [("a", "one")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_do_not_stop_the_rest(tmp_path):
    class Ones:
        codebook_size, target_sample_hz, downsample_factor = 2, RATE, 80

        def __call__(self, wav, lengths=None, input_sample_hz=None):
            return torch.ones(1, 3, dtype=torch.long)

    sound(tmp_path / "good.wav")
    sound(tmp_path / "x.wav").rename(tmp_path / os.fsdecode(b"b\xff.wav"))
    (tmp_path / os.fsdecode(b"c\xfe.wav")).write_bytes(b"no audio")
    report = tokenize_corpus(read_corpus(tmp_path), Ones(), tmp_path / "ids", progress=False)
    assert TokenizedSpeech(tmp_path / "ids").ids == [r"b\xff", "good"] and list(report.skipped) == [r"c\xfe"]
    make("lj", tmp_path / "lj")
    sound(tmp_path / "lj" / "wavs" / "x.wav").rename(tmp_path / "lj" / "wavs" / os.fsdecode(b"b\xff.wav"))
    with pytest.warns(UserWarning, match="without text"):
        assert [one.id for one in read_corpus(tmp_path / "lj")] == ["LJ001-0001", r"b\xff"]


def test_real_corpora(corpora):
    found = read_corpus(corpora / "asterisk_en")
    assert len(found) == 554 and found[0].text and found[0].sample_hz == 8000
    with pytest.warns(UserWarning, match="have no row"):
        found = read_corpus(corpora / "ljspeech_mini")
    assert [one.text is not None for one in found] == [True] * 8 + [False] * 24
    assert len(list(read_folder(corpora / "ljspeech_mini" / "wavs"))) == 32


def test_waveforms_have_one_rate(tmp_path):
    for name, rate in (("a", 8000), ("b", 16000)):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, rate), rate)
    (tmp_path / "a.txt").write_text("one")
    with pytest.warns(UserWarning, match="1 clips have no text"):
        waves = Waveforms(read_folder(tmp_path), 8000)
    assert repr(waves) == "Waveforms(2 clips at 8000 Hz)" and len(waves) == 2
    assert (waves.ids, waves.texts) == (["a", "b"], ["one", None])
    assert waves[0].dtype == waves[1].dtype == torch.float32 and len(waves[0]) == len(waves[1]) == 8000
