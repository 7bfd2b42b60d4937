"""`spear-tts say`: texts from the argument, a file or standard input, sound, and characters that the voice did not learn."""

import io

import pytest
import voices
from shell import one_line_error

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.recipe import Voice

TEXTS = ["one two", "seven"]
SHORT = {"label.beam_size": 1, "backtranslate.rounds": 0}


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A voice without the last stage."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("say")
    made = Voice.new(
        place / "voice", voices.corpus(place / "corpus"), test=3, changes=voices.TINY | SHORT, progress=False
    )
    for stage in ("units", "pretrain", "backtranslate", "label", "train"):
        getattr(made, stage)()
    return str(place / "voice")


def said(capsys) -> list[list[str]]:
    """The columns that were printed: text, what is read back, its error."""
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_a_text_a_file_and_standard_input_are_said_alike(voice, tmp_path, monkeypatch, capsys):
    assert main(["say", voice, TEXTS[0]]) == 0
    (alone,) = said(capsys)
    assert alone[0] == TEXTS[0] and alone[2].endswith(" %")
    (tmp_path / "lines.txt").write_text("\ufeff" + "one two\r\n\n  seven \n", encoding="utf-8")
    assert main(["say", voice, "--file", str(tmp_path / "lines.txt"), "--seed", "3"]) == 0
    of_file = said(capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO("one two\nseven\n"))
    assert main(["say", voice, "-", "--seed", "3"]) == 0
    assert said(capsys) == of_file and [one[0] for one in of_file] == TEXTS


@pytest.mark.slow
def test_sound_goes_to_a_file_or_numbered_files(voice, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("one two\nseven\n")
    options = ["--candidates", "2", "--temperature", "1"]
    assert main(["say", voice, "--file", str(lines), "--wav", str(tmp_path / "new" / "folder"), *options]) == 0
    assert main(["say", voice, "one two", "--wav", str(tmp_path / "one.WAV"), *options]) == 0
    for path in (
        tmp_path / "new" / "folder" / "0001.wav",
        tmp_path / "new" / "folder" / "0002.wav",
        tmp_path / "one.WAV",
    ):
        assert len(load_audio(path)[0]) > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["threé"], ["é (LATIN SMALL LETTER E WITH ACUTE, try 'e')"]),
        (["one-two"], ["- (HYPHEN-MINUS, try ' ')"]),
        (["один"], ["CYRILLIC SMALL LETTER O", "did not learn"]),
        (["one 2"], ["2 (DIGIT TWO)", "respell"]),
        (["ﬁve one"], ["LATIN SMALL LIGATURE FI, try 'fi'"]),
        ([" "], ["no text to say"]),
        ([], ["TEXT", "--file"]),
        (["one", "--file", "lines.txt"], ["TEXT", "--file"]),
        (["--file", "nowhere.txt"], ["nowhere.txt", "no such file"]),
        (["one", "--wav", "no/such/a.wav"], ["no/such", "make it first"]),
        (["one", "--candidates", "0"], ["--candidates"]),
    ],
)
def test_what_cannot_be_said_is_one_line(voice, arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["say", voice, *arguments]) == 2
    one_line_error(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_several_texts_need_a_folder(voice, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    wav = str(tmp_path / "a.wav")
    assert main(["say", voice, "--file", str(tmp_path / "lines.txt"), "--wav", wav]) == 2
    one_line_error(capsys, "a.wav", "2 texts", "folder")


@pytest.mark.slow
def test_a_model_alone_says_one_sample(voice, capsys):
    assert main(["say", f"{voice}/model", "one two"]) == 0
    ((text, count),) = said(capsys)
    assert text == "one two" and count.endswith(" ids")
    assert main(["say", f"{voice}/model", "one two", "--candidates", "3"]) == 2
    one_line_error(capsys, "--candidates 3 is for a voice", "leave it out")


@pytest.mark.slow
def test_the_settings_of_the_voice_are_the_defaults(voice, capsys):
    settings = Voice(voice).settings.evaluate
    given = ["--candidates", str(settings.candidates), "--temperature", str(settings.temperature)]
    assert main(["say", voice, "one two seven"]) == main(["say", voice, "one two seven", *given]) == 0
    usual, same = said(capsys)
    assert usual == same and settings.candidates != 4
