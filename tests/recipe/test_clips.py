"""The parts of a voice's clips, and what is refused."""

import warnings

import pytest
import voices
from babble import HZ, make_clips

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.recipe.clips import hold_out, read_clips
from spear_tts_pytorch.recipe.settings import Data
from spear_tts_pytorch.recipe.sources import file_digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("voice")
    voices.corpus(place / "corpus")
    return place


def lines(path, ids):
    path.write_text("".join(f"{id_}\n" for id_ in ids))


def test_clips_without_text_are_unlabelled(folder):
    clips = read_clips(Data(audio=("corpus",)), folder)
    assert len(clips.every) == 24 and len(clips.labelled) == 14 and len(clips.unlabelled) == 10 and not clips.test
    assert clips.text("clip01") == "two one one" and clips.text("clip20") == ""


def test_lists_of_ids_make_the_parts(folder):
    lines(folder / "test.txt", ["clip03", "clip05"])
    lines(folder / "labelled.txt", [f"clip{n:02d}" for n in range(6, 12)])
    clips = read_clips(Data(audio=("corpus",), test="test.txt", labelled="labelled.txt"), folder)
    assert clips.test == ("clip03", "clip05") and len(clips.labelled) == 6 and len(clips.unlabelled) == 16
    assert "clip00" in clips.unlabelled and clips.text("clip00")  # its text may be known, to a judge only


@pytest.mark.parametrize(
    ("names", "ids", "words"),
    [
        (["test"], ["clip03", "clip77"], ["test.txt", "clip77", "no clip"]),
        (["test"], [], ["data.test", "test.txt holds no ids", "leave it out"]),
        (["labelled"], [], ["data.labelled", "labelled.txt holds no ids", "leave it out"]),
        (["test"], ["clip20"], ["data.test", "no text", "clip20"]),
        (["test"], [f"clip{n:02d}" for n in range(10)], ["only 4 labelled", "at least 5"]),
        (["test", "labelled"], [f"clip{n:02d}" for n in range(6)], ["in data.labelled and in data.test"]),
    ],
)
def test_lists_that_cannot_be(folder, names, ids, words):
    for name in names:
        lines(folder / f"{name}.txt", ids)
    data = Data(audio=("corpus",), **{name: f"{name}.txt" for name in names})
    with pytest.raises(ValueError) as caught:
        read_clips(data, folder)
    assert all(word in str(caught.value) for word in words), caught.value


def test_no_text_at_all(tmp_path):
    for number, wav in enumerate(make_clips()[:6]):
        save_audio(tmp_path / f"{number}.wav", wav, HZ)
    with pytest.raises(ValueError, match="none of 6 clips has a text.*metadata.csv"):
        read_clips(Data(audio=(".",)), tmp_path)


def test_a_text_of_the_test_is_not_trained_on(tmp_path):
    place = voices.corpus(tmp_path / "corpus")
    table = (place / "metadata.csv").read_text().replace(voices.text(3) + "\n", voices.text(7) + "\n")
    (place / "metadata.csv").write_text(table)
    lines(tmp_path / "test.txt", ["clip03"])
    with pytest.raises(ValueError, match="1 texts of the test are also texts of labelled clips .clip03."):
        read_clips(Data(audio=("corpus",), test="test.txt"), tmp_path)


def test_audio_without_a_text_is_not_odd_but_other_things_are(tmp_path):
    place = voices.corpus(tmp_path / "corpus", clips=10, texts=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_clips(Data(audio=("corpus",)), tmp_path).remarks == ()
        (place / "metadata.csv").write_text((place / "metadata.csv").read_text() + "nowhere|one\n")
        (remark,) = read_clips(Data(audio=("corpus",)), tmp_path).remarks
    assert "1 rows of metadata.csv have no audio in wavs/ (nowhere)" in remark


def test_other_scripts_are_refused(tmp_path):
    place = voices.corpus(tmp_path / "corpus")
    table = (place / "metadata.csv").read_text()
    (tmp_path / "lines.txt").write_text("раз два\nтри\n", encoding="utf-8")
    unpaired = Data(audio=("corpus",), unpaired_text=("lines.txt",))
    with pytest.raises(ValueError, match="all 2 sentences have letters.*'а' .CYRILLIC SMALL LETTER A.*script"):
        read_clips(unpaired, tmp_path)
    (tmp_path / "lines.txt").write_text("раз два\nOne, two!\n", encoding="utf-8")
    assert read_clips(unpaired, tmp_path).unpaired == ("раз два", "One, two!")
    (place / "metadata.csv").write_text(table.replace(voices.text(3) + "\n", "три\n"), encoding="utf-8")
    lines(tmp_path / "test.txt", ["clip03", "clip05"])
    with pytest.raises(ValueError, match="data.test: 1 texts share no letter with the labelled ones .clip03.*script"):
        read_clips(Data(audio=("corpus",), test="test.txt"), tmp_path)


def test_two_folders_and_a_table_elsewhere(tmp_path):
    voices.corpus(tmp_path / "a", clips=12, texts=6)
    (tmp_path / "b").mkdir()
    for number, wav in enumerate(make_clips()[30:34]):
        save_audio(tmp_path / "b" / f"clip{number:02d}.wav", wav[:HZ], HZ)  # the same names as in a
    (tmp_path / "texts.csv").write_text("b/clip00|six\nb/clip02|seven\n")
    clips = read_clips(Data(audio=("a", "b"), text=("texts.csv",)), tmp_path)
    assert len(clips.every) == 16 and {"a/clip00", "b/clip00", "clip05"} <= clips.every.keys()
    assert clips.text("b/clip02") == "seven" and clips.text("a/clip00") == "one one one"
    assert clips.every["b/clip00"].seconds == pytest.approx(1.0)


def test_texts_are_held_out_together(folder):
    every = dict(read_clips(Data(audio=("corpus",)), folder).every)
    for id_ in ("clip04", "clip09"):
        every[id_].text = "the same"
    for seed in range(20):
        drawn = hold_out(every, 4, seed, [f"clip{n:02d}" for n in range(14)])
        assert len(drawn) in (3, 4) and (("clip04" in drawn) == ("clip09" in drawn))
    assert hold_out(every, 4, 1, every) == hold_out(every, 4, 1, every)


def test_a_changed_file_has_another_digest(tmp_path):
    place = voices.corpus(tmp_path / "corpus", clips=8, texts=6)
    before = {id_: file_digest(one) for id_, one in read_clips(Data(audio=("corpus",)), tmp_path).every.items()}
    wav = make_clips()[3].copy()
    wav[20_000] += 0.1
    save_audio(place / "wavs" / "clip03.wav", wav, HZ)
    after = {id_: file_digest(one) for id_, one in read_clips(Data(audio=("corpus",)), tmp_path).every.items()}
    assert {id_ for id_ in before if before[id_] != after[id_]} == {"clip03"}
