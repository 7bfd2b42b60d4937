"""A voice from a small folder: all stages run, what is done is kept, what changed is made again, and says so."""

import json
import os
import shutil
import subprocess
import sys

import killed
import many
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import voices
from babble import HZ, make_clips

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.recipe import Voice, judge, sources
from spear_tts_pytorch.recipe.report import METRICS
from spear_tts_pytorch.recipe.results import STAGES, Results
from spear_tts_pytorch.recipe.work import WORK
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import locked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("voice")
    corpus = voices.corpus(place / "corpus")
    voice = Voice.new(place / "voice", corpus, test=3, changes=voices.TINY, progress=False).run()
    return place, voice


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the voice and its corpus, to change."""
    for name in ("corpus", "voice"):
        shutil.copytree(made[0] / name, tmp_path / name)
    return tmp_path


def lines(capsys) -> dict[str, str]:
    """The last line of each stage that was printed."""
    printed = [line.partition(": ") for line in capsys.readouterr().out.splitlines()]
    return {stage: words for stage, _, words in printed if stage in STAGES}


def kept(capsys) -> list[str]:
    return [stage for stage, words in lines(capsys).items() if words.startswith("kept")]


def test_all_stages_are_done_and_have_figures(made):
    place, voice = made
    assert all(not why for why in voice.status().values())
    for stage in STAGES:
        record = voice.results.record(stage)
        assert record.done and record.says and record.output and record.figures
    assert voice.results.record("units").figures["clips"] == 24
    assert voice.results.record("label").figures["clips"] == 10
    assert repr(voice).count("\n") == 0 and "done: units, pretrain" in repr(voice)


def validations(folder):
    """The validations of all trainings."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [line for line in lines if "valid_loss" in line]


def test_each_training_validates_several_times_and_at_its_end(made):
    steps = {}
    for one in validations(made[0] / "voice"):
        steps.setdefault(one["stage"], []).append(one["step"])
    assert steps == {
        "pretraining": [1, 2, 3, 4, 5],
        "backtranslator": [1, 2, 3, 4, 5, 6],
        "backtranslator, round 1": [1, 2, 3, 4, 5, 6],
        "text to speech": [1, 2, 3, 4, 5],
        "text to speech, real pairs": [1, 2],
        "judge": [1, 2, 3, 4, 5, 6, 7, 8],
    }


def test_it_says_text(made):
    said = made[1].say(["one two", "three"], seed=3)
    again = made[1].say(["one two", "three"], seed=3)
    assert [one.text for one in said] == ["one two", "three"] and all(one.read_back is not None for one in said)
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(said, again, strict=True))
    alone = made[1].say("one two")
    assert alone.ids.max() < 24 and (len(alone.ids) == 0 or len(alone.wav) > 100)
    with pytest.raises(ValueError, match="é.*LATIN SMALL LETTER E WITH ACUTE, try 'e'"):
        made[1].say("threé")


def test_a_second_run_keeps_everything(copied, capsys):
    weights = (copied / "voice" / "model" / "model.safetensors").read_bytes()
    Voice(copied / "voice").run()
    assert kept(capsys) == list(STAGES)
    assert (copied / "voice" / "model" / "model.safetensors").read_bytes() == weights


def test_changed_settings_run_what_depends_on_them(copied, capsys):
    Voice.open(copied / "voice", {"train.steps": "6"}).run()
    printed = capsys.readouterr().out
    assert "train: train.steps was 5 and is 6\n" in printed
    assert [line.partition(":")[0] for line in printed.splitlines() if ": kept" in line] == [*STAGES[:4], "judge"]
    train, evaluate = [line for line in printed.splitlines() if line.startswith("stage ")]
    assert train.startswith("stage 5 of 6: train, about ") and train.endswith(" left of the run")
    assert evaluate.startswith("stage 6 of 6: evaluate, about ") and "left" not in evaluate


def test_the_same_run_gives_the_same_weights(copied):
    before = (copied / "voice" / "model" / "model.safetensors").read_bytes()
    Voice(copied / "voice", progress=False).run(again=True)
    assert (copied / "voice" / "model" / "model.safetensors").read_bytes() == before


def test_added_audio_is_taken_up(copied, capsys):
    save_audio(copied / "corpus" / "wavs" / "new.wav", make_clips()[30], HZ)
    Voice(copied / "voice").run()
    printed = capsys.readouterr().out
    assert "units: kept" in printed and "1 clips added" in printed
    assert "pretrain: kept" in printed and "5% of clips were added since" in printed
    assert "label: 11 clips" in printed and "backtranslate: kept" in printed
    figures = {stage: Voice(copied / "voice").results.record(stage).figures for stage in ("units", "label")}
    assert (figures["units"]["clips"], figures["label"]["clips"]) == (25, 11)
    Voice(copied / "voice").run()
    printed = capsys.readouterr().out
    assert "units: kept (25 clips," in printed and "added" not in printed.splitlines()[0]
    assert printed.count("\n") == len(STAGES)  # a line a stage, without examples of labels


def test_changed_audio_is_heard_again(copied, capsys):
    save_audio(copied / "corpus" / "wavs" / "clip20.wav", make_clips()[31], HZ)
    Voice(copied / "voice").run()
    printed = capsys.readouterr().out
    assert "pretrain: 1 clips that it heard are gone or changed" in printed


def test_a_new_text_trains_the_reader_again(copied, capsys):
    table = copied / "corpus" / "metadata.csv"
    table.write_text(table.read_text() + "clip20|five six\n")
    Voice(copied / "voice").run()
    printed = capsys.readouterr().out
    assert "pretrain: kept" in printed and "backtranslate: labelled clips changed" in printed
    assert "label: 9 clips" in printed


def test_a_text_with_a_new_letter_is_learned(copied, capsys):
    table = copied / "corpus" / "metadata.csv"
    table.write_text(table.read_text() + "clip20|six, jazz\n")
    Voice(copied / "voice").run()
    printed = capsys.readouterr().out
    assert "pretrain: kept" in printed and "backtranslate: alphabet changed" in printed
    assert Voice(copied / "voice").say("jazz").text == "jazz"


def test_stages_one_by_one(made, tmp_path):
    voice = Voice.new(tmp_path / "voice", made[0] / "corpus", test=3, changes=voices.TINY, progress=False)
    with pytest.raises(ValueError, match=r"units comes before pretrain .it was not run.*: run `spear-tts units"):
        voice.pretrain()
    for stage in STAGES:
        getattr(voice, stage)()
    same = "model/model.safetensors"
    assert (tmp_path / "voice" / same).read_bytes() == (made[0] / "voice" / same).read_bytes()


def test_a_stage_is_not_made_from_outdated_ones(copied):
    save_audio(copied / "corpus" / "wavs" / "clip20.wav", make_clips()[31], HZ)
    before = (copied / "voice" / "model" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="pretrain comes before train .1 clips that it heard are gone or changed"):
        Voice(copied / "voice", progress=False).train(again=True)
    assert (copied / "voice" / "model" / "model.safetensors").read_bytes() == before


def test_a_voice_speaks_where_its_recordings_are_not(copied):
    said = Voice(copied / "voice").say("one two")
    shutil.rmtree(copied / "corpus")
    again = Voice(copied / "voice").say("one two")
    assert torch.equal(said.ids, again.ids) and said.read_back == again.read_back
    with pytest.raises(FileNotFoundError, match="no corpus folder .*corpus: give the path"):
        Voice(copied / "voice", progress=False).run()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for each run")
def test_a_run_that_is_killed_in_every_stage_ends_as_one_that_is_not(made, tmp_path):
    shutil.copytree(made[0] / "corpus", tmp_path / "corpus")
    Voice.new(tmp_path / "voice", tmp_path / "corpus", test=3, changes=voices.TINY, progress=False)
    command = [sys.executable, killed.__file__, str(tmp_path / "voice")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == list(STAGES)
    for stage in STAGES:
        first, second = (
            Results(folder, made[1].settings).record(stage) for folder in (made[0] / "voice", tmp_path / "voice")
        )
        assert (first.output, first.figures) == (second.output, second.figures), stage
    assert validations(tmp_path / "voice") == validations(made[0] / "voice")
    left = [path for path in (tmp_path / "voice").rglob("*") if path.name.endswith((".tmp", ".old"))]
    assert left == []


def test_one_run_at_a_time(copied):
    with locked(copied / "voice"), pytest.raises(OSError, match="another process"):
        Voice(copied / "voice", progress=False).run()


def test_all_text_and_no_other_audio(tmp_path, capsys):
    corpus = voices.corpus(tmp_path / "corpus", clips=12, texts=12)
    voice = Voice.new(tmp_path / "voice", corpus, test=2, changes=voices.TINY)
    assert "only columns (a) and (b) of the paper apply" in capsys.readouterr().out
    voice.run()
    assert "label: no clip without a text" in capsys.readouterr().out and voice.say("one").text == "one"


def test_nothing_is_left_of_a_voice_that_cannot_be(tmp_path):
    corpus = voices.corpus(tmp_path / "corpus", clips=8, texts=4)
    with pytest.raises(ValueError, match="only 4 labelled clips"):
        Voice.new(tmp_path / "voice", corpus, progress=False)
    assert not (tmp_path / "voice").exists()
    with pytest.raises(FileNotFoundError, match="spear-tts new"):
        Voice(tmp_path / "voice")


def made_together(folder):
    """Makes three stages anew, and says what came out, and which recordings and judges this process has worked on."""
    works = []
    for module, name in ((sources, "silent_cuts"), (judge, "_train")):
        work = getattr(module, name)
        setattr(module, name, lambda *given, name=name, work=work: (works.append(name), work(*given))[1])
    voice = Voice(folder, progress=False)
    in_first_process(lambda: shutil.rmtree(folder / judge.FOLDER))
    made = [voice.units(again=True), voice.label(again=True), voice.evaluate(again=True)]
    voice = Voice.open(folder, {"data.longest": 1.0}, progress=False)
    in_first_process((folder / sources.CUTS).unlink)
    voice.units()
    return [(one.output, one.figures) for one in made], works, list(voice.results.clips.every)


def test_two_processes_make_a_voice_together(copied):
    alone = Voice(copied / "voice").results
    labels = dict(zip(alone.pairs.ids, alone.pairs.column("text"), strict=True))
    expected = [(alone.output(stage), alone.record(stage).figures) for stage in ("units", "label", "evaluate")]
    first, second = many.results(2, made_together, copied / "voice")
    assert first[0] == second[0] == expected
    assert first[1] == ["_train", *["silent_cuts"] * 20] and second[1] == []
    assert first[2] == second[2] and len(first[2]) > 24
    pairs = Voice(copied / "voice").results.pairs
    assert dict(zip(pairs.ids, pairs.column("text"), strict=True)) == labels


def test_a_link_that_leads_nowhere_is_left_out(tmp_path):
    corpus = voices.corpus(tmp_path / "corpus")
    voice = Voice.new(tmp_path / "voice", corpus, test=3, changes=voices.TINY, progress=False)
    (tmp_path / "corpus" / "wavs" / "gone.wav").symlink_to("nowhere.wav")
    assert Voice(voice.folder, progress=False).units().figures["clips"] == 24


def test_a_voice_among_its_recordings_is_refused(tmp_path):
    corpus = voices.corpus(tmp_path / "corpus")
    for folder in (corpus, corpus / "voice"):
        with pytest.raises(ValueError, match="lies in the recordings"):
            Voice.new(folder, corpus, progress=False)


def test_what_cannot_be_read_is_not_written_into_the_settings(tmp_path):
    corpus = voices.corpus(tmp_path / "corpus", clips=8, texts=8)
    voice = Voice.new(tmp_path / "voice", corpus, test=0, progress=False)
    before = (voice.folder / "voice.toml").read_text()
    for changes in ({"data.audio": "nowhere"}, {"data.labelled": "nope.txt"}, {"train.steps": "abc"}):
        with pytest.raises((ValueError, FileNotFoundError)):
            Voice.open(voice.folder, changes)
        assert (voice.folder / "voice.toml").read_text() == before
    assert Voice.open(voice.folder, {"train.steps": np.int64(7)}).settings.train.steps == 7


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"corpus": 5}, "corpus"),
        ({"text": 3}, "text"),
        ({"labelled": "x"}, "labelled"),
        ({"labelled": -1}, "labelled"),
        ({"test": float("nan")}, "test"),
    ],
)
def test_arguments_of_a_new_voice_are_named(tmp_path, options, name):
    corpus = voices.corpus(tmp_path / "corpus", clips=2, texts=2)
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        Voice.new(tmp_path / "voice", **{"corpus": corpus, "progress": False, **options})
    assert not (tmp_path / "voice").exists()


def test_the_fingerprint_of_labels_does_not_depend_on_which_process_wrote_them(copied):
    voice = Voice(copied / "voice", progress=False)
    (shard,) = (copied / "voice" / "pairs").glob("pairs-*.parquet")
    rows = pq.read_table(shard)
    found = WORK["label"](voice.results)
    for rank, part in enumerate((rows.slice(4), rows.slice(0, 4))):
        pq.write_table(part, shard.with_name(f"pairs-{rank:05d}-000000.parquet"))
    again = WORK["label"](Voice(copied / "voice", progress=False).results)
    assert again == found and again.output == voice.results.output("label")
    assert len(list(shard.parent.glob("pairs-*.parquet"))) == 2
