"""The judge of a voice: trained once, kept, resumed, shared; never by clips that it is to judge."""

import shutil

import pytest
import torch
import voices

from spear_tts_pytorch.recipe import Voice
from spear_tts_pytorch.recipe.columns import known_ids
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.judge import CONFIG, FOLDER, WEIGHTS, check_shared, divided, judge_of
from spear_tts_pytorch.recipe.stages import Rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A voice with units and a judge."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("judge")
    corpus = voices.corpus(place / "corpus")
    voice = Voice.new(place / "voice", corpus, test=3, changes=voices.TINY, progress=False)
    voice.units()
    return voice, judge_of(voice.results)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the voice's folder and its corpus, to change."""
    shutil.copytree(made[0].folder.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "voice"


def written(folder) -> int:
    return (folder / FOLDER / CONFIG).stat().st_mtime_ns


def judged(folder, **changes):
    """The judge after changed settings, and when it was written."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    judge = judge_of(Voice.open(folder, named, progress=False).results)
    return judge, written(folder)


def test_it_is_trained_again_only_if_what_it_is_made_of_changes(copied):
    before = written(copied)
    same = {"train__steps": 9, "evaluate__columns": "ad", "evaluate__candidates": 3, "evaluate__split": "test"}
    assert judged(copied, **same, training__batch_tokens=900, model__dim=64)[1] == before
    table = copied.parent / "corpus" / "metadata.csv"
    for change in ({"evaluate__judge_steps": 9}, {"evaluate__judge_width": 16}, {"training__seed": 1}, {}):
        if not change:
            table.write_text(table.read_text() + "clip20|five six\n")
        _, now = judged(copied, **change)
        assert now > before, change
        before = now


def test_it_has_a_record_of_its_training(made):
    voice, judge = made
    assert judge.figures["clips"] + judge.figures["valid_clips"] == len(known_ids(voice.results)) == 11
    assert judge.figures["valid_clips"] == 2 and judge.figures["steps"] == 8 and not judge.figures["converged"]
    assert [one["step"] for one in judge.curve] == list(range(1, 9))
    assert len(judge.heard) == 11
    assert repr(judge).startswith("Judge(9 clips, ") and repr(judge).endswith("it ran out of steps)")


class Ended(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5])
def test_a_judge_that_was_cut_off_ends_as_one_that_was_not(made, copied, monkeypatch, at):
    shutil.rmtree(copied / FOLDER)
    calls, loss = [], SemanticASR.loss

    def failing(self, semantic, text):
        calls.append(self.training)
        if sum(calls) > at:
            raise Ended
        return loss(self, semantic, text)

    with monkeypatch.context() as patch:
        patch.setattr(SemanticASR, "loss", failing)
        with pytest.raises(Ended):
            judged(copied)
    assert not (copied / FOLDER / CONFIG).exists()
    found, _ = judged(copied)
    assert found.fingerprint == made[1].fingerprint and found.curve == made[1].curve
    names = {path.name for path in (copied / FOLDER).iterdir()}
    assert names - {".lock"} == {CONFIG, WEIGHTS}


def test_what_another_training_left_is_removed(made, copied, monkeypatch):
    (copied / FOLDER / "0123456789abcdef-training.safetensors").write_bytes(b"old")
    judge, _ = judged(copied, evaluate__judge_steps=9)
    assert judge.figures["steps"] == 9
    assert not list((copied / FOLDER).glob("*-training.safetensors"))


def test_a_damaged_judge_is_refused_by_name(copied):
    path = copied / FOLDER / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"the judge in .*judge is damaged .*remove the folder"):
        judged(copied)


def other(copied, **changes):
    """Another voice of the same corpus, which takes units and judge of the first."""
    named = {**voices.TINY, "units.init": "../voice", "evaluate.judge": "../voice", **changes}
    (copied.parent / "test.txt").write_text("\n".join(Voice(copied).results.clips.test))
    given = {"test": copied.parent / "test.txt", "labelled": 5, "changes": named, "progress": False}
    voice = Voice.new(copied.parent / "other", copied.parent / "corpus", **given)
    voice.units()
    return voice


def test_a_judge_is_shared_by_voices_of_the_same_units(made, copied):
    voice = other(copied)
    judge = judge_of(voice.results)
    assert judge.fingerprint == made[1].fingerprint and not (voice.folder / FOLDER).exists()
    rows = voice.results.test.semantic
    assert [one.tolist() for one in judge.network.transcribe(rows)] == [
        one.tolist() for one in made[1].network.transcribe(rows)
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units.init": "", "units.clusters": 20}, "evaluate.judge: the judge of ../voice has other units"),
        ({"evaluate.judge": "../nowhere"}, "evaluate.judge: ../nowhere holds no judge: run `spear-tts evaluate"),
    ],
)
def test_a_judge_that_does_not_fit_is_refused(copied, change, words):
    voice = other(copied, **change)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        judge_of(voice.results)
    if "nowhere" in words:
        with pytest.raises(FileNotFoundError, match="holds no judge"):
            check_shared(voice.results)
        assert "nowhere" in voice.settings.evaluate.judge and repr(voice)


def test_a_judge_of_another_alphabet_is_refused(copied):
    voice = other(copied)
    (voice.folder.parent / "corpus" / "wavs" / "clip23.wav").rename(voice.folder.parent / "corpus" / "wavs" / "q.wav")
    table = voice.folder.parent / "corpus" / "metadata.csv"
    table.write_text(table.read_text() + "q|quiz\n")
    voice = Voice(voice.folder, progress=False)
    voice.units()
    with pytest.raises(ValueError, match="has another alphabet .they differ in 'qz'"):
        judge_of(voice.results)


def test_a_judge_that_has_learned_the_test_is_refused(copied):
    voice = other(copied)
    known, labelled = known_ids(Voice(copied).results), voice.results.clips.labelled
    learned = next(id_ for id_ in known if id_ not in labelled)
    (voice.folder / "test.txt").write_text(learned)
    voice = Voice.open(voice.folder, {"data.test": "test.txt"}, progress=False)
    with pytest.raises(ValueError, match=f"has learned 1 of the clips of evaluate.split = 'test' .{learned}."):
        judge_of(voice.results)


def test_pairs_to_validate_on_are_drawn_by_seed_and_never_learned_from():
    ids = [f"clip{number}" for number in range(400)]
    rows = [torch.tensor([number]) for number in range(400)]
    nothing = torch.empty(0, dtype=torch.long)
    every = Rows(ids, rows, [nothing if number % 4 == 0 else row + 1 for number, row in enumerate(rows)], ids)
    learned, held_out = divided(every, seed=0)
    assert len(held_out) == 40 and len(learned) == 260
    numbers = [int(speech) for speech, _ in (*learned, *held_out)]
    assert len(set(numbers)) == 300 and all(number % 4 for number in numbers)
    assert all(int(text) == int(speech) + 1 for speech, text in held_out)
    assert int(sum(speech for speech, _ in divided(every, seed=1)[1])) != int(sum(speech for speech, _ in held_out))
