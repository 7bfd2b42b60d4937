"""The recipe's settings: frozen, and smaller when quick."""

from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from spear_tts_pytorch.recipe import RecipeConfig


def test_quick_is_smaller_and_keeps_other_settings():
    config = replace(RecipeConfig(), lr=1e-4, candidates=7)
    quick, full = asdict(config.quick()), asdict(config)
    changed = {name for name in full if full[name] != quick[name]}
    assert changed - {"unlabelled"} == {name for name in full if full[name] and quick[name] < full[name]} - {
        "unlabelled"
    }
    assert {"dim", "depth", "pretrain_steps", "evaluator_steps"} <= changed and not {"lr", "candidates"} & changed


def test_settings_do_not_change_in_place():
    with pytest.raises(FrozenInstanceError):
        RecipeConfig().dim = 3


def test_every_setting_is_explained():
    assert [name for name in asdict(RecipeConfig()) if name not in RecipeConfig.__doc__] == []
