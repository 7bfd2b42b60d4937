"""Module paths of release 0.5.0 lead to the modules where they are now, with a warning."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from spear_tts_pytorch._moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_former_paths_warn_and_give_the_module(old):
    sys.modules.pop(f"spear_tts_pytorch.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"spear_tts_pytorch.{old} has moved to"):
        module = importlib.import_module(f"spear_tts_pytorch.{old}")
    assert module is importlib.import_module(f"spear_tts_pytorch.{MOVED[old]}")


def test_the_warning_points_to_the_import(recwarn):
    sys.modules.pop("spear_tts_pytorch.scoring", None)
    from spear_tts_pytorch.scoring import Scores  # noqa: F401

    assert [one.filename for one in recwarn if issubclass(one.category, DeprecationWarning)] == [__file__]


def test_other_names_are_still_missing():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("spear_tts_pytorch.no_such_module")


def test_the_changelog_lists_them():
    changelog = Path(__file__).parent.parent.joinpath("CHANGELOG.md").read_text(encoding="utf-8")
    moved = changelog.split("### Moved\n")[1].split("\n### ")[0]
    assert dict(re.findall(r"^\| `(.+)` \| `(.+)` \|$", moved, re.MULTILINE)) == MOVED
