"""The whole recipe and the demo's folder, at sizes that learn next to nothing in seconds."""

import json
import os
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest

from spear_tts_pytorch.cli import main, parser
from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.data.corpora import without_bad_audio
from spear_tts_pytorch.data.corpora.synthetic import espeak_corpus
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe import COLUMNS, Stages, demo, run_recipe
from spear_tts_pytorch.recipe.config import RecipeConfig
from spear_tts_pytorch.recipe.demo import run_demo

TINY = replace(
    RecipeConfig(),
    unlabelled=40,
    test_utterances=3,
    dim=32,
    heads=2,
    depth=1,
    num_clusters=32,
    pretrain_steps=6,
    backtranslator_steps=12,
    scratch_steps=6,
    forward_steps=6,
    finetune_steps=2,
    evaluator_steps=12,
    pseudo_labels=20,
    candidates=2,
)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """On real digits where there are any, else on embedded speech."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    corpora = os.environ.get("SPEAR_TTS_CORPORA")
    corpus = f"fsdd:{corpora}/fsdd" if corpora else None
    summary = run_demo(corpus=corpus, labelled=15, output=folder, columns="abcd", config=TINY, progress=False)
    return folder, summary


@pytest.mark.slow
def test_demo_writes_everything_it_names(demo_folder):
    folder, summary = demo_folder
    assert json.loads((folder / "results.json").read_text()) == summary
    names = ["report.md", "metrics.jsonl", "losses.png", "error_rates.png", "alignment.png", "pairs/dataset.json"]
    assert [name for name in names if not (folder / name).is_file()] == []
    assert set(summary["columns"]) == set(COLUMNS) and summary["labelled"] == 15
    assert all(column["cer_best"] is not None for column in summary["columns"].values())  # like with like
    stages = {json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert {"pretraining", "backtranslator", "(a)", "(d)", "(d) finetune", "evaluator"} <= stages
    for example in summary["sound"]["examples"]:
        wav, sample_hz = load_audio(folder / example["file"])
        assert sample_hz in (8000, 16000) and len(wav) > 400
    assert "15 labelled" in summary["summary"] and summary["summary"].startswith("(a)")


@pytest.mark.slow
def test_demo_model_speaks_from_the_shell(demo_folder, capsys, tmp_path):
    folder, summary = demo_folder
    wav = tmp_path / "said.wav"
    assert main(["generate", str(folder / "model"), "three one four", "--max-length", "30", "--wav", str(wav)]) == 0
    ids = [int(word) for word in capsys.readouterr().out.split()]
    assert len(ids) and 0 <= min(ids) <= max(ids) < TINY.num_clusters
    model = TextToSemantic.from_pretrained(folder / "model")
    assert model.wav2vec.unique_consecutive and model.num_semantic_token_ids == TINY.num_clusters
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
    assert {command[0] for command in commands} == {"demo", "generate", "tokenize", "label", "pairs", "version"}
    for command in commands:
        if command[0] == "generate":  # this corpus has digits only
            command[2] = "three one four"
        if command[0] == "label":  # an untrained model does not stop by itself
            command += ["--max-length", "20"]
        code = main(command)
        assert code == 0, (command, capfd.readouterr().err)
    there = {path.name for path in tmp_path.iterdir()}
    assert there >= {"said.wav", "demo-ids", "demo-pairs", "demo-report", "split-pairs", "merged-pairs", "unique-pairs"}


@pytest.mark.slow
def test_results_print_in_three_lines_or_less(recipe_result):
    corpus = espeak_corpus(labelled=2, unlabelled=4, test=1, progress=False)
    column = recipe_result.columns["d"]
    for shown in (recipe_result, column, recipe_result.test, recipe_result.evaluator, recipe_result.backtranslator):
        assert repr(shown).startswith(f"{type(shown).__name__}(") and repr(shown).count("\n") < 3
        assert max(map(len, repr(shown).splitlines())) < 160
    assert f"{column.cer:.1f} %" in repr(column) and f"(d) {column.headline:.1f} %" in repr(recipe_result)
    stages = Stages(corpus, TINY)
    assert "2 labelled" in repr(stages) and "nothing" in repr(stages)


@pytest.mark.slow
def test_existing_folders_are_kept(demo_folder, tmp_path, monkeypatch):
    folder, _ = demo_folder
    monkeypatch.setattr(demo, "open_corpus", lambda *_, **__: pytest.fail("refused only after work"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(FileExistsError, match="--overwrite"):
        run_demo(output=folder, config=TINY, progress=False)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a folder of an earlier demo"):
        run_demo(output=mine, overwrite=True, config=TINY, progress=False)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        run_demo(corpus=str(tmp_path / "nowhere"), output=folder, overwrite=True, config=TINY, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def run_on_embedded_speech():
    corpus = espeak_corpus(labelled=8, unlabelled=20, test=3, seed=3, progress=False)
    return run_recipe(corpus, TINY, columns="d", seed=3, progress=False)


@pytest.fixture(scope="module")
def recipe_result():
    return run_on_embedded_speech()


@pytest.mark.slow
def test_recipe_on_embedded_speech_is_reproducible(recipe_result):
    results = [recipe_result, run_on_embedded_speech()]
    first, second = ([result.columns["d"], result.floor, result.label_cer] for result in results)
    assert first == second
    weights = [result.model.state_dict() for result in results]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_recipe_refuses_unknown_columns():
    with pytest.raises(ValueError, match="letters of abcd"):
        run_recipe(espeak_corpus(labelled=2, unlabelled=4, test=1, progress=False), TINY, columns="ax")


def test_bad_clips_are_named_and_left_out():
    corpus = espeak_corpus(labelled=3, unlabelled=4, test=1, progress=False)
    silent = replace(corpus.unlabelled[1], load=lambda: np.zeros(8000, dtype=np.float32))
    corpus.unlabelled[1] = silent
    with pytest.warns(UserWarning, match=f"1 clips cannot be used .*{silent.id} is silent"):
        assert len(without_bad_audio(corpus).unlabelled) == 3
    corpus.test[0] = silent
    with pytest.raises(ValueError, match="no clip is left"):
        without_bad_audio(corpus)
