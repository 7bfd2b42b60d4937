"""`spear-tts generate`: ids on lines and in a file, sound in files, refusals on one line."""

import json

from shell import one_line_error

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.data.audio import load_audio


def ids_of(output: str) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in output.splitlines()]


def test_generate_prints_and_writes_ids(model_folder, capsys, tmp_path):
    arguments = ["generate", str(model_folder), "four", "--temperature", "1", "--samples", "3", "--max-length", "12"]
    assert main([*arguments, "--output", str(tmp_path / "ids.json")]) == 0
    first = capsys.readouterr().out
    rows = ids_of(first)
    assert len(rows) == 3 and all(len(row) <= 12 and all(0 <= i < 32 for i in row) for row in rows)
    written = json.loads((tmp_path / "ids.json").read_text())
    assert written["semantic_ids"] == rows and written["text"] == "four" and written["codebook_size"] == 32

    assert main(arguments) == 0
    assert capsys.readouterr().out == first, "the same seed should say the same"
    assert main([*arguments, "--seed", "1"]) == 0
    assert capsys.readouterr().out != first, "36 draws among 4 ids: equal by chance once in 4^36"


def test_generate_greedily_is_one_answer(model_folder, capsys):
    arguments = ["generate", str(model_folder), "one", "--temperature", "0", "--max-length", "8", "--samples", "2"]
    assert main(arguments) == 0
    rows = ids_of(capsys.readouterr().out)
    assert len(rows) == 2 and rows[0] == rows[1]


def test_generate_writes_sound(model_folder, capsys, tmp_path):
    arguments = ["generate", str(model_folder), "one", "--temperature", "1", "--max-length", "40", "--samples", "2"]
    assert main([*arguments, "--wav", str(tmp_path / "said.wav")]) == 0
    rows = ids_of(capsys.readouterr().out)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [f"said-{number}.wav" for number, row in enumerate(rows, 1) if row]
    for name in written:
        wav, sample_hz = load_audio(tmp_path / name)
        assert sample_hz > 0 and len(wav) > 0 and abs(wav).max() > 0


def test_unknown_characters_are_one_line(model_folder, capsys):
    assert main(["generate", str(model_folder), "größe"]) == 2
    one_line_error(capsys, "ö")
