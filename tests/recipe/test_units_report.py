"""The report of units: figures of the voice and of combinations, kept one by one; bad input before any work."""

import json

import pytest
import voices

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.recipe import Voice, units_report
from spear_tts_pytorch.recipe.records import RECORD


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("units")
    corpus = voices.corpus(place / "corpus")
    return Voice.new(place / "voice", corpus, test=3, changes=voices.TINY, progress=False)


def times(voice) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (voice.folder / "units" / "report").rglob(RECORD)}


@pytest.mark.slow
def test_combinations_are_measured_once_and_the_best_is_named(voice, monkeypatch, capsys):
    monkeypatch.setattr(units_report, "STEPS", 3)
    first = Voice(voice.folder, progress=False).units_report(clusters=[8])
    before = times(voice)
    assert set(before) == {"characters", "own", "8-clusters"} and first["advice"] == "--set units.clusters=8"
    assert main(["units", str(voice.folder), "--clusters", "8,16,8", "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert {name: times(voice)[name] for name in before} == before
    made = json.loads((voice.folder / "units" / "report.json").read_text())
    assert [row["name"] for row in made["units"]] == ["this voice", "8 clusters", "16 clusters"]
    assert made["units"][:2] == first["units"] and made["units"][2]["ids"] == 16
    own = made["units"][0]
    assert own["ids"] == 24 and sum(own["runs"]) > 100 and 0 < own["pnmi"] <= 1 and own["reader_cer"] > 0
    best = min(made["units"][1:], key=lambda row: (row["reader_cer"], row["ids"]))
    assert made["advice"] == f"--set units.clusters={best['ids']}" and f"combinations: {made['advice']}\n" in printed
    page = (voice.folder / "units" / "report.md").read_text()
    assert "| 16 clusters | 16 |" in page and "clips with characters" in page
    assert (voice.folder / "units" / "run_lengths.png").stat().st_size > 1000
    assert (made["reader"]["train_clips"], made["reader"]["test_clips"]) == (8, 3)
    assert not any(Voice(voice.folder, progress=False).status()["units"])  # the report is no change of the stage


@pytest.mark.slow
def test_bad_input_is_one_line(voice, capsys):
    voice.units()
    for options, words in (
        (["--layers", "2"], "layers are those of an encoder, and units.encoder is ''"),
        (["--clusters", "0"], "'0' is not whole numbers >= 1"),
        (["--clusters", "1"], "clusters must be at least 2, got 1"),
        (["--clusters", "8,,9"], "'8,,9' is not whole numbers"),
        (["--alignments", str(voice.folder / "nowhere")], "alignments: there is no folder"),
    ):
        assert main(["units", str(voice.folder), *options, "--no-progress"]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_of_equals_fewer_clusters_are_advised(voice):
    settings = [voice.settings.replaced({"units.clusters": number}) for number in (500, 100, 200)]
    rows = [{"reader_cer": 1.0}, *({"reader_cer": cer} for cer in (20.0, 20.0, 30.0))]
    assert units_report.best_of(rows, settings) == "--set units.clusters=100"
    layered = [one.replaced({"units.encoder": "x", "units.layer": place}) for place, one in enumerate(settings, 1)]
    assert units_report.best_of(rows, layered) == "--set units.layer=2 --set units.clusters=100"
    assert units_report.best_of(rows[:1], []) == ""
