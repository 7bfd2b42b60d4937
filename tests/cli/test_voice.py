"""The commands of a voice: what they write, and bad input, which is one line with a remedy and loses nothing."""

import shutil
from pathlib import Path

import pytest
import voices
from full_disk import full_disk
from shell import one_line_error

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.utils.files import locked

SETS = [word for name, value in voices.TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a corpus and a voice that is done."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("shell")
    corpus = voices.corpus(place / "corpus")
    assert main(["new", str(place / "voice"), str(corpus), "--test", "3", "--no-progress", *SETS]) == 0
    assert main(["run", str(place / "voice"), "--no-progress"]) == 0
    return place


@pytest.fixture
def voice(made, tmp_path):
    """A copy of the voice, beside a copy of the corpus."""
    for name in ("corpus", "voice"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "voice"


def files(folder: Path) -> dict[Path, bytes]:
    """The contents of a folder, without locks and the record of a stage that was begun."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


def test_new_looks_at_the_data_and_writes_what_was_asked(tmp_path, capfd):
    corpus = voices.corpus(tmp_path / "corpus")
    (tmp_path / "test.txt").write_text("clip01\nclip02\n")
    command = ["new", str(tmp_path / "voice"), str(corpus), "--test", str(tmp_path / "test.txt"), "--labelled", "6"]
    assert main([*command, "--set", "train.steps=77", "--quick"]) == 0
    printed = capfd.readouterr()
    assert "24 clips" in printed.out and "6 clips with a text" in printed.out and printed.err == ""
    assert "2 for testing, 16 others that are heard without a text" in printed.out
    written = (tmp_path / "voice" / "voice.toml").read_text()
    assert "steps = 77" in written and 'audio = ["../corpus"]' in written
    assert main(["new", str(tmp_path / "voice"), str(corpus)]) == 2
    one_line_error(capfd, "holds a voice already")


def test_a_corpus_whose_clips_all_have_a_text_is_allowed_and_says_what_applies(tmp_path, capsys):
    corpus = voices.corpus(tmp_path / "corpus", clips=12, texts=12)
    assert main(["new", str(tmp_path / "voice"), str(corpus), "--test", "2"]) == 0
    assert "only columns (a) and (b) of the paper apply" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (0, [], ["none of 24 clips has a text", "metadata.csv"]),
        (4, [], ["only 4 labelled clips", "at least 5", "write more texts"]),
        (14, ["--labelled", "40"], ["labelled=40", "lower it"]),
        (14, ["--labelled", "4"], ["labelled must be at least 5, or None for all, got 4"]),
        (14, ["--test", "nowhere.txt"], ["test: there is no file", "nowhere.txt"]),
        (14, ["--set", "model.dim=30"], ["model.dim must be a multiple"]),
        (14, ["--set", "train.stepz=3"], ["'stepz'", "did you mean steps?"]),
        (14, ["--set", "train.steps"], ["SECTION.KEY=VALUE"]),
        (14, ["--unpaired-text", "nowhere.txt"], ["data.unpaired_text", "nowhere.txt"]),
        (
            14,
            ["--unpaired-text", "{}/cyrillic.txt"],
            ["data.unpaired_text", "CYRILLIC SMALL LETTER", "give sentences in"],
        ),
        (15, ["--test", "{}/test.txt"], ["data.test: 1 texts share no letter", "clip14", "write both in one script"]),
    ],
)
def test_a_corpus_that_cannot_be_used_leaves_nothing(texts, options, words, tmp_path, capsys):
    corpus = voices.corpus(tmp_path / "corpus", texts=texts)
    if not texts:
        (corpus / "metadata.csv").unlink()
    if texts == 15:
        table = corpus / "metadata.csv"
        table.write_text(table.read_text().replace(f"clip14|{voices.text(14)}", "clip14|раз два"), encoding="utf-8")
    (tmp_path / "cyrillic.txt").write_text("раз два\nтри\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("clip03\nclip14\n")
    options = [option.format(tmp_path) for option in options]
    assert main(["new", str(tmp_path / "voice"), str(corpus), *options, "--no-progress"]) == 2
    one_line_error(capsys, *words)
    assert not (tmp_path / "voice").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("format = 1", "format = 9"), ["voice.toml has format 9", "upgrade"]),
        (("steps = 5", "steps = 'five'"), ["pretrain.steps", "whole number"]),
        (('test = "test.txt"', 'test = "labelled.txt"'), ["data.test", "labelled.txt"]),
        (('audio = ["../corpus"]', 'audio = ["../moved"]'), ["moved"]),
    ],
)
def test_settings_that_cannot_be_lose_nothing(change, words, voice, capsys):
    path = voice / "voice.toml"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    before = files(voice)
    assert main(["run", str(voice), "--no-progress"]) == 2
    one_line_error(capsys, *words)
    assert files(voice) == before


@pytest.mark.slow
def test_texts_of_the_test_in_training_are_refused(voice, capsys):
    test = (voice / "test.txt").read_text().split()
    table = voice.parent / "corpus" / "metadata.csv"
    (line,) = [line for line in table.read_text().splitlines() if line.startswith(test[0])]
    table.write_text(table.read_text() + f"clip20|{line.partition('|')[2]}\n")
    before = files(voice)
    for command in ("run", "train", "evaluate"):
        assert main([command, str(voice), "--no-progress"]) == 2
        one_line_error(capsys, "1 texts of the test are also texts of labelled clips", test[0], "data.test")
    assert files(voice) == before


@pytest.mark.slow
def test_texts_in_another_script_are_refused_by_a_voice_that_is_done(voice, capsys):
    """A further text is not in the alphabet; unpaired sentences and a text to say are the same."""
    (voice.parent / "other.txt").write_text("раз два\n", encoding="utf-8")
    before = files(voice)
    command = ["run", str(voice), "--set", "data.unpaired_text=../other.txt", "--no-progress"]
    assert main(command) == 2
    one_line_error(capsys, "data.unpaired_text", "CYRILLIC SMALL LETTER", "in the script of the texts")
    assert main(["say", str(voice), "раз"]) == 2
    one_line_error(capsys, "CYRILLIC SMALL LETTER")
    assert files(voice) == before


@pytest.mark.slow
def test_a_changed_corpus_under_a_stage_that_is_done(voice, capsys):
    """Changed audio is heard again, and says so. A stage alone is not made from outdated ones; a lost test clip is named."""
    wavs = voice.parent / "corpus" / "wavs"
    shutil.copy(wavs / "clip21.wav", wavs / "clip20.wav")
    before = files(voice / "model")
    assert main(["train", str(voice), "--no-progress"]) == 2
    one_line_error(capsys, "pretrain comes before train (1 clips that it heard are gone or changed)", "spear-tts run")
    assert files(voice / "model") == before
    assert main(["run", str(voice)]) == 0
    printed = capsys.readouterr().out
    assert "units: kept" in printed and "pretrain: 1 clips that it heard are gone or changed" in printed
    assert main(["run", str(voice)]) == 0
    assert capsys.readouterr().out.count(": kept") == 6
    test, before = (voice / "test.txt").read_text().split(), files(voice)
    (wavs / f"{test[0]}.wav").unlink()
    assert main(["run", str(voice), "--no-progress"]) == 2
    one_line_error(capsys, "test.txt: 1 ids are of no clip", test[0], "restore the audio")
    assert files(voice) == before


@pytest.mark.slow
def test_two_runs_at_once(voice, capsys):
    before = (voice / "voice.toml").read_bytes()
    with locked(voice):
        for options in ([], ["--set", "train.steps=9"]):
            assert main(["run", str(voice), "--no-progress", *options]) == 2
            one_line_error(capsys, str(voice), "another process")
    assert (voice / "voice.toml").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "command", "stage"),
    [
        ("model/model.safetensors", ["say", "one two"], "train"),
        ("model/config.json", ["say", "one two"], "train"),
        ("backtranslate/model/model.safetensors", ["say", "one two"], "backtranslate"),
        ("pretrain/model/model.safetensors", ["train", "--again"], "pretrain"),
        ("units/tokenizer/tokenizer.safetensors", ["train", "--again"], "units"),
    ],
)
def test_a_damaged_result_names_the_stage_to_run_again(file, command, stage, voice, capsys):
    (voice / file).write_bytes((voice / file).read_bytes()[:-40])
    assert main([command[0], str(voice), *command[1:]]) == 2
    one_line_error(capsys, str((voice / file).parent), f"`spear-tts {stage} {voice} --again`", told=True)


@pytest.mark.slow
def test_without_bars_the_lines_of_the_stages_are_told(voice, capsys):
    assert main(["run", str(voice), "--no-progress"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count(": kept") == 6 and printed.err == ""
    assert main(["label", str(voice), "--no-progress", "--again"]) == 0
    printed = capsys.readouterr()
    assert "label: asked for\n" in printed.out and "label: 10 clips" in printed.out and "%|" not in printed.err


@pytest.mark.slow
def test_a_full_disk_loses_nothing(voice, capfd):
    """No file may be larger: of the settings, the tokenizer, a model. Then the run goes on."""
    weights = (voice / "model" / "model.safetensors").read_bytes()
    for most in (600, 2_000, 60_000):
        with full_disk(most):
            assert main(["run", str(voice), "--set", "units.fit_clips=5", "--no-progress"]) == 2
        one_line_error(capfd, "too large", "make room", told=True)
        assert (voice / "model" / "model.safetensors").read_bytes() == weights
    assert main(["run", str(voice), "--set", "units.fit_clips=600", "--no-progress"]) == 0
    assert (voice / "model" / "model.safetensors").read_bytes() == weights
