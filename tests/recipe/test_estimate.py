"""How long a voice takes: arithmetic over costs, and the lines that a run prints."""

import dataclasses

import pytest
from voices import found

from spear_tts_pytorch.recipe.estimate import OVERHEAD, Costs, Estimate, Pace, estimated, in_words
from spear_tts_pytorch.recipe.presets import preset
from spear_tts_pytorch.recipe.results import EVERY_STAGE, STAGES
from spear_tts_pytorch.recipe.settings import Settings

COSTS = Costs(fit=2.0, tokenize=0.01, ids=30.0, pretrain=0.2, read=0.1, speak=0.3, judge=0.1, label=0.02, say=0.5)
DATA = found(1.0, 10.0)


def times(changes: dict[str, object], data=DATA) -> dict[str, float]:
    made = estimated(Settings().replaced(changes), data, COSTS, "2 cores")
    return {stage: seconds - OVERHEAD for stage, seconds in made.seconds.items()}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("pretrain", {"pretrain.steps": 900}),
        ("train", {"train.steps": 800, "train.finetune_steps": 100}),
    ],
)
def test_twice_the_updates_take_twice_the_time(stage, changes):
    before, after = times({}), times(changes)
    assert after[stage] == pytest.approx(2 * before[stage])
    assert all(after[other] == before[other] for other in before if other != stage)


def test_all_stages_are_named_and_take_time():
    made = estimated(Settings(), DATA, COSTS, "2 cores")
    assert tuple(made.seconds) == STAGES and all(seconds > OVERHEAD for seconds in made.seconds.values())
    assert made.total == pytest.approx(sum(made.seconds.values()))
    assert all(stage in str(made) for stage in STAGES) and "2 cores" in str(made)
    without = estimated(Settings(), dataclasses.replace(DATA, test=0), COSTS, "2 cores")
    assert tuple(without.seconds) == STAGES[:-1]


def test_a_network_from_ids_to_sound_is_a_stage_of_its_own():
    costs = dataclasses.replace(COSTS, resynthesis=0.3)
    settings = Settings().replaced({"resynthesis.steps": 1000})
    made = estimated(settings, DATA, costs, "2 cores")
    assert tuple(made.seconds) == EVERY_STAGE
    assert made.seconds["resynthesis"] == pytest.approx(300 + 3600 * 0.01 + OVERHEAD)
    assert Pace(made).line("evaluate").startswith("stage 7 of 7: evaluate")
    shorter = estimated(settings.replaced({"resynthesis.hours": 0.5}), DATA, costs, "")
    assert shorter.seconds["resynthesis"] == pytest.approx(300 + 1800 * 0.01 + OVERHEAD)


def test_each_part_of_the_work_counts():
    before = times({})
    assert times({"backtranslate.rounds": 2})["backtranslate"] > before["backtranslate"]
    assert times({"label.most": 4})["label"] == pytest.approx(before["label"] / 10)
    assert times({"evaluate.columns": "ad"})["evaluate"] > before["evaluate"]
    assert times({"evaluate.candidates": 1})["evaluate"] < before["evaluate"]
    assert times({"units.init": "x"})["units"] < before["units"]
    alone = times({"backtranslate.rounds": 0})
    assert times({"backtranslate.rounds": 0}, found(1.0, 10.0, transcribed=20)) != alone
    assert times({}, found(2.0, 10.0))["units"] > 1.5 * before["units"]


def test_less_text_than_a_batch_takes_less_than_a_batch():
    reading = [times({"backtranslate.rounds": 0}, found(1.0, minutes))["backtranslate"] for minutes in (0.3, 0.6, 10)]
    assert reading[1] == pytest.approx(2 * reading[0]) and reading[2] < 3 * reading[1]


def test_quick_is_shorter():
    full, quick = (estimated(preset(DATA, quick=one, device="cpu"), DATA, COSTS, "") for one in (False, True))
    assert quick.total < full.total / 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 seconds"),
        (42.4, "42 seconds"),
        (150, "2.5 minutes"),
        (3599, "60 minutes"),
        (6 * 3600, "6 hours"),
        (8.14, "8.1 seconds"),
        (0.31, "0.3 seconds"),
        (0.01, "0.1 seconds"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_run_says_what_is_left_and_learns_from_what_stages_took():
    made = Estimate(dict.fromkeys(STAGES, 240.0), "2 cores")
    pace = Pace(made)
    assert pace.line("pretrain", STAGES[2:]) == "stage 2 of 6: pretrain, about 4 minutes; 20 minutes left of the run"
    assert pace.line("label") == "stage 4 of 6: label, about 4 minutes"
    pace.took("pretrain", 480.0)
    assert pace.left(["train"]) == pytest.approx(240 * 490 / 250)
    pace.took("backtranslate", 0.0)
    assert pace.left(["train"]) == pytest.approx(240)


def test_a_voice_without_a_test_has_a_stage_less():
    pace = Pace(estimated(Settings(), dataclasses.replace(DATA, test=0), COSTS, "2 cores"))
    assert pace.line("train").startswith("stage 5 of 5: train, about ")


def test_seconds_of_a_short_stage_change_little():
    pace = Pace(Estimate({"label": 1.0, "train": 600.0}, "2 cores"))
    pace.took("label", 3.0)
    assert pace.left(["train"]) < 750
