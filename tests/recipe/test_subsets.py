"""Labelled minutes that are drawn: nested, by seed, never the test's; and the settings of a voice that learns from them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.recipe.clips import Clips
from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.sources import CUTS
from spear_tts_pytorch.recipe.subsets import LIST, SETTINGS, checked_minutes, drawn, moved, prepare


def clip(number: int, text: str | None) -> Utterance:
    """A clip of 6 seconds that has no file."""
    return Utterance(f"clip{number:03d}", text, "", 16_000, lambda: np.zeros(96_000, dtype=np.float32), 96_000)


@pytest.fixture
def clips():
    """200 clips; 150 with a text, of which 10 are tested and two more say what a tested one says; 50 labelled."""
    every = [clip(number, f"text {number}" if number < 150 else None) for number in range(200)]
    every[20], every[21] = replace(every[20], text="text 0"), replace(every[21], text="TEXT 0")
    ids = [one.id for one in every]
    return Clips({one.id: one for one in every}, tuple(ids[50:100]), tuple(ids[:10]))


def test_the_minutes_of_a_seed_are_nested_and_end_with_the_clip_that_fills_them(clips):
    rows = [drawn(clips, minutes, 3) for minutes in (1, 2.55, 5, float("inf"))]
    assert [len(row.ids) for row in rows] == [10, 26, 50, 138]
    assert [row.seconds for row in rows] == [60, 156, 300, 828]
    for few, more in zip(rows, rows[1:], strict=False):
        assert more.ids[: len(few.ids)] == few.ids
    assert [row.name for row in rows] == ["1-3", "2.55-3", "5-3", "all-3"]


def test_no_text_of_the_test_is_drawn(clips):
    tested = {f"clip{number:03d}" for number in (*range(10), 20, 21)}
    found = drawn(clips, float("inf"), 0).ids
    assert set(found) == {f"clip{number:03d}" for number in range(150)} - tested and len(set(found)) == len(found)


def test_a_draw_depends_on_the_seed_and_on_no_other_clip(clips):
    first = drawn(clips, 5, 0).ids
    assert drawn(clips, 5, 0).ids == first and set(drawn(clips, 5, 1).ids) != set(first)
    fewer = replace(clips, every={id_: one for id_, one in clips.every.items() if id_ != first[-1]})
    assert drawn(fewer, 5, 0).ids[:-1] == first[:-1]


def test_minutes_that_cannot_be_name_the_remedy(clips):
    with pytest.raises(
        ValueError, match=r'labelled=14 minutes asked for.*not tested have 13\.8: lower it, or take "all"'
    ):
        drawn(clips, 14, 0)
    with pytest.raises(ValueError, match=r"labelled=0\.3 minutes are 3 clips, at least 5 are needed: raise it"):
        drawn(clips, 0.3, 0)
    for wrong in ([0], [-1], [float("nan")], []):
        with pytest.raises(ValueError, match="labelled"):
            checked_minutes(wrong)
    for wrong in (["some"], [None], True):
        with pytest.raises(TypeError, match='labelled must be a number above 0, or "all"'):
            checked_minutes(wrong)


def test_minutes_are_in_order_and_each_once():
    assert checked_minutes(["all", 15, 5.0, 15, "all"]) == [5, 15, float("inf")] and checked_minutes(3) == [3]


def test_paths_of_settings_are_those_of_the_other_folder(tmp_path):
    old, new = tmp_path / "voice", tmp_path / "voice" / "table" / "5-0"
    (old / "encoder").mkdir(parents=True)
    settings = Settings().replaced(
        {
            "data.audio": ["../corpus", "more"],
            "data.test": "test.txt",
            "units.encoder": "encoder",
            "train.init": "someone/model",
        }
    )
    there = moved(settings, old, new)
    assert there.data.audio == ("../../../corpus", "../../more") and there.data.test == "../../test.txt"
    assert (there.units.encoder, there.train.init, there.data.labelled) == ("../../encoder", "someone/model", "")


def test_the_folder_of_a_voice_has_its_list_its_settings_and_the_cuts(clips, tmp_path):
    """What the voice changed stays; what was proposed for its minutes is proposed anew for those of the other voice."""
    results = Results(
        tmp_path / "voice", Settings().replaced({"train.steps": 123, "model.dropout": 0.25}), progress=False
    )
    results.folder.mkdir()
    header = "id,file,start,end,text,key\n"
    (results.folder / CUTS).write_text(header + "a,../corpus/long.wav,0.000,2.000,,x\n")
    results.clips = clips
    few, many = (
        prepare(results, results.folder / "table" / name, ids, {"training.seed": 4})
        for name, ids in (("5-0", clips.labelled), ("all-0", drawn(clips, float("inf"), 0).ids))
    )
    folder = results.folder / "table" / "all-0"
    assert len(many.labelled) == 138 and many.test == few.test == clips.test
    assert (folder / LIST).read_text().split() == list(many.labelled)
    assert (folder / CUTS).read_text() == header + "a,../../../corpus/long.wav,0.000,2.000,,x\n"
    first, second = (Settings.load(results.folder / "table" / name / SETTINGS) for name in ("5-0", "all-0"))
    assert first.replaced({"data.labelled": ""}) == results.settings.replaced({"training.seed": 4})
    assert second.train.steps == 123 and second.model.dropout == 0.25 and second.data.labelled == LIST
    assert second.backtranslate.steps == first.backtranslate.steps  # it is not what is proposed for five minutes
    proposed = results.settings.replaced({"backtranslate.steps": _proposed(clips)})
    results.settings = proposed
    prepare(results, folder, many.labelled, {})
    assert Settings.load(folder / SETTINGS).backtranslate.steps > proposed.backtranslate.steps


def _proposed(clips: Clips) -> int:
    from spear_tts_pytorch.recipe.presets import preset
    from spear_tts_pytorch.recipe.survey import survey

    return preset(survey(clips)).backtranslate.steps


def test_a_voice_without_cuts_has_none(clips, tmp_path):
    results = Results(tmp_path, Settings(), progress=False)
    results.clips = clips
    prepare(results, tmp_path / "x", clips.labelled, {})
    assert sorted(path.name for path in Path(tmp_path / "x").iterdir()) == sorted([LIST, SETTINGS])
