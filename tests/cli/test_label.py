"""`spear-tts label`: from audio and from ids to pairs, and exit code 1 for items that were left out."""

import json

import pytest
import small
import soundfile
from shell import one_line_error

from spear_tts_pytorch import GeneratedAudioTextDataset
from spear_tts_pytorch.cli import main


def test_label_reads_audio_and_tokenized_folders_and_says_what_was_left_out(model_folder, capsys, tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, wave in zip("abc", small.make_clips([6000] * 3, seed=1), strict=True):
        soundfile.write(audio / f"{name}.wav", wave, 8000)
    options = ["--max-length", "5", "--batch-size", "2", "--no-progress"]
    made = tmp_path / "pairs"
    arguments = ["label", str(model_folder), str(audio), str(made), *options]
    assert main([*arguments, "--report", str(tmp_path / "report")]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": 3, "skipped": 0, "empty": 0, "failed": 0}
    found = GeneratedAudioTextDataset(made)
    assert found.ids == ["a", "b", "c"] and len(found[0][0])
    assert json.loads((tmp_path / "report" / "report.json").read_text())["pairs"] == 3

    (audio / "d.wav").write_bytes((audio / "a.wav").read_bytes()[:1000])
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"written": 0, "skipped": 3, "empty": 0, "failed": 1}
    assert captured.err.count("\n") == 1 and "left out: d: " in captured.err

    ids = tmp_path / "ids"
    assert main(["tokenize", str(audio), str(ids), "--tokenizer", str(model_folder / "semantic_tokenizer")]) == 0
    capsys.readouterr()
    assert main(["label", str(model_folder), str(ids), str(tmp_path / "again"), *options]) == 0
    again = GeneratedAudioTextDataset(tmp_path / "again")
    assert all(
        a.tolist() == b.tolist()
        for one, other in zip(found, again, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["voice", "--beam-size", "9"], ["--beam-size is for MODEL SPEECH OUT", "--set"]),
        (["voice", "--min-length", "2"], ["--min-length is for MODEL SPEECH OUT"]),
        (["model", "speech", "out", "--again"], ["--again is for a voice"]),
        (["model", "speech", "out", "--set", "label.most=3"], ["--set is for a voice"]),
        (["model", "speech"], ["OUT is missing"]),
        (["nowhere", "--set", "label.most=3"], ["nowhere/voice.toml is missing"]),
    ],
)
def test_options_without_effect_are_refused(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["label", *arguments]) == 2
    one_line_error(capsys, *words)
    assert not list(tmp_path.iterdir())
