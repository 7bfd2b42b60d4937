"""The demo's folder, at sizes that learn next to nothing in seconds."""

import json
import os
import shlex
import shutil

import pytest
import voices

from spear_tts_pytorch.cli import main, parser
from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe import Voice, demo
from spear_tts_pytorch.recipe.demo import run_demo
from spear_tts_pytorch.recipe.results import EVERY_STAGE, STAGES

CLUSTERS = voices.TINY["units.clusters"]


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """On real digits where there are any, else on embedded speech."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    corpora = os.environ.get("SPEAR_TTS_CORPORA")
    corpus = f"fsdd:{corpora}/fsdd" if corpora else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "QUICK_UNLABELLED", 40)
        patch.setattr(demo, "TEST", 3)
        summary = run_demo(
            corpus=corpus, labelled=15, output=folder, columns="abcd", quick=True, changes=voices.TINY, progress=False
        )
    return folder, summary


@pytest.mark.slow
def test_demo_writes_everything_it_names(demo_folder):
    folder, summary = demo_folder
    assert json.loads((folder / "results.json").read_text()) == summary
    names = ["report.md", "metrics.jsonl", "losses.png", "error_rates.png", "alignment.png", "pairs/dataset.json"]
    assert [name for name in names if not (folder / name).is_file()] == []
    assert set(summary["columns"]) == set("abcd") and summary["data"]["labelled"] == 15
    assert all(column["cer_best"] is not None for column in summary["columns"].values())  # like with like
    stages = {json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert {"pretraining", "backtranslator", "(a)", "text to speech", "text to speech, real pairs", "judge"} <= stages
    for example in summary["examples"]:
        if example["file"]:
            wav, sample_hz = load_audio(folder / example["file"])
            assert sample_hz in (8000, 16000) and len(wav) > 100
    assert "15 labelled" in summary["summary"] and summary["summary"].startswith("(a)")
    assert summary["warnings"][0].startswith("only 3 test texts") or len(summary["warnings"]) > 1


@pytest.mark.slow
def test_the_demo_is_a_voice_and_nothing_is_left_to_do(demo_folder):
    voice = Voice(demo_folder[0], progress=False)
    assert not any(voice.status().values()) and list(voice.status()) == list(STAGES)


@pytest.mark.slow
def test_a_voice_from_python_gives_what_the_demo_gives(demo_folder, tmp_path):
    corpus = demo_folder[0] / "corpus"
    lists = {f"data.{name}": str(corpus / f"{name}.txt") for name in ("labelled", "test")}
    changes = {**voices.TINY, **lists, "label.most": 2000, "evaluate.columns": "d"}
    voice = Voice.new(tmp_path / "voice", corpus, quick=True, changes=changes, progress=False).run()
    demo_voice = Voice(demo_folder[0], progress=False)
    for stage in STAGES[:-1]:
        assert voice.results.record(stage).output == demo_voice.results.record(stage).output, stage
    columns = [one.results.record("evaluate").figures["columns"]["d"] for one in (voice, demo_voice)]
    assert columns[0] == columns[1]


@pytest.mark.slow
def test_demo_model_speaks_from_the_shell(demo_folder, capsys, tmp_path):
    folder, _ = demo_folder
    wav = tmp_path / "said.wav"
    assert main(["generate", str(folder / "model"), "three one four", "--max-length", "30", "--wav", str(wav)]) == 0
    ids = [int(word) for word in capsys.readouterr().out.split()]
    assert len(ids) and 0 <= min(ids) <= max(ids) < CLUSTERS
    model = TextToSemantic.from_pretrained(folder / "model")
    assert model.wav2vec.unique_consecutive and model.num_semantic_token_ids == CLUSTERS
    assert main(["generate", str(folder / "model"), "three §"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "§" in error


def examples() -> list[list[str]]:
    """The example in the help of each command of the shell, in the order of the commands."""
    found = []
    queue = [parser()]
    while queue:
        one = queue.pop(0)
        found.append(shlex.split(one.epilog.splitlines()[-1])[1:])
        for action in one._actions:
            if isinstance(action.choices, dict):
                queue += action.choices.values()
    return found


@pytest.mark.slow
def test_the_examples_in_help_work_as_typed(demo_folder, tmp_path, monkeypatch, capfd):
    """In a folder that holds spear-tts-demo/, as each says of itself; the demo's own example runs in CI."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demo_folder[0], "spear-tts-demo")
    monkeypatch.setattr(demo, "run_demo", lambda **_: None)
    commands = examples()
    tools = {"new", "run", *EVERY_STAGE, "table", "say", "demo", "generate", "tokenize", "pairs", "version"}
    assert {command[0] for command in commands} == tools
    for command in commands:
        if command[0] in ("generate", "say"):  # this corpus has digits only
            command[2] = "three one four"
        code = main(command)
        assert code == 0, (command, capfd.readouterr().err)
    there = {path.name for path in tmp_path.iterdir()}
    assert there >= {"said.wav", "demo-ids", "my-voice", "split-pairs", "merged-pairs", "unique-pairs"}
    assert "test" in capfd.readouterr().out


@pytest.mark.slow
def test_existing_folders_are_kept(demo_folder, tmp_path, monkeypatch):
    folder, _ = demo_folder
    monkeypatch.setattr(demo, "open_corpus", lambda *_, **__: pytest.fail("refused only after work"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(FileExistsError, match="--overwrite"):
        run_demo(output=folder, progress=False)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a folder of an earlier demo"):
        run_demo(output=mine, overwrite=True, progress=False)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        run_demo(corpus=str(tmp_path / "nowhere"), output=folder, overwrite=True, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_wrong_columns_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="letters of abcd"):
        run_demo(output=tmp_path / "out", columns="ax", progress=False)
    assert not (tmp_path / "out").exists()
