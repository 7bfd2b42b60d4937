"""The table as text and picture: means and spreads over seeds, floors, sounds.

In: cells (the figures of a column with so many labelled minutes and a seed) and what was measured on true speech. Out:
`table.json`, `table.md` and `table.png`.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spear_tts_pytorch.recipe.columns import in_order
from spear_tts_pytorch.recipe.settings import COLUMNS
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.plots import Curve, plot_curves

FULL = "A"  # the column that does not depend on labelled minutes
JSON, MARKDOWN, PICTURE = "table.json", "table.md", "table.png"
BY_JUDGE = {"floor": "judge on true ids"}
BY_RECOGNISER = {"resynthesis_floor": "recogniser on true ids", "recording_floor": "recogniser on recordings"}
# Of each measure: the figure of a column, its interval, a title; and its floors, by the figures of a voice that hold them.
MEASURES: tuple[tuple[str, str, str, Mapping[str, str]], ...] = (
    ("cer", "interval", "Character error rate by the judge, greedy (%)", BY_JUDGE),
    ("cer_best", "best_interval", "Character error rate by the judge, best of {candidates} samples (%)", BY_JUDGE),
    ("resynthesis_cer", "resynthesis_interval", "Character error rate by the recogniser, greedy (%)", BY_RECOGNISER),
    (
        "resynthesis_cer_best",
        "resynthesis_interval_best",
        "Character error rate by the recogniser, best of {candidates} samples (%)",
        BY_RECOGNISER,
    ),
    ("uer", "uer_interval", "Unit error rate, greedy (%)", {}),
    ("mcd", "", "Mel-cepstral distortion, greedy (dB)", {"mcd_floor": "true ids"}),
)


def measures(cells: Sequence[Mapping[str, Any]], voices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The measures that were taken, each with its rows.

    Args:
        cells: of all rows that are made: "labelled", "minutes", "clips", "seed", "column" and "figures", those of a `Column`.
        voices: figures of the stage `evaluate` of each row's voice.

    Returns:
        For each measure: its "figure" and "title", the mean "floors" by name, "rows" by labelled minutes, of which each has a
        `spread` for each column, and "full", the spread of column A.
    """
    found: list[dict[str, Any]] = []
    for figure, interval, title, names in MEASURES:
        if all(cell["figures"].get(figure) is None for cell in cells):
            continue
        floors = {words: [one[name] for one in voices if one.get(name) is not None] for name, words in names.items()}
        rows: dict[str, dict[str, Any]] = {}
        for cell in cells:
            row = rows.setdefault(cell["labelled"], {"labelled": cell["labelled"], "minutes": [], "columns": {}})
            row["minutes"].append(cell["minutes"])
            row["columns"].setdefault(cell["column"], []).append(cell["figures"])
        for row in rows.values():
            row["minutes"] = round(statistics.mean(row["minutes"]), 2)
            row["columns"] = {name: spread(some, figure, interval) for name, some in row["columns"].items()}
        ordered = sorted(rows.values(), key=lambda row: row["minutes"])
        full = [row["columns"].pop(FULL) for row in ordered if FULL in row["columns"]]
        found.append(
            {
                "figure": figure,
                "title": title,
                "floors": {words: round(statistics.mean(some), 2) for words, some in floors.items() if some},
                "rows": [row for row in ordered if row["columns"]],
                "full": full[-1] if full else None,
            }
        )
    return found


def spread(figures: Sequence[Mapping[str, Any]], name: str, interval: str) -> dict[str, Any]:
    """Mean and standard deviation of a figure over seeds; of a single one its bootstrap interval, if it has one.

    Returns:
        "mean", "seeds", and "std" (of a sample) or "interval", or neither.
    """
    values = [one[name] for one in figures if one.get(name) is not None]
    if not values:
        return {"mean": None, "seeds": 0}
    made: dict[str, Any] = {"mean": round(statistics.mean(values), 3), "seeds": len(values)}
    if len(values) > 1:
        made["std"] = round(statistics.stdev(values), 3)
    elif figures[0].get(interval):
        made["interval"] = [round(bound, 3) for bound in figures[0][interval]]
    return made


def write_table(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes the files of the table."""
    write_whole(folder / JSON, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    write_whole(folder / MARKDOWN, markdown(summary).encode())
    if summary["measures"] and importlib.util.find_spec("matplotlib"):
        panels = {_title(one, summary): (_curves(one), _lines(one)) for one in summary["measures"]}
        plot_curves(panels, folder / PICTURE, title=summary["voice"], xlabel="labelled minutes", ylabel="error")


def markdown(summary: Mapping[str, Any]) -> str:
    """The contents of table.md."""
    lines = [f"# {summary['voice']}: errors by labelled minutes", ""]
    if summary["done"] < summary["rows"]:
        lines += [f"**{summary['done']} of {summary['rows']} rows are made: run the command again to go on.**", ""]
    lines += [
        f"On {summary['test_clips']} test texts, which no model was trained on. Mean and standard deviation over "
        "seeds, which draw the labelled clips, too; of a single seed the 95 % bootstrap interval over test texts. Each row "
        "is a voice in the folder of its name, such as `15-0` for 15 minutes and seed 0.",
        "",
    ]
    for one in summary["measures"]:
        lines += [f"## {_title(one, summary)}", "", *_rows(one), ""]
    if summary["measures"]:
        lines += [f"![errors by labelled minutes]({PICTURE})", ""]
    return "\n".join(lines + _sounds(summary["sounds"]))


def _title(one: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    return one["title"].format(candidates=summary["candidates"])


def _rows(one: Mapping[str, Any]) -> list[str]:
    names = in_order({name for row in one["rows"] for name in row["columns"]})
    lines: list[str] = []
    if names:
        lines += ["| labelled | " + " | ".join(f"({name}) {COLUMNS[name]}" for name in names) + " |"]
        lines += ["|---" * (1 + len(names)) + "|"]
        for row in one["rows"]:
            label = f"all ({row['minutes']:.3g} min)" if row["labelled"] == "all" else f"{row['labelled']} min"
            lines.append(f"| {label} | " + " | ".join(shown_spread(row["columns"].get(name)) for name in names) + " |")
        lines.append("")
    if one["full"] is not None:
        words = "all texts but the test's, no pretraining, as many updates as (d)"
        lines.append(f"- ({FULL}) {COLUMNS[FULL]}: {shown_spread(one['full'])}. {words.capitalize()}.")
    return [*lines, *(f"- floor, {words}: {value:.1f}" for words, value in one["floors"].items())]


def shown_spread(found: Mapping[str, Any] | None) -> str:
    """A spread in a few characters: "12.3 ± 0.4", "12.3 [11.0, 13.5]" or "12.3"."""
    if found is None or found["mean"] is None:
        return ""
    mean = f"{found['mean']:.1f}"
    if "std" in found:
        return f"{mean} ± {found['std']:.1f}"
    return mean if "interval" not in found else "{} [{:.1f}, {:.1f}]".format(mean, *found["interval"])


def _bounds(found: Mapping[str, Any]) -> tuple[float, float]:
    mean, std = found["mean"], found.get("std", 0.0)
    low, high = found.get("interval", (max(0.0, mean - std), mean + std))
    return low, high


def _curves(one: Mapping[str, Any]) -> dict[str, Curve]:
    """Points (minutes, mean, low, high) of each column."""
    curves: dict[str, Curve] = {}
    for name in in_order({name for row in one["rows"] for name in row["columns"]}):
        cells = [(row["minutes"], row["columns"][name]) for row in one["rows"] if name in row["columns"]]
        points = [(minutes, cell["mean"], *_bounds(cell)) for minutes, cell in cells if cell["mean"] is not None]
        curves[f"({name}) {COLUMNS[name]}"] = points
    return curves


def _lines(one: Mapping[str, Any]) -> dict[str, float]:
    """The levels that do not depend on minutes."""
    lines: dict[str, float] = {}
    if one["full"] is not None and one["full"]["mean"] is not None:
        lines[f"({FULL}) {COLUMNS[FULL]}"] = one["full"]["mean"]
    return lines | {f"floor, {words}": value for words, value in one["floors"].items()}


def _sounds(sounds: Sequence[Mapping[str, Any]]) -> list[str]:
    if not sounds:
        return []
    names = list(sounds[0]["files"])
    lines = ["## Sounds", "", "| text | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for one in sounds:
        cells = [f"[{name}]({one['files'][name]})" if one["files"].get(name) else "" for name in names]
        lines.append(f"| {' '.join(one['text'].replace('|', ' ').split())} | " + " | ".join(cells) + " |")
    return [*lines, ""]
