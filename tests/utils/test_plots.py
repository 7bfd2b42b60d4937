"""Figures: files that can be read, one mark per number, errors that name the remedy, pyplot left alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from spear_tts_pytorch.utils import plots  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written, for a look at what they hold."""
    seen = []
    write = plots._write
    monkeypatch.setattr(plots, "_write", lambda figure, path: (seen.append(figure), write(figure, path))[1])
    return seen


def pixels(path):
    return matplotlib.image.imread(path)


def test_losses_draws_each_finite_value(figures, tmp_path):
    train = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 2.0}, {"step": 3, "loss": float("nan")}]
    valid = [{"step": 1, "valid_loss": 1.5}, {"step": 4, "loss": None, "valid_loss": 1.2}]
    path = plots.plot_losses({"pretrain": train, "final": train + valid, "empty": []}, tmp_path / "new" / "losses.png")
    (axes,) = figures[0].axes
    lines = {line.get_label(): np.array(line.get_xydata()).tolist() for line in axes.lines}
    assert lines == {
        "pretrain": [[1, 2.0], [2, 1.0]],
        "final": [[1, 2.0], [2, 1.0]],
        "final, validation": [[1, 1.5], [4, 1.2]],
    }
    assert axes.get_xlabel() and axes.get_ylabel()
    image = pixels(path)
    assert image.shape[0] > 300 and image.std() > 0.01


def test_losses_without_values_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finite loss.*pretrain"):
        plots.plot_losses({"pretrain": [{"step": 0, "loss": float("inf")}]}, tmp_path / "losses.png")
    assert not list(tmp_path.iterdir())


def test_records_make_a_panel_each_for_what_there_is(figures, tmp_path):
    train = [{"step": 2, "loss": 1.0, "lr": 0.1}, {"step": 1, "loss": float("nan"), "lr": 0.2}]
    valid = [{"step": 2, "valid_loss": 1.5, "valid_accuracy": 0.4, "best": True}]
    path = plots.plot_records(train + valid, tmp_path / "curves.png", "a stage, step 2")
    found = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in figures[0].axes]
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss (nats per token)", "accuracy", "learning rate"]
    assert found[0] == {"loss": [[2, 1.0]], "validation loss": [[2, 1.5]]}
    assert found[1] == {"validation accuracy": [[2, 0.4]]}
    assert found[2] == {"lr": [[1, 0.2], [2, 0.1]]}
    assert figures[0].axes[0].get_title() == "a stage, step 2" and pixels(path).std() > 0.01
    plots.plot_records(train[:1], tmp_path / "curves.png")
    assert len(figures[1].axes) == 2


def test_records_without_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no finite loss"):
        plots.plot_records([{"step": 1, "loss": None}], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_alignment_keeps_orientation_and_labels(figures, tmp_path):
    attention = np.zeros((7, 3))
    attention[6, 0] = 1.0
    path = plots.plot_alignment(
        attention, ["a", " ", "b"], tmp_path / "alignment.png", "one utterance", "here", "there"
    )
    axes = figures[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("here", "there")
    assert np.array_equal(axes.images[0].get_array(), attention)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "␣", "b"]
    assert axes.get_title() == "one utterance"
    assert axes.images[0].origin == "lower"
    # The bright cell is the last target of the first source: upper left of the picture.
    image = pixels(path)[:, : 3 * 1500 // 4, :3]
    yellow = (image[..., 0] > 0.9) & (image[..., 2] > 0.6) & (image[..., 2] < 0.85)
    rows, columns = np.nonzero(yellow)
    assert len(rows) > 100 and rows.mean() < image.shape[0] / 2


@pytest.mark.parametrize(
    ("attention", "labels", "message"),
    [
        (np.zeros(3), list("abc"), r"shape \(3,\)"),
        (np.zeros((0, 3)), list("abc"), r"shape \(0, 3\)"),
        (np.zeros((2, 3)), list("ab"), "2 labels for 3"),
        (np.array([[0.0, np.nan]]), list("ab"), "NaN"),
    ],
)
def test_alignment_refuses(attention, labels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.plot_alignment(attention, labels, tmp_path / "alignment.png")


def test_error_rates_one_bar_each(figures, tmp_path):
    path = plots.plot_error_rates({"(a)": 63.0, "(d)": float("nan"), "floor": 0.0}, tmp_path / "cer.png")
    (axes,) = figures[0].axes
    assert [patch.get_height() for patch in axes.patches] == [63.0, 0.0, 0.0]
    assert [text.get_text() for text in axes.texts] == ["63.0 %", "not measured", "0.0 %"]
    assert axes.get_ylim()[1] > 63.0
    assert pixels(path).std() > 0.01


@pytest.mark.parametrize("columns", [{}, {"(a)": -1.0}, {"(a)": float("inf")}])
def test_error_rates_refuses(columns, tmp_path):
    with pytest.raises(ValueError, match="columns"):
        plots.plot_error_rates(columns, tmp_path / "cer.png")


def test_pyplot_and_its_backend_stay_untouched(tmp_path):
    code = (
        "import sys, matplotlib\n"
        "matplotlib.use('svg')\n"
        "from spear_tts_pytorch.utils.plots import plot_error_rates\n"
        f"plot_error_rates({{'(a)': 1.0}}, {str(tmp_path / 'cer.png')!r})\n"
        "print(matplotlib.get_backend(), 'matplotlib.pyplot' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["svg", "False"]


def test_missing_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"spear-tts-pytorch\[plots\]"):
        plots.plot_error_rates({"(a)": 1.0}, tmp_path / "cer.png")
