"""The demo's printed table and report: all figures are there, and warnings when figures mean little."""

from spear_tts_pytorch.recipe.report import FEW_TESTS, markdown, table


def summary(**changes):
    return {
        "summary": "(a) 40.0 % (d) 3.0 % floor 1.2 % CER, 15 labelled, 9 s",
        "corpus": "digits",
        "labelled": 15,
        "seed": 4,
        "library_version": "1.2.3",
        "torch_version": "2.9",
        "columns": {
            "a": {"cer": 41.25, "interval": [38.0, 44.0], "cer_best": None, "length_ratio": 1.0},
            "d": {"cer": 5.5, "interval": [4.25, 6.75], "cer_best": 3.0, "length_ratio": 1.1},
        },
        "floor": 1.2,
        "floor_too_high": False,
        "pseudo_label_cer": 7.3,
        "minutes": {"unlabelled": 60.2, "labelled": 1.8, "test": 2.0},
        "test_utterances": 100,
        "seconds": {"corpus": 2.4, "pretraining": 31.6},
        "total_seconds": 34.0,
        "sound": {
            "examples": [{"file": "audio/1.wav", "text": "one two", "read_back": "one too"}],
            "cer_of_wavs_said": 4.4,
            "cer_of_wavs_true": 2.2,
        },
        "config": {"candidates": 4},
        **changes,
    }


def test_both_texts_have_every_figure():
    for text in (table(summary()), markdown(summary())):
        for figure in (
            "digits",
            "15 labelled",
            "best of 4",
            "5.5 [4.2, 6.8]",
            "3.0",
            "41.2",
            "1.2",
            "7.3",
            "4.4",
            "2.2",
        ):
            assert figure in text, figure
        assert "misreads" not in text and "mean little" not in text
    assert "pretraining 32" in table(summary()) and "| pretraining | 32 |" in markdown(summary())
    assert "| [audio/1.wav](audio/1.wav) | one two | one too |" in markdown(summary())


def test_columns_are_aligned():
    rows = [
        line for line in table(summary()).splitlines() if line.startswith(("character error", "(a)", "(d)", "floor"))
    ]
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1


def test_figures_that_mean_little_are_marked():
    few = table(summary(test_utterances=FEW_TESTS - 1))
    assert f"Only {FEW_TESTS - 1} test texts" in few
    for text in (table(summary(floor=40.0, floor_too_high=True)), markdown(summary(floor=40.0, floor_too_high=True))):
        assert "misreads 40 %" in text


def test_without_pseudo_labels_there_is_no_figure_of_them():
    for text in (table(summary(pseudo_label_cer=None)), markdown(summary(pseudo_label_cer=None))):
        assert "seudo-label" not in text
