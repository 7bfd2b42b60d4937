"""The report's table and Markdown: all figures are there, and warnings with their remedies when figures mean little."""

from pathlib import Path

import pytest

from spear_tts_pytorch.recipe.page import page
from spear_tts_pytorch.recipe.report import (
    FEW_TESTS,
    _warnings,
    error_heads,
    error_rows,
    markdown,
    rising,
    table,
    warnings_until,
)

UNFINISHED = {"clips": 9, "valid_clips": 1, "steps": 300, "best_step": 300, "valid_error": 9.0, "converged": False}


def summary(labels=7.3, tests=100, ratio=1.1, **changes):
    made = {
        "voice": "digits",
        "library_version": "1.2.3",
        "torch_version": "2.9",
        "seed": 4,
        "data": {
            "clips": 900,
            "minutes": 64.0,
            "labelled": 15,
            "labelled_minutes": 1.8,
            "test": tests,
            "unpaired": 0,
            "notes": ["1.8 labelled minutes are few"],
        },
        "stages": {
            "pretrain": {"says": "accuracy 61.5 %", "seconds": 31.6},
            "label": {"says": "a | b", "seconds": 2.4, "cer": labels},
        },
        "columns": {
            "a": {"cer": 41.25, "interval": [38.0, 44.0], "cer_best": None, "length_ratio": 1.0},
            "d": {
                "cer": 5.5,
                "interval": [4.25, 6.75],
                "cer_best": 3.0,
                "length_ratio": ratio,
                "best_interval": [2.0, 4.0],
                "uer": 31.25,
                "uer_interval": [30.0, 32.5],
            },
        },
        "floor": 1.2,
        "floor_interval": [0.8, 1.6],
        "split": "test",
        "judge": {
            "clips": 800,
            "valid_clips": 42,
            "steps": 260,
            "best_step": 240,
            "valid_error": 1.5,
            "converged": True,
        },
        "candidates": 4,
        "total_seconds": 34.0,
        "examples": [{"file": "audio/1.wav", "text": "one two", "read_back": "one too"}],
        "sounds": {"units": [], "labels": [{"files": ["audio/label-1.wav"], "text": "<b>one</b>"}]},
        "settings": {"units": {"clusters": 100}, "model": {"dropout": 0.1}},
        "rising": {},
        **changes,
    }
    return {**made, "warnings": list(_warnings(made))}


@pytest.mark.parametrize("write", [table, markdown])
def test_both_texts_have_every_figure(write):
    text = write(summary())
    rates = ("5.5 [4.2, 6.8]", "3.0 [2.0, 4.0]", "31.2 [30.0, 32.5]", "41.2 [38.0, 44.0]", "1.2 [0.8, 1.6]")
    for figure in ("digits", "15", "1.8 min", "100", "best of 4", *rates):
        assert figure in text, figure
    assert "development" not in text and "Measured on development clips" in write(summary(split="development"))
    assert "misreads" not in text and "mean little" not in text


def test_stages_and_examples_are_rows():
    text = markdown(summary())
    assert "| pretrain | accuracy 61.5 % | 32 |" in text and "| label | a \\| b | 2 |" in text
    assert "| [audio/1.wav](audio/1.wav) | one two | one too |" in text
    assert "pretrain 32" in table(summary())


def test_columns_are_aligned():
    rows = [line for line in table(summary()).splitlines() if line.startswith(("error rate", "(a)", "(d)", "floor"))]
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tests": FEW_TESTS - 1}, [f"only {FEW_TESTS - 1} test texts"]),
        ({"floor": 40.0}, ["misreads 40 %", "apart; more speech"]),
        ({"floor": 40.0, "judge": UNFINISHED}, ["misreads 40 %", "--set evaluate.judge_steps=600", "more speech"]),
        ({"labels": 90.0}, ["90 % of the characters of labels", "--unpaired-text"]),
        (
            {"rising": {"train.steps": {"name": "text to speech", "lowest": 2.5, "step": 160, "last": 2.75}}},
            ["text to speech: the validation loss rose from 2.50 at step 160 to 2.75", "train.steps=160", "dropout"],
        ),
        ({"ratio": 0.4}, ["(d) says 0.40 times", "more training steps"]),
    ],
)
def test_figures_that_mean_little_are_marked_with_a_remedy(changes, words):
    assert summary()["warnings"] == []
    (warning,) = summary(**changes)["warnings"]
    assert all(word in warning for word in words)
    assert warning in table(summary(**changes)) and warning in markdown(summary(**changes))


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([3.0, 2.0, 2.5, 2.4, 2.2], 40),
        ([3.0, 2.0, 2.5, 2.4, 2.05], None),  # it came back
        ([3.0, 2.9, 2.8, 2.7, 2.6], None),
        ([2.0, 3.0], None),  # too few to tell
        ([2.0, None, 3.0], None),
        ([0.010, 0.011, 0.014], None),  # next to nothing
        ([2.0, 2.1, 2.2], 20),
    ],
)
def test_a_validation_loss_that_ends_above_its_lowest_is_found(losses, step):
    records = [{"step": 20 * (place + 1), "valid_loss": loss} for place, loss in enumerate(losses)]
    records.insert(1, {"step": 25, "loss": 9.0})
    found = rising({"text to speech": records, "judge": [{"step": 1, "loss": 3.0}], "(a)": records})
    assert {name: one["step"] for name, one in found.items()} == ({} if step is None else {"train.steps": step})


@pytest.mark.parametrize(("dropout", "advised"), [(0.1, True), (0.2, False), (0.3, False)])
def test_dropout_is_advised_where_there_is_little(dropout, advised):
    rise = {"train.steps": {"name": "", "lowest": 2.0, "step": 1, "last": 3.0}}
    (warning,) = summary(rising=rise, settings={"model": {"dropout": dropout}})["warnings"]
    assert ("--set model.dropout=0.2" in warning) == advised and "--set train.steps=1" in warning


def test_a_stage_is_not_warned_of_what_later_ones_had():
    rise = {"name": "", "lowest": 2.0, "step": 1, "last": 3.0}
    made = summary(labels=90.0, tests=3, ratio=0.4, floor=40.0, rising={"pretrain.steps": rise, "train.steps": rise})
    counts = {stage: len(warnings_until(made, stage)) for stage in ("units", "pretrain", "label", "train", "evaluate")}
    assert counts == {"units": 0, "pretrain": 1, "label": 2, "train": 3, "evaluate": 6}
    assert len(made["warnings"]) == 6


def test_of_several_rounds_the_last_counts():
    up, down = ([{"step": step, "valid_loss": loss} for step, loss in enumerate(row)] for row in ([2, 3, 4], [4, 3, 2]))
    assert rising({"backtranslator": up, "backtranslator, round 1": down}) == {}
    (one,) = rising({"backtranslator": down, "backtranslator, round 1": up}).values()
    assert one == {"name": "backtranslator, round 1", "lowest": 2, "step": 0, "last": 4}


def test_a_voice_without_an_evaluation_has_a_report():
    text = markdown(summary(columns={}, floor=None, examples=[]))
    assert "best of" not in text and "audio/" not in text and "losses.png" in text
    assert "best of" not in table(summary(columns={}, floor=None))


def test_the_page_is_one_file_with_its_sounds_and_figures(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "1.wav").write_bytes(b"RIFF said")
    (tmp_path / "losses.png").write_bytes(b"PNG drawn")
    made = summary()
    text = page(made, error_heads(made), error_rows(made), tmp_path)
    for figure in (
        "digits",
        "5.5 [4.2, 6.8]",
        "31.2 [30.0, 32.5]",
        "accuracy 61.5 %",
        "one too",
        "clusters = 100",
        *made["warnings"],
    ):
        assert figure in text, figure
    assert text.count("<audio") == 1 and "UklGRiBzYWlk" in text and "UE5HIGRyYXdu" in text
    assert "&lt;b&gt;one&lt;/b&gt;" in text and "<b>one" not in text
    assert 'src="audio' not in text and "http" not in text
    assert "Error rates" not in page(summary(columns={}, floor=None, examples=[]), [], [], Path("none"))
