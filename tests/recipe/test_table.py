"""The paper's table: rows share what does not depend on labels, a killed table goes on, bad input is named before any work."""

import json
import os
import signal
import time

import pytest
import torch._dynamo  # slow to import, and forks that import it anew would be slow, too
import voices

from spear_tts_pytorch.recipe import Voice, make_table, sounds, table
from spear_tts_pytorch.recipe.records import RECORD, Record
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.table_report import markdown, measures, shown_spread, spread, write_table

ROWS = [0.15, "all"]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for each run")


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("table")
    corpus = voices.corpus(place / "corpus")
    changes = {**voices.TINY, "backtranslate.rounds": 0, "evaluate.judge_steps": 2, "evaluate.candidates": 1}
    return Voice.new(place / "voice", corpus, test=3, labelled=5, changes=changes, progress=False)


def made(voice, rows, killed_after: str | None = None, **options):
    """Makes the table in another process, and ends that once a column of this name is measured."""
    assert torch._dynamo is not None
    child = os.fork()
    if child == 0:
        code, sounds.EXAMPLES, table.write_report = 1, 1, print  # a report of each row takes longer than the row
        try:
            make_table(Voice(voice.folder, progress=False), rows, **options)
            code = 0
        finally:
            os._exit(code)
    limit = time.monotonic() + 120
    while killed_after and time.monotonic() < limit:
        record = Record.load(voice.folder / killed_after)
        if record is not None and record.done:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.005)
    code = os.waitpid(child, 0)[1]
    if killed_after:
        assert code == signal.SIGKILL
        return None
    assert code == 0
    return json.loads((voice.folder / "table" / "table.json").read_text())


def times(voice) -> dict[str, int]:
    """When each stage and column was written."""
    return {
        path.parent.relative_to(voice.folder).as_posix(): path.stat().st_mtime_ns for path in voice.folder.rglob(RECORD)
    }


@pytest.mark.slow
def test_a_table_shares_its_work_and_a_killed_one_goes_on(voice):
    made(voice, ROWS, killed_after="table/0.15-0/columns/a", columns="adA", seeds=1)
    before = times(voice)
    assert "table/0.15-0/columns/a" in before and "table/0.15-0/columns/d/measured" not in before
    first = made(voice, ROWS, columns="adA", seeds=1)
    after = times(voice)
    kept = ["units", "pretrain", *(f"table/0.15-0/{name}" for name in ("backtranslate", "pairs", "train", "columns/a"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    rows = [f"table/{name}" for name in ("0.15-0", "all-0")]
    assert not [name for name in after if name in {f"{row}/{stage}" for row in rows for stage in ("units", "pretrain")}]
    assert not [row for row in rows if (voice.folder / row / "ids").exists()]
    assert [path.relative_to(voice.folder).as_posix() for path in voice.folder.rglob("judge.json")] == [
        "judge/judge.json"
    ]
    assert (first["rows"], first["done"]) == (2, 2)
    assert [(cell["labelled"], cell["column"]) for cell in first["cells"]] == [
        *(("0.15", name) for name in "ad"),
        *(("all", name) for name in "adA"),
    ]
    page = (voice.folder / "table" / "table.md").read_text()
    assert all(words in page for words in ("(A) full supervision", "| 0.15 min |", "| all (0.2", "recording"))
    assert {path.name for path in (voice.folder / "table").iterdir()} >= {"table.png", "audio", "0.15-0", "all-0"}

    more = made(voice, ROWS[:1], columns="ad", seeds=2)  # the cells of the first seed are kept
    assert more["cells"][:2] == first["cells"][:2] and [one["seed"] for one in more["cells"]] == [0, 0, 1, 1]
    assert {name: times(voice)[name] for name in after} == after
    new = set(times(voice)) - set(after)
    assert "table/seed-1/pretrain" in new and "table/seed-1/units" not in new
    assert more["measures"][0]["rows"][0]["columns"]["a"]["seeds"] == 2

    Voice.open(voice.folder, {"train.finetune_steps": 3}, progress=False)
    made(voice, ROWS[:1], columns="ad", seeds=1)
    again = times(voice)
    changed = {name for name in after if again[name] != after[name] and name.startswith("table/0.15-0/")}
    assert {name.removeprefix("table/0.15-0/") for name in changed} == {"train", "columns/d/measured", "evaluate"}
    row = Voice(voice.folder / "table" / "0.15-0", progress=False)
    assert not any(row.status().values()) and len(row.results.clips.labelled) == 6
    assert row.say("one").text == "one"


@pytest.mark.slow
def test_a_shared_stage_that_is_outdated_is_made_where_it_is(voice, tmp_path):
    voice.units()
    settings = voice.settings.replaced(
        {"units.shared": str(voice.folder), "data.audio": str(voice.folder.parent / "corpus"), "data.labelled": ""}
    ).replaced({"data.test": str(voice.folder / "test.txt"), "pretrain.shared": str(tmp_path / "nowhere")})
    (tmp_path / "other").mkdir()
    settings.save(tmp_path / "other" / "voice.toml")
    other = Voice(tmp_path / "other", progress=False)
    assert other.units().output == voice.results.output("units") and not (tmp_path / "other" / "units").exists()
    with pytest.raises(
        ValueError, match=r"pretrain\.shared: it was not run before in .*nowhere: run `spear-tts pretrain"
    ):
        other.pretrain()
    Voice.open(voice.folder, {"units.fit_clips": 599}, progress=False)
    with pytest.raises(ValueError, match=r"units\.shared: units\.fit_clips was 600 and is 599 in .*voice: run"):
        other.units(again=True)
    Voice.open(voice.folder, {"units.fit_clips": 600}, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labelled": [1]}, "labelled=1 minutes asked for"),
        ({"labelled": [0]}, "labelled must be above 0, or"),
        ({"columns": "ax"}, "columns must be letters of abcdA"),
        ({"columns": ""}, "columns must be letters of abcdA"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_bad_input_is_named_before_any_work(voice, options, words):
    with pytest.raises(ValueError, match=words):
        make_table(voice, **{"labelled": ROWS, **options})


def test_a_voice_without_a_test_has_no_table(voice, tmp_path):
    settings = Settings.load(voice.folder / "voice.toml")
    settings.replaced({"data.test": "", "data.audio": str(voice.folder.parent / "corpus"), "data.labelled": ""}).save(
        tmp_path / "voice.toml"
    )
    with pytest.raises(ValueError, match="data.test names no clips to measure on.*--set data.test=FILE"):
        make_table(Voice(tmp_path, progress=False), ROWS)
    assert not (tmp_path / "table").exists()


def cell(labelled, minutes, seed, column, cer, best=None):
    figures = {"cer": cer, "interval": [cer - 1, cer + 2], "cer_best": best, "length_ratio": 1.0}
    return {"labelled": labelled, "minutes": minutes, "clips": 9, "seed": seed, "column": column, "figures": figures}


def test_seeds_are_averaged_and_a_single_one_has_its_interval():
    cells = [cell("15", 15.1, seed, "a", 40.0 + seed) for seed in (0, 2)]
    cells += [cell("5", 5.0, 0, "a", 60.0), cell("all", 90.0, 0, "A", 9.0)]
    (one,) = measures(cells, [{"floor": 2.0}, {"floor": 3.0}])
    assert [row["labelled"] for row in one["rows"]] == ["5", "15"] and one["floors"] == {"judge on true ids": 2.5}
    assert one["rows"][1]["columns"]["a"] == {"mean": 41.0, "seeds": 2, "std": pytest.approx(2**0.5, abs=1e-3)}
    assert one["rows"][0]["columns"]["a"] == {"mean": 60.0, "seeds": 1, "interval": [59.0, 62.0]}
    assert one["full"]["mean"] == 9.0 and shown_spread(one["full"]) == "9.0 [8.0, 11.0]"
    assert spread([{"cer": None}], "cer", "interval") == {"mean": None, "seeds": 0}


def test_each_judge_that_applies_is_shown_with_its_floors():
    one = cell("5", 5.0, 0, "d", 30.0)
    one["figures"] |= {"uer": 50.0, "resynthesis_cer": 20.0, "resynthesis_interval": [18.0, 22.0], "mcd": 6.5}
    floors = {"floor": 2.0, "resynthesis_floor": 8.0, "recording_floor": 6.6, "mcd_floor": 5.0}
    found = measures([one], [floors])
    assert [one["figure"] for one in found] == ["cer", "resynthesis_cer", "uer", "mcd"]
    assert found[1]["floors"] == {"recogniser on true ids": 8.0, "recogniser on recordings": 6.6}
    assert shown_spread(found[1]["rows"][0]["columns"]["d"]) == "20.0 [18.0, 22.0]" and found[2]["floors"] == {}
    assert shown_spread(found[3]["rows"][0]["columns"]["d"]) == "6.5"


def test_the_table_says_what_is_missing_and_lists_each_figure(tmp_path):
    cells = [cell("5", 5.0, 0, "d", 33.3, 22.2), cell("all", 9.0, 0, "d", 11.1, 8.8)]
    summary = {
        **{"voice": "v", "rows": 4, "done": 2, "test_clips": 7, "candidates": 4, "cells": cells},
        **{
            "measures": measures(cells, [{"floor": 1.5}]),
            "sounds": [{"text": "a | b", "files": {"d": "audio/1-d.wav"}}],
        },
    }
    text = markdown(summary)
    for words in (
        "2 of 4 rows",
        "33.3 [32.3, 35.3]",
        "| 5 min | 22.2 |",
        "best of 4",
        "floor, judge on true ids: 1.5",
        "audio/1-d.wav",
    ):
        assert words in text, words
    assert text.count("| 5 min |") == 2 and "| a b |" in text
    write_table(summary, tmp_path)
    assert (tmp_path / "table.png").stat().st_size > 1000
    assert json.loads((tmp_path / "table.json").read_text())["cells"] == cells
