"""The settings of a new voice follow from its data: defaults for little, never less for more, bounded on CPUs."""

from dataclasses import replace
from itertools import pairwise

import pytest
from voices import found

from spear_tts_pytorch.recipe.presets import preset
from spear_tts_pytorch.recipe.settings import Settings

HOURS = (0.02, 0.4, 1.0, 1.5, 3.0, 4.0, 8.0, 20.0, 60.0, 100.0, 1000.0)
MINUTES = (0.3, 2.0, 5.0, 15.0, 20.0, 60.0, 200.0, 1500.0)


def updates(settings: Settings) -> list[int]:
    return [
        settings.pretrain.steps,
        settings.backtranslate.steps,
        settings.train.steps,
        settings.evaluate.scratch_steps,
        settings.evaluate.judge_steps,
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("hours", "minutes"), [(0.38, 2), (0.5, 3), (1.03, 1.8), (0.001, 0.1), (0, 0)])
def test_little_data_has_the_defaults(device, hours, minutes):
    assert preset(found(hours, minutes), device=device) == Settings()


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_more_data_never_has_fewer_updates_or_a_smaller_model(device):
    made = {(hours, minutes): preset(found(hours, minutes), device=device) for hours in HOURS for minutes in MINUTES}
    rows = [[(hours, minutes) for hours in HOURS] for minutes in MINUTES]
    rows += [[(hours, minutes) for minutes in MINUTES] for hours in HOURS]
    for row in rows:
        for less, more in pairwise(made[place] for place in row):
            assert all(a <= b for a, b in zip(updates(less), updates(more), strict=True))
            assert less.model.dim <= more.model.dim and less.training.batch_tokens <= more.training.batch_tokens
    few, many = updates(made[0.4, 2]), updates(made[20, 200])
    assert all(3 * a < b for a, b in zip(few, many, strict=True))


def test_on_a_cpu_models_are_small_and_updates_bounded():
    large, small = preset(found(1000, 10_000), device="cpu"), preset(found(4, 60), device="cpu")
    assert large.model.dim == Settings().model.dim and large.training == Settings().training
    assert updates(large) == updates(small)
    assert sum(updates(small)) < 15_000


def test_on_a_gpu_many_hours_have_a_wide_model():
    settings = preset(found(30, 60), device="cuda")
    assert (settings.model.dim, settings.model.depth, settings.training.precision) == (512, 6, "bf16")
    assert settings.pretrain.lr < Settings().pretrain.lr and settings.training.batch_tokens > 10_000


@pytest.mark.parametrize(("device", "most"), [("cpu", 2.0), ("cuda", 20.0)])
def test_a_network_from_ids_to_sound_is_learned_where_it_is_wanted(device, most):
    assert preset(found(4, 15), device=device).resynthesis.steps == 0
    made = [preset(found(hours, 15), device=device, sound=True).resynthesis for hours in HOURS]
    assert all(one.hours == most for one in made) and made[0].steps > 0
    assert all(less.steps <= more.steps for less, more in pairwise(made))
    assert 0 < preset(found(4, 15), quick=True, sound=True).resynthesis.steps < made[0].steps


def test_a_width_that_is_given_sets_the_learning_rates():
    small, usual = Settings(), preset(found(30, 60), device="cuda")
    assert preset(found(30, 60), device="cuda", width=small.model.dim).pretrain.lr == small.pretrain.lr
    for device in ("cpu", "cuda"):
        assert preset(found(0.4, 2), device=device, width=512).train.lr == pytest.approx(usual.train.lr)


def test_cpus_label_some_hours():
    assert preset(found(4, 60), device="cpu").label.most == 0 == preset(found(1000, 60), device="cuda").label.most
    large = replace(found(1000, 60), clips=900_000, unlabelled=899_000)
    assert preset(large, device="cpu").label.most * large.seconds / large.clips == pytest.approx(8 * 3600, rel=0.02)


def test_transcripts_of_recordings_count_as_text():
    assert preset(found(1, 2, transcribed=18), device="cpu") == preset(found(1, 20), device="cpu")
    assert preset(found(1, 2, transcribed=18), device="cpu").backtranslate.steps >= 1000


def test_dropout_rises_with_passes_over_little_text_and_falls_with_much():
    dropouts = [preset(found(2000, minutes), device="cuda").model.dropout for minutes in (2, 8, 20, 1500)]
    deleted = [preset(found(2000, minutes), device="cuda").backtranslate.token_dropout for minutes in (2, 8, 20, 1500)]
    assert 0.1 == dropouts[0] < dropouts[1] < dropouts[2] == 0.2 and dropouts[3] == 0.1
    assert 0.15 == deleted[0] < deleted[1] < deleted[2] == 0.25 and deleted[3] == 0.15


def test_the_judge_learns_from_known_texts_alone():
    few, many = (preset(found(4, 15, known=known), device="cpu") for known in (0.25, 3.9))
    assert few.evaluate.judge_steps == Settings().evaluate.judge_steps and many.evaluate.judge_steps > 3000
    assert few.evaluate.judge_width == Settings().evaluate.judge_width < many.evaluate.judge_width


def test_quick_is_one_preset_for_all_data():
    quick = {repr(preset(found(hours, 60), quick=True).section("pretrain")) for hours in HOURS}
    settings = preset(found(100, 600), quick=True, device="cuda")
    assert len(quick) == 1 and settings == preset(found(0.3, 2), quick=True, device="cpu")
    assert sum(updates(settings)) < sum(updates(Settings())) / 3
    assert settings.label.most and settings.units.fit_clips < Settings().units.fit_clips


def test_sizes_that_only_fit_together_replace_others_at_once():
    wide = preset(found(30, 60), device="cuda")
    assert wide.replaced({"model.dim": 40, "model.heads": 4}).model.dim == 40
    assert wide.replaced({"model.dim": 24, "model.heads": 3}).model.heads == 3
