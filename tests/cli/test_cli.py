"""The shell: arguments reach the library, errors are one line and exit code 2, help is instant and has an example."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spear_tts_pytorch import __version__, cli

ROOT = Path(__file__).parents[2]


def spear_tts(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "spear_tts_pytorch.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def one_line_error(capsys, *words: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize("command", [[], ["demo"], ["generate"], ["tokenize"], ["label"], ["version"]])
def test_help_has_an_example(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    assert "example: spear-tts" in capsys.readouterr().out


def test_version_names_what_a_bug_report_needs(capsys):
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"spear-tts-pytorch {__version__}, torch ")


def test_module_runs_as_a_program():
    done = spear_tts("version")
    assert (done.returncode, done.stderr) == (0, "")
    assert __version__ in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "spear-tts --help"]),
        (["sing"], ["sing"]),
        (["demo", "--labelled", "0"], ["--labelled", "'0'", ">= 1", "spear-tts demo --help"]),
        (["demo", "--labelled", "many"], ["'many'"]),
        (["demo", "--columns", "ax"], ["--columns", "'ax'"]),
        (["demo", "--columns", "aa"], ["'aa'"]),
        (["demo", "--seed", "one"], ["--seed", "'one'"]),
        (["demo", "--nonsense"], ["--nonsense"]),
        (["generate", "model"], ["TEXT"]),
        (["generate", "model", " "], ["text is empty"]),
        (["generate", "model", "a", "--temperature", "-1"], ["--temperature", "'-1'"]),
        (["generate", "model", "a", "--temperature", "nan"], ["'nan'"]),
        (["generate", "model", "a", "--wav", "out.mp3"], ["--wav", "out.mp3", ".wav"]),
        (["generate", "model", "a", "--output", "nowhere/ids.json"], ["nowhere", "make it first"]),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    one_line_error(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("corpus", ["no/such/folder", "fsdd:no/such/folder"])
def test_missing_corpus_is_one_line(corpus, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--corpus", corpus]) == 2
    one_line_error(capsys, "no/such/folder")
    assert not list(tmp_path.iterdir())


def test_missing_model_is_one_line():
    done = spear_tts("generate", "no/model", "a", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: MODEL no/model: there is no such folder") and done.stderr.count("\n") == 1


def test_folder_without_a_model_is_one_line(capsys, tmp_path):
    assert cli.main(["generate", str(tmp_path), "a"]) == 2
    one_line_error(capsys, str(tmp_path), "config.json")


def test_existing_output_is_refused_and_kept(capsys, tmp_path):
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    assert cli.main(["demo", "--quick", "--output", str(tmp_path)]) == 2
    one_line_error(capsys, str(tmp_path), "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"] and kept.read_text() == "mine"


def test_traceback_on_request_only():
    silent = spear_tts("generate", "model", " ")
    loud = spear_tts("generate", "model", " ", SPEAR_TTS_DEBUG="1")
    assert silent.returncode == 2 and "Traceback" not in silent.stderr
    assert loud.returncode != 0 and "Traceback" in loud.stderr and "text is empty" in loud.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("first\n  second"), 2, "error: first second\n"),
        (FileExistsError("out is there"), 2, "error: out is there\n"),
        (ImportError("pip install x"), 2, "error: pip install x\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_exit_codes(error, code, line, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setattr(cli, "_version", fail)
    assert cli.main(["version"]) == code
    assert capsys.readouterr().err == line


def test_a_bug_is_not_dressed_up_as_a_user_error(monkeypatch):
    def fail(args):
        raise AttributeError("a bug")

    monkeypatch.setattr(cli, "_version", fail)
    with pytest.raises(AttributeError):
        cli.main(["version"])


def test_demo_hands_every_argument_over(monkeypatch):
    from spear_tts_pytorch.recipe import demo

    seen = {}
    monkeypatch.setattr(demo, "run_demo", lambda **kwargs: seen.update(kwargs))
    assert cli.main(["demo"]) == 0
    defaults = dict(
        corpus=None,
        labelled=None,
        seed=0,
        output=Path("spear-tts-demo"),
        columns="ad",
        quick=False,
        overwrite=False,
        speaker=None,
        progress=True,
    )
    assert seen == defaults
    arguments = "--corpus fsdd:x --labelled 15 --seed 7 --output o --columns dcba --quick --overwrite --speaker s"
    assert cli.main(["demo", *arguments.split(), "--no-progress"]) == 0
    assert seen == dict(
        corpus="fsdd:x",
        labelled=15,
        seed=7,
        output=Path("o"),
        columns="abcd",
        quick=True,
        overwrite=True,
        speaker="s",
        progress=False,
    )


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny untrained model with both tokenizers, saved as the recipe saves it."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    import numpy as np
    import torch

    from spear_tts_pytorch import CharacterTokenizer, MelKmeans, TextToSemantic

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    clips = [0.1 * random.standard_normal(8000).astype(np.float32) for _ in range(4)]
    text = CharacterTokenizer.fit(["three one four"])
    model = TextToSemantic(
        dim=16,
        source_depth=1,
        target_depth=1,
        heads=2,
        dim_head=8,
        num_text_token_ids=text.vocab_size,
        tokenizer_encode=text,
        wav2vec=MelKmeans.fit(clips, sample_hz=8000, num_clusters=32, progress=False),
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


def ids_of(output: str) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in output.splitlines()]


def test_generate_prints_and_writes_ids(model_folder, capsys, tmp_path):
    arguments = ["generate", str(model_folder), "four", "--temperature", "1", "--samples", "3", "--max-length", "12"]
    assert cli.main([*arguments, "--output", str(tmp_path / "ids.json")]) == 0
    first = capsys.readouterr().out
    rows = ids_of(first)
    assert len(rows) == 3 and all(len(row) <= 12 and all(0 <= i < 32 for i in row) for row in rows)
    written = json.loads((tmp_path / "ids.json").read_text())
    assert written["semantic_ids"] == rows and written["text"] == "four" and written["codebook_size"] == 32

    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == first, "the same seed should say the same"
    assert cli.main([*arguments, "--seed", "1"]) == 0
    assert capsys.readouterr().out != first, "36 draws among 4 ids: equal by chance once in 4^36"


def test_generate_greedily_is_one_answer(model_folder, capsys):
    arguments = ["generate", str(model_folder), "one", "--temperature", "0", "--max-length", "8", "--samples", "2"]
    assert cli.main(arguments) == 0
    rows = ids_of(capsys.readouterr().out)
    assert len(rows) == 2 and rows[0] == rows[1]


def test_generate_writes_sound(model_folder, capsys, tmp_path):
    from spear_tts_pytorch.data.audio import load_audio

    arguments = ["generate", str(model_folder), "one", "--temperature", "1", "--max-length", "40", "--samples", "2"]
    assert cli.main([*arguments, "--wav", str(tmp_path / "said.wav")]) == 0
    rows = ids_of(capsys.readouterr().out)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [f"said-{number}.wav" for number, row in enumerate(rows, 1) if row]
    for name in written:
        wav, sample_hz = load_audio(tmp_path / name)
        assert sample_hz > 0 and len(wav) > 0 and abs(wav).max() > 0


def test_unknown_characters_are_one_line(model_folder, capsys):
    assert cli.main(["generate", str(model_folder), "größe"]) == 2
    one_line_error(capsys, "ö")


def test_label_reads_audio_and_tokenized_folders_and_says_what_was_left_out(model_folder, capsys, tmp_path):
    import numpy as np
    import soundfile

    from spear_tts_pytorch import GeneratedAudioTextDataset

    audio, random = tmp_path / "audio", np.random.default_rng(1)
    audio.mkdir()
    for name in "abc":
        soundfile.write(audio / f"{name}.wav", 0.1 * random.standard_normal(6000), 8000)
    options = ["--max-length", "5", "--batch-size", "2", "--no-progress"]
    made = tmp_path / "pairs"
    arguments = ["label", str(model_folder), str(audio), str(made), *options]
    assert cli.main([*arguments, "--report", str(tmp_path / "report")]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": 3, "skipped": 0, "empty": 0, "failed": 0}
    found = GeneratedAudioTextDataset(made)
    assert found.ids == ["a", "b", "c"] and len(found[0][0])
    assert json.loads((tmp_path / "report" / "report.json").read_text())["pairs"] == 3

    (audio / "d.wav").write_bytes((audio / "a.wav").read_bytes()[:1000])
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"written": 0, "skipped": 3, "empty": 0, "failed": 1}
    assert captured.err.count("\n") == 1 and "left out: d: " in captured.err

    ids = tmp_path / "ids"
    assert cli.main(["tokenize", str(audio), str(ids), "--tokenizer", str(model_folder / "semantic_tokenizer")]) == 0
    capsys.readouterr()
    assert cli.main(["label", str(model_folder), str(ids), str(tmp_path / "again"), *options]) == 0
    again = GeneratedAudioTextDataset(tmp_path / "again")
    assert all(
        a.tolist() == b.tolist()
        for one, other in zip(found, again, strict=True)
        for a, b in zip(one, other, strict=True)
    )
