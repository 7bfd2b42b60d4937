# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# matplotlib leaves the arguments of `plot` and the elements of its containers without types
"""Figures: loss curves, cross-attention, error rates, curves with their spread, histograms.

In: numbers, and the path of a PNG to write. Out: that path. Each figure has its own Agg canvas, so a notebook's backend and
pyplot's state do not change. matplotlib is imported on first use (extra `plots`).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spear_tts_pytorch.utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2f6690", "#d1603d", "#4a8c5c", "#8a5a9e", "#b5891f", "#5c6b73")
LINES = ("-", "--", ":")
INK, GRID = "#333333", "#dddddd"
BINS = 60
Curve = Sequence[tuple[float, float, float, float]]
"""Points: x, y, and the low and high end of y."""


def plot_losses(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Draws training loss (thin line) and validation loss (thick line with points) of several stages over their steps.

    Args:
        histories: maps each stage's name to rows with the key `step` and `loss`, `valid_loss` or both. Values that are
            absent, None or not finite are left out. Rows may come in any order.
        path: PNG to write; missing folders are made.

    Returns: the path written.

    Raises:
        ValueError: no stage has a single finite loss.
        ImportError: matplotlib is not installed.
    """
    curves = {name: (_points(rows, "loss"), _points(rows, "valid_loss")) for name, rows in histories.items()}
    curves = {name: pair for name, pair in curves.items() if len(pair[0]) or len(pair[1])}
    if not curves:
        raise ValueError(f"histories hold no finite loss (stages: {list(histories)}); log a step before plotting")
    figure, axes = _figure(8.0, 4.5)
    for index, (name, (train, valid)) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        style = LINES[index // len(COLORS) % len(LINES)]
        if len(train):
            alpha = 0.55 if len(valid) else 1.0
            axes.plot(*train.T, color=color, linestyle=style, linewidth=1.2, alpha=alpha, label=name)
        if len(valid):
            label = f"{name}, validation"
            axes.plot(*valid.T, color=color, linewidth=2.0, marker="o", markersize=3.5, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="Losses by stage")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)
    return _write(figure, path)


def plot_records(records: Sequence[Mapping[str, Any]], path: str | Path, title: str = "Training") -> Path:
    """Draws the records of one run over its steps: losses, accuracies and learning rate, as far as there are any.

    Args:
        records: rows with `step`, and any of `loss`, `valid_loss`, `lr` and keys that end in `accuracy`; values that
            are absent, None or not finite are left out. Rows may come in any order.
        path: PNG to write; missing folders are made.
        title: title above the panels.

    Returns: the path written.

    Raises:
        ValueError: there is nothing to draw.
        ImportError: matplotlib is not installed.
    """
    accuracies = sorted({key for row in records for key in row if key.endswith("accuracy")})
    panels = {"loss (nats per token)": ["loss", "valid_loss"], "accuracy": accuracies, "learning rate": ["lr"]}
    curves = {name: {key: _points(records, key) for key in keys} for name, keys in panels.items()}
    curves = {name: panel for name, panel in curves.items() if any(map(len, panel.values()))}
    if not curves:
        raise ValueError("records hold no finite loss, accuracy or lr; log a step before plotting")
    figure, rows = _panels(8.0, 0.8 + 2.6 * len(curves), len(curves))
    for axes, (name, panel) in zip(rows, curves.items(), strict=True):
        for index, (key, points) in enumerate(panel.items()):
            if len(points):
                marker = None if key in ("loss", "lr") else "o"  # recorded too seldom for a plain line
                label = key.replace("valid_", "validation ").replace("_", " ")
                axes.plot(*points.T, color=COLORS[index], linewidth=1.5, marker=marker, markersize=3.5, label=label)
        axes.set(ylabel=name)
        axes.grid(True, color=GRID, linewidth=0.8)
        if len(panel) > 1:
            axes.legend(frameon=False, fontsize=9)
    rows[0].set(title=title)
    rows[-1].set(xlabel="step")
    return _write(figure, path)


def plot_alignment(
    attention: Any,
    source_labels: Sequence[str],
    path: str | Path,
    title: str = "Cross-attention",
    xlabel: str = "text position",
    ylabel: str = "semantic token",
) -> Path:
    """Draws how much each target position attends to each source position.

    Args:
        attention: weights `[target, source]`, an array or a tensor on the CPU, finite, >= 0.
        source_labels: one label for each source position, such as the characters of the text. A blank is shown as ␣.
        path: PNG to write; missing folders are made.
        title: title above the picture.
        xlabel, ylabel: names of source and target positions.

    Returns: the path written.

    Raises:
        ValueError: attention is not a non-empty finite matrix, or the number of labels is not its number of columns.
        ImportError: matplotlib is not installed.
    """
    weights = np.asarray(attention, dtype=np.float64)
    if weights.ndim != 2 or weights.size == 0:
        raise ValueError(f"attention has shape {weights.shape}; pass one [target, source] matrix, averaged over heads")
    if not np.isfinite(weights).all():
        raise ValueError("attention holds NaN or infinite weights; leave masked positions at 0")
    sources = weights.shape[1]
    if len(source_labels) != sources:
        raise ValueError(
            f"source_labels has {len(source_labels)} labels for {sources} source positions; pass one for each column"
        )
    figure, axes = _figure(min(14.0, max(5.0, 2.5 + 0.2 * sources)), 5.0)
    image = axes.imshow(weights, aspect="auto", origin="lower", cmap="magma", interpolation="nearest", vmin=0.0)
    labels = ["␣" if label.isspace() else label for label in source_labels]
    axes.set_xticks(range(sources), labels, fontsize=max(5, min(10, 400 // sources)))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    figure.colorbar(image, ax=axes, label="attention weight", fraction=0.046, pad=0.02)
    return _write(figure, path)


def plot_error_rates(
    columns: Mapping[str, float], path: str | Path, title: str = "Character error rate of generated speech tokens"
) -> Path:
    """Draws one bar for each error rate.

    Args:
        columns: maps labels to character error rates in percent. NaN is shown as "not measured".
        path: PNG to write; missing folders are made.
        title: title above the bars.

    Returns: the path written.

    Raises:
        ValueError: columns is empty, or a rate is negative or infinite.
        ImportError: matplotlib is not installed.
    """
    if not columns:
        raise ValueError("columns is empty; pass at least one label with its error rate in percent")
    for label, rate in columns.items():
        if rate < 0 or np.isinf(rate):
            raise ValueError(f"columns[{label!r}] is {rate}; error rates are finite percentages >= 0")
    rates = np.array(list(columns.values()), dtype=np.float64)
    figure, axes = _figure(max(4.5, 1.2 + 1.3 * len(columns)), 4.2)
    bars = axes.bar(range(len(rates)), np.nan_to_num(rates), width=0.6)
    for index, (bar, rate) in enumerate(zip(bars, rates, strict=True)):
        bar.set_color(COLORS[index % len(COLORS)])
        text = "not measured" if np.isnan(rate) else f"{rate:.1f} %"
        axes.annotate(
            text,
            (index, np.nan_to_num(rate)),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=INK,
        )
    axes.set_xticks(range(len(rates)), [textwrap.fill(label, 16) for label in columns], fontsize=9)
    axes.set_ylim(0, max(1.0, 1.15 * np.nan_to_num(rates).max()))
    axes.set(ylabel="CER (%), lower is better", title=title)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return _write(figure, path)


def plot_curves(
    panels: Mapping[str, tuple[Mapping[str, Curve], Mapping[str, float]]],
    path: str | Path,
    title: str,
    xlabel: str,
    ylabel: str,
) -> Path:
    """Draws curves over a logarithmic axis, with bars for their spread, and levels as dashed lines; a panel for each title.

    Args:
        panels: maps titles to the curves and the levels by label. All x are above 0.
        path: PNG to write; missing folders are made.
        title: title above the panels.
        xlabel, ylabel: names of the axes.

    Returns: the path written.

    Raises:
        ValueError: there is nothing to draw.
        ImportError: matplotlib is not installed.
    """
    if not any(curves or levels for curves, levels in panels.values()):
        raise ValueError("panels hold no curve and no level; measure something before plotting")
    figure, rows = _panels(8.0, 0.8 + 3.6 * len(panels), len(panels))
    for axes, (name, (curves, levels)) in zip(rows, panels.items(), strict=True):
        for index, (label, points) in enumerate(curves.items()):
            x, y, low, high = np.array(sorted(points), dtype=np.float64).reshape(-1, 4).T
            color = COLORS[index % len(COLORS)]
            axes.errorbar(x, y, (y - low, high - y), color=color, label=label, marker="o", markersize=4, capsize=3)
        for index, (label, level) in enumerate(levels.items()):
            axes.axhline(level, color=INK, linestyle=("--", ":", "-.")[index % 3], linewidth=1.2, label=label)
        axes.set(ylabel=ylabel, title=name, xscale="log")
        ticks = sorted({point[0] for points in curves.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.legend(frameon=False, fontsize=9)
    rows[-1].set(xlabel=xlabel)
    figure.suptitle(title)
    return _write(figure, path)


def plot_histograms(columns: Mapping[str, Any], path: str | Path, title: str = "Pairs") -> Path:
    """Draws a histogram of each column of numbers, one above the other.

    Args:
        columns: maps names to numbers. Numbers that are not finite are left out, and columns without a finite number too.
        path: PNG to write; missing folders are made.
        title: title above the histograms.

    Returns: the path written.

    Raises:
        ValueError: there is nothing to draw.
        ImportError: matplotlib is not installed.
    """
    drawn = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    drawn = {name: values[np.isfinite(values)] for name, values in drawn.items()}
    drawn = {name: values for name, values in drawn.items() if len(values)}
    if not drawn:
        raise ValueError("columns hold no finite number; write some pairs before plotting")
    figure, panels = _panels(8.0, 0.8 + 1.9 * len(drawn), len(drawn), sharex=False)
    for axes, (name, values) in zip(panels, drawn.items(), strict=True):
        axes.hist(values, bins=BINS, color=COLORS[0])
        axes.axvline(float(np.median(values)), color=COLORS[1], linewidth=1.5, label=f"median {np.median(values):.3g}")
        axes.set(xlabel=name, ylabel="count")
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    panels[0].set(title=title)
    return _write(figure, path)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    """The finite values of `key` as points (step, value), sorted, `[points, 2]`."""
    points = [(row["step"], float(row[key])) for row in rows if row.get(key) is not None]
    points = sorted(point for point in points if np.isfinite(point[1]))
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = _panels(width, height, 1)
    return figure, axes


def _panels(width: float, height: float, rows: int, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of width x height inches with panels one above the other. It is not registered with pyplot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "spear-tts-pytorch[plots]"') from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, sharex=sharex, squeeze=False)[:, 0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _write(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_whole(path, drawn.getvalue())
    return path
