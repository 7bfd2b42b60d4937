"""Columns of the table in a voice: each is trained and measured once, and again only if its own causes change."""

import pytest
import voices

from spear_tts_pytorch.cli.arguments import COLUMNS as LETTERS
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe import COLUMNS, Voice
from spear_tts_pytorch.recipe.columns import in_order, place_of
from spear_tts_pytorch.recipe.records import RECORD, RUN


def test_the_shell_has_all_letters_in_the_order_of_the_table():
    assert tuple(LETTERS) == tuple(COLUMNS) and "".join(in_order("Adcba")) == LETTERS


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("columns")
    corpus = voices.corpus(place / "corpus")
    return Voice.new(place / "voice", corpus, test=3, labelled=5, changes=voices.TINY, progress=False).run()


def made(voice) -> dict[str, tuple[int, int]]:
    """When the model of each column and its measures were written."""
    records = {name: place_of(voice.results, name) for name in COLUMNS if place_of(voice.results, name).is_dir()}
    return {
        name: tuple(
            path.stat().st_mtime_ns if path.is_file() else 0 for path in (at / RECORD, at / "measured" / RECORD)
        )
        for name, at in records.items()
    }


def columns(voice, **changes):
    """The figures of the columns after a run with changed settings."""
    changes = {f"evaluate.{name}": value for name, value in changes.items()}
    voice = Voice.open(voice.folder, changes, progress=False)
    return voice.evaluate().figures["columns"]


@pytest.mark.slow
def test_a_further_column_leaves_the_others_as_they_are(voice):
    few = columns(voice, columns="ad")
    before = made(voice)
    assert list(few) == ["a", "d"] and list(before) == ["a", "d"]
    more = columns(voice, columns="Acd")
    assert list(more) == ["c", "d", "A"] and more["d"] == few["d"]
    assert {name: made(voice)[name] for name in "ad"} == before
    again = made(voice)
    columns(voice, columns="abcdA", scratch_steps=4)  # concerns a and b alone
    after = made(voice)
    assert {name for name in again if again[name] != after[name]} == {"a"} and "b" in after
    columns(voice, candidates=3)  # concerns what is measured, but no training
    assert all(made(voice)[name][0] == after[name][0] for name in after)
    assert all(made(voice)[name][1] > after[name][1] for name in after)
    assert columns(voice, columns="ad", candidates=2, scratch_steps=3) == few


@pytest.mark.slow
def test_full_supervision_learns_from_all_known_texts_but_the_tests(voice):
    columns(voice, columns="A")
    place = place_of(voice.results, "A")
    model = TextToSemantic.from_pretrained(place / "model")
    known = [id_ for id_ in voice.results.clips.every if voice.results.clips.text(id_)]
    rows = voice.results.rows(id_ for id_ in known if id_ not in voice.results.clips.test)
    assert len(rows) == 11 and len(voice.results.labelled) == 5
    assert model.text_position_rate == pytest.approx(sum(map(len, rows.semantic)) / sum(map(len, rows.text)))
    assert list((place / RUN).iterdir()) == []  # checkpoints are removed
    before = made(voice)["A"]
    table = voice.folder.parent / "corpus" / "metadata.csv"
    unlabelled = next(id_ for id_ in rows.ids if id_ not in voice.results.clips.labelled)
    text = table.read_text()
    table.write_text(text.replace(f"{unlabelled}|", f"{unlabelled}|one "))
    try:
        voice_now = Voice(voice.folder, progress=False)
        voice_now.evaluate()
        assert made(voice)["A"][0] > before[0]
    finally:
        table.write_text(text)


@pytest.mark.slow
def test_evaluating_again_trains_the_columns_again(voice):
    columns(voice, columns="a")
    before = made(voice)["a"]
    found = Voice(voice.folder, progress=False).evaluate(again=True).figures
    assert made(voice)["a"][0] > before[0] and made(voice)["a"][1] > before[1]
    assert Voice(voice.folder, progress=False).evaluate().figures == found
