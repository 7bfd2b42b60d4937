"""Stage 6: a judge reads what the models of the columns say.

In: `Results` of the earlier stages. Out: the figures of each column, and the judge's own errors on true ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spear_tts_pytorch.recipe.columns import column, column_history, in_order, known_ids, measured_ids
from spear_tts_pytorch.recipe.judge import judge_causes, judge_of
from spear_tts_pytorch.recipe.measure import Interval, floor, shown_rate
from spear_tts_pytorch.recipe.records import Made, digest, write_history
from spear_tts_pytorch.recipe.results import Results

OF_THE_JUDGE = ("judge", "judge_steps", "judge_patience", "judge_width")  # settings that `judge_causes` has


def evaluate_causes(results: Results) -> dict[str, Any]:
    """What the stage depends on."""
    options = results.settings.section("evaluate")
    return {
        "train": results.output("train"),
        "backtranslate": results.output("backtranslate"),
        "training": results.training_options(),
        "evaluate": {key: value for key, value in options.items() if key not in OF_THE_JUDGE},
        "judge": judge_causes(results),
        "clips to measure on": digest(results.keys(measured_ids(results), texts=True)),
        "clips": digest(results.keys(known_ids(results), texts=True)),
    }


def evaluate(results: Results) -> Made:
    """Measures the columns.

    Raises:
        ValueError: there are no clips to measure on.
    """
    test, judge = results.rows(measured_ids(results)), judge_of(results)
    history = {"judge": [dict(one) for one in judge.curve]}
    columns: dict[str, Mapping[str, Any]] = {}
    for name in in_order(results.settings.evaluate.columns):
        columns[name] = column(results, name, judge.network, judge.fingerprint).figures
        history |= column_history(results, name)
    write_history(results.place("evaluate"), history)
    least, interval = floor(judge.network, results.characters, test)
    figures = {
        "columns": columns,
        "floor": least,
        "floor_interval": interval,
        "split": results.settings.evaluate.split,
        "judge": dict(judge.figures),
        "test_clips": len(test),
    }
    figures = json.loads(json.dumps(figures))
    return Made(digest([json.dumps(figures, sort_keys=True)]), figures, _says(results, columns, least, interval))


def _says(results: Results, columns: Mapping[str, Mapping[str, Any]], least: float, interval: Interval) -> str:
    """The key figures in a line."""
    cells = ", ".join(f"({name}) {shown_rate(one['cer'], one['interval'])}" for name, one in columns.items())
    name, options = "d" if "d" in columns else list(columns)[-1], results.settings.evaluate
    chosen = columns[name]
    if chosen["cer_best"] is not None:
        cells += f", best of {options.candidates} {shown_rate(chosen['cer_best'], chosen['best_interval'])}"
    units = f"unit error rate of ({name}) {shown_rate(chosen['uer'], chosen['uer_interval'])}"
    where = "" if options.split == "test" else "on development clips: "
    return f"{where}character error rate {cells}; {shown_rate(least, interval)} of true speech; {units}"
