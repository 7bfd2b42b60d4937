"""The stage evaluate: clips to measure on are never trained on, and figures have intervals."""

import pytest
import voices

from spear_tts_pytorch.recipe import Voice, results
from spear_tts_pytorch.recipe.columns import known_ids
from spear_tts_pytorch.recipe.report import ON_DEVELOPMENT

LEAST = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A voice with development clips, measured on them."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    place = tmp_path_factory.mktemp("judging")
    changes = {**voices.TINY, "backtranslate.development": 0.3, "evaluate.split": "development"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "LEAST_FOR_DEVELOPMENT", LEAST)
        corpus = voices.corpus(place / "corpus")
        yield Voice.new(place / "voice", corpus, test=3, changes=changes, progress=False).run()


@pytest.mark.slow
def test_development_clips_are_never_trained_on(made):
    found = made.results
    development, test = set(found.development_ids), set(found.clips.test)
    assert len(development) == 3 and development < set(found.clips.labelled) and not development & test
    for trained in (found.labelled.ids, found.unlabelled.ids, known_ids(found)):
        assert trained and not development.intersection(trained) and not test.intersection(trained)


@pytest.mark.slow
def test_each_split_has_its_figures_and_says_which(made, monkeypatch, capsys):
    first = made.results.record("evaluate")
    assert (first.figures["split"], first.figures["test_clips"]) == ("development", 3)
    assert first.says.startswith("on development clips: character error rate (d) ")
    assert ON_DEVELOPMENT in (made.folder / "report.md").read_text()
    voice = Voice.open(made.folder, {"evaluate.split": "test"}, progress=False)
    second = voice.evaluate()
    assert second.figures["split"] == "test" and ON_DEVELOPMENT not in (made.folder / "report.md").read_text()
    assert first.causes["clips to measure on"] != second.causes["clips to measure on"]


@pytest.mark.slow
def test_every_rate_has_an_interval_around_it(made):
    figures = made.results.record("evaluate").figures
    (column,) = figures["columns"].values()
    rates = [(column["cer"], column["interval"]), (column["cer_best"], column["best_interval"])]
    rates += [(column["uer"], column["uer_interval"]), (figures["floor"], figures["floor_interval"])]
    for rate, (low, high) in rates:
        assert 0 <= low <= rate <= high and high > 0


@pytest.mark.slow
def test_few_labelled_clips_leave_none_for_development(made, monkeypatch):
    monkeypatch.setattr(results, "LEAST_FOR_DEVELOPMENT", 100)
    voice = Voice.open(made.folder, {"evaluate.split": "development"}, progress=False)
    with pytest.raises(ValueError, match="needs 100 labelled clips, here are 11.*--split test"):
        voice.evaluate()
    with pytest.raises(ValueError, match="needs 100 labelled clips"):
        voice.run()
